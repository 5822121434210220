"""Continue a clip of an image-to-video pipeline: the last frame is the image of the next chunk.

The pipeline makes the first frame of a chunk like its image. This frame repeats the last frame of
the chunk before and is left out of the clip.

The condition of a chunk has the picture itself (B, 3, H, W), in levels from 0 to 255. A row of the
pipeline's table, which its calls read, is made of the picture when it is needed.
"""

from __future__ import annotations

import hashlib
import inspect
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidrl.diffusion.segments import Span

from . import _components, _references
from ._runner import Row
from .base import FOLLOWS, Cond, Continuation, extended

IMAGE = "image"
PICTURE = "picture"
# The rows of continued chunks that the pipeline's table keeps, so that its encoders run once for
# the steps of a chunk. A row that was dropped is made again from the picture of the condition.
ROWS = 256


def check(model: object) -> None:
    """Raise ValueError for a folder or hub id of a pipeline whose call takes no image."""
    if not isinstance(model, (str, Path)):
        return
    name = _components.index(str(model)).get("_class_name")
    pipeline = getattr(_components.diffusers(), str(name), None)
    if pipeline is not None and IMAGE not in inspect.signature(pipeline.__call__).parameters:
        raise _takes_none(str(name))


def _takes_none(name: str) -> ValueError:
    """Return the error for a pipeline that cannot continue a clip."""
    return ValueError(
        f"expected a pipeline that continues a clip from an image, got {name}, which takes no "
        "image: use the image-to-video pipeline of the same family, such as "
        "WanImageToVideoPipeline"
    )


def _not_named(name: str) -> ValueError:
    """Return the error for a pipeline whose first chunks would be made without an image."""
    return ValueError(
        f"expected an image for the first chunk, because a chunk after an image has fewer latent "
        f"frames, got {name}, which works without an image: set "
        "backbone.options.options.call.image to the file of a picture; a prompt with an image of "
        "its own takes that image"
    )


class PictureContinuation(Continuation):
    """A continuation of a `Pipeline`: a chunk begins with the last frame of the one before."""

    def __init__(self, pipeline: Any, history: int):
        if IMAGE not in pipeline.runner.call_parameters:
            raise _takes_none(pipeline.runner.name)
        if IMAGE not in pipeline.needs and IMAGE not in pipeline.runner.call:
            raise _not_named(pipeline.runner.name)
        if history != 1:
            raise ValueError(
                f"expected history = 1, because {pipeline.runner.name} reads one image, got "
                f"{history}"
            )
        self.pipeline = pipeline
        self.rows = OrderedDict[tuple[int, bytes], int]()  # in the order of use
        # the first pixel frame of a following chunk is left out
        self.frame_map: list[Span] = [
            (max(0, start - 1), max(0, end - 1)) for start, end in pipeline.frame_map
        ]

    @torch.no_grad()
    def condition(self, cond: Cond, before: Tensor) -> Cond:
        """Return the last frames of the chunks before."""
        return {PICTURE: levels(self._decoded(before.to(self.pipeline.device), cond)[:, -1])}

    def absent(self, count: int) -> Cond:
        """Return black pictures, which no call reads."""
        height, width = self.pipeline.clip_shape[2:]
        return {PICTURE: torch.zeros(count, 3, height, width, dtype=torch.uint8)}

    def predict(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Return the pipeline's prediction under the picture."""
        raw: Tensor = self.pipeline.predict(x, t, self._rows(cond))
        return raw

    def decode(self, chunks: Sequence[Tensor], cond: Cond | None) -> Tensor:
        """Return the clips, each chunk decoded under its own picture."""
        dry = torch.full((len(chunks[0]),), self.pipeline.dry_row)
        under: Cond = {"row": dry} if cond is None else cond
        clips = [self._decoded(chunks[0], under)]
        for chunk in chunks[1:]:
            picture = levels(clips[-1][:, -1].detach())
            under = extended(under, {PICTURE: picture, FOLLOWS: torch.ones(len(chunk))})
            clips.append(self._decoded(chunk, under))
        return torch.cat([clips[0], *(clip[:, 1:] for clip in clips[1:])], 1)

    def _decoded(self, latents: Tensor, cond: Cond) -> Tensor:
        """Return the clips of chunks, each decoded alone.

        The decoder rounds otherwise in a batch, and the picture would depend on the other clips.
        """
        row = self._rows(cond)["row"]
        clips = [
            self.pipeline.decode_with(latents[i : i + 1], {"row": row[i : i + 1]})
            for i in range(len(row))
        ]
        return torch.cat(clips)

    def _rows(self, cond: Cond) -> Cond:
        """Return the pipeline's own condition: a row of its table for each chunk."""
        row = cond["row"].clone()
        if FOLLOWS in cond:
            pictures = cond[PICTURE].cpu()
            for i in cond[FOLLOWS].nonzero().flatten().tolist():
                row[i] = self._row(int(row[i]), pictures[i])
            self._drop(len(row))
        return {"row": row}

    def _row(self, prompt: int, picture: Tensor) -> int:
        """Return the row that has the prompt of another row, and a picture as its image."""
        table = self.pipeline.runner.table
        key = prompt, hashlib.sha256(picture.numpy().tobytes()).digest()
        if key not in self.rows:
            references = {**table[prompt].references, IMAGE: _references.image(picture / 255)}
            table.append(Row(table[prompt].prompt, references))
            self.rows[key] = len(table) - 1
        self.rows.move_to_end(key)
        return self.rows[key]

    def _drop(self, used: int) -> None:
        """Drop the rows that were used longest ago, but none of the last `used` ones."""
        while len(self.rows) > max(ROWS, used):
            _, old = self.rows.popitem(last=False)
            # the numbers of the other rows must stay; no key leads to this one any more
            self.pipeline.runner.table[old] = Row("", {})


def levels(pixels: Tensor) -> Tensor:
    """Return pixels in [0, 1] as levels from 0 to 255.

    Example:
        >>> levels(torch.tensor([0.0, 0.5, 1.2]))
        tensor([  0, 128, 255], dtype=torch.uint8)
    """
    return (pixels.clamp(0, 1) * 255).round().byte()
