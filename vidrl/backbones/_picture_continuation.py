"""Continue a clip of an image-to-video pipeline: the last frame is the image of the next chunk.

The pipeline makes the first frame of a chunk like its image, so that this frame, which repeats
the last frame of the chunk before, is left out of the clip.
"""

from __future__ import annotations

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
from .base import Cond, Continuation

IMAGE = "image"
# the continued rows whose image is kept in memory: more than the chunks of a round
ROWS = 2048


def check(model: object) -> None:
    """Raise ValueError for a folder or hub id of a pipeline whose call takes no image."""
    if not isinstance(model, (str, Path)):
        return
    name = _components.index(str(model)).get("_class_name")
    pipeline = getattr(_components.diffusers(), str(name), None)
    if pipeline is not None and IMAGE not in inspect.signature(pipeline.__call__).parameters:
        raise _refusal(str(name))


def _refusal(name: str) -> ValueError:
    """Return the error for a pipeline that cannot continue a clip."""
    return ValueError(
        f"expected a pipeline that continues a clip from an image, got {name}, which takes no "
        "image or works without one: use the image-to-video pipeline of the same family, such as "
        "WanImageToVideoPipeline"
    )


class PictureContinuation(Continuation):
    """A continuation of a `Pipeline`: a chunk begins with the last frame of the one before."""

    def __init__(self, pipeline: Any, history: int):
        if IMAGE not in pipeline.needs and IMAGE not in pipeline.runner.call:
            raise _refusal(pipeline.runner.name)
        if history != 1:
            raise ValueError(
                f"expected history = 1, because {pipeline.runner.name} reads one image, got "
                f"{history}"
            )
        self.pipeline = pipeline
        self.rows = OrderedDict[Any, int]()
        # the first pixel frame of a following chunk is left out
        self.frame_map: list[Span] = [
            (max(0, start - 1), max(0, end - 1)) for start, end in pipeline.frame_map
        ]

    def condition(self, cond: Cond, before: Tensor) -> Cond:
        """Return the rows of the pipeline's table that have the last frames as their image."""
        pipeline = self.pipeline
        with torch.no_grad():
            pieces = [
                pipeline.decode_with(before[i : i + 1].to(pipeline.device), {"row": row[None]})
                for i, row in enumerate(cond["row"])
            ]
        numbers = [
            self._row(int(row), _references.image(piece[0, -1].cpu()))
            for row, piece in zip(cond["row"], pieces, strict=True)
        ]
        return {"row": torch.tensor(numbers, device=cond["row"].device)}

    def absent(self, count: int) -> Cond:
        """Return nothing: the rows of first chunks are those of the prompts."""
        return {}

    def _row(self, number: int, picture: Any) -> int:
        """Return the row of a prompt with another image; the oldest rows lose theirs."""
        table = self.pipeline.runner.table
        references = {**table[number].references, IMAGE: picture}
        key = table[number].prompt, _references.identity(references)
        if key not in self.rows:
            table.append(Row(table[number].prompt, references))
            self.rows[key] = len(table) - 1
        self.rows.move_to_end(key)
        while len(self.rows) > ROWS:
            _, old = self.rows.popitem(last=False)
            table[old] = Row(table[old].prompt, {})
        return self.rows[key]

    def predict(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Return the pipeline's prediction under the image."""
        raw: Tensor = self.pipeline.predict(x, t, cond)
        return raw

    def decode(self, chunks: Sequence[Tensor], cond: Cond | None) -> Tensor:
        """Return the clips, each chunk decoded under its own image."""
        dry = torch.full((len(chunks[0]),), self.pipeline.dry_row, device=self.pipeline.device)
        under: Cond = {"row": dry} if cond is None else cond
        clips = [self.pipeline.decode_with(chunks[0], under)]
        for before, chunk in zip(chunks, chunks[1:], strict=False):
            under = self.condition(under, before.detach())
            clips.append(self.pipeline.decode_with(chunk, under)[:, 1:])
        return torch.cat(clips, 1)
