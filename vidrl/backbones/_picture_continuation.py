"""Continue a clip of a pipeline that begins a clip with given frames: an image, or a film.

The pipeline makes the first frames of a chunk like the given ones. These frames repeat the last
frames of the chunk before and are left out of the clip.

The condition of a chunk has the frames themselves (B, n, 3, H, W), in levels from 0 to 255. A row
of the pipeline's table, which its calls read, is made of the frames when it is needed.
"""

from __future__ import annotations

import hashlib
import inspect
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from vidrl.diffusion.segments import Span

from . import _components, _references
from ._runner import FRAMES, Row
from .base import FOLLOWS, Cond, Continuation, extended

IMAGE = "image"
FILM = "video"
PICTURES = "pictures"
# The rows of continued chunks that the pipeline's table keeps, so that its encoders run once for
# the steps of a chunk. A row that was dropped is made again from the picture of the condition.
ROWS = 256


# Pipelines that make a clip in pieces by a loop around the loop of steps, which cannot be driven
# piece by piece: why, and what to do.
IN_PIECES = {
    "HunyuanVideoFramepackPipeline": (
        "its call takes no latents of earlier pieces, by default makes the last piece of a clip "
        "first, and blends the pixels of neighbours",
        'use a pipeline that goes forward, such as HeliosPipeline with base = "wan"',
    ),
    "HeliosPyramidPipeline": (
        "its steps change the size of the latents and add noise between stages",
        'use HeliosPipeline with base = "wan"',
    ),
    "HeliosPipeline": ("its history is latents", 'set base = "wan"'),
    "SkyReelsV2DiffusionForcingPipeline": ("its history is latents", 'set base = "wan"'),
    "SkyReelsV2DiffusionForcingImageToVideoPipeline": (
        "each latent frame has a scheduler of its own",
        'use SkyReelsV2DiffusionForcingPipeline with base = "wan"',
    ),
    "SkyReelsV2DiffusionForcingVideoToVideoPipeline": (
        "each latent frame has a scheduler of its own",
        'use SkyReelsV2DiffusionForcingPipeline with base = "wan"',
    ),
}


def check(model: object, history: int) -> None:
    """Raise ValueError for a pipeline that cannot continue a clip, before its weights are read.

    `model`: a folder, a hub id, or a pipeline in memory.
    """
    named = isinstance(model, (str, Path))
    name = str(_components.index(str(model)).get("_class_name") if named else type(model).__name__)
    if name in IN_PIECES:
        reason, cure = IN_PIECES[name]
        raise ValueError(
            f'expected a pipeline whose call makes one chunk, with base = "pipeline", got {name}: '
            f"{reason}; {cure}"
        )
    pipeline = getattr(_components.diffusers(), name, None) if named else None
    if pipeline is not None:
        _check_takes(inspect.signature(pipeline.__call__).parameters, name, history)


def _reference(history: int) -> str:
    """Return the name of the argument that takes the last frames of a chunk."""
    return IMAGE if history == 1 else FILM


def _other(history: int) -> str:
    """Return the name of the argument that would give frames beside those of a chunk."""
    return FILM if history == 1 else IMAGE


def _check_takes(parameters: Mapping[str, object], name: str, history: int) -> None:
    """Raise ValueError for a call without an argument for the last frames of a chunk."""
    if _reference(history) in parameters:
        return
    if history > 1:
        raise ValueError(
            f"expected a pipeline that takes a film for history = {history}, got {name}, whose "
            f"call has no argument {FILM}: set history = 1, which gives the last frame as its image"
        )
    raise ValueError(
        f"expected a pipeline that continues a clip from an image, got {name}, which takes no "
        "image: use the image-to-video pipeline of the same family, such as "
        "WanImageToVideoPipeline"
    )


def _check_first(pipeline: Any, history: int) -> None:
    """Raise ValueError where first chunks are made without the frames that later ones have.

    A chunk with given frames has fewer latent frames, and chunks must be of one length.
    """
    name, reference = pipeline.runner.name, _reference(history)
    call = pipeline.runner.call
    other = _other(history)
    if other in call:
        raise ValueError(
            f"expected no {other} in backbone.options.options.call with history = {history}, whose "
            f"chunks begin with {reference}, got one, which would stay the same in all chunks: "
            "leave it out"
        )
    if reference not in pipeline.needs and reference not in call:
        what = "an image" if history == 1 else f"a film of {history} frames"
        raise ValueError(
            f"expected {what} for the first chunk, because a chunk after given frames has fewer "
            f"latent frames, got {name}, which works without: name a file in "
            f"backbone.options.options.call.{reference}; a prompt may bring its own"
        )
    if history > 1 and pipeline.layout.given != history:
        _refuse_film(pipeline, history, len(call.get(reference, ())))


def _refuse_film(pipeline: Any, history: int, frames: int) -> NoReturn:
    """Raise the ValueError for a film of `frames` frames that is not the history of a chunk."""
    name, chunk = pipeline.runner.name, pipeline.clip_shape[0]
    given = pipeline.layout.given
    cure = "cut the film, and choose a history of k n + 1 frames, where a latent frame has n"
    takes_length = any(length in pipeline.runner.call_parameters for length in FRAMES)
    if takes_length and frames >= chunk:
        raise ValueError(
            f"expected a film that is shorter than a chunk of {chunk} frames, so that {name} has "
            f"frames to sample, got a film of {frames} frames with history = {history}: {cure}"
        )
    if given == 0:
        cure = "use a pipeline that begins a clip with the film, such as LTXConditionPipeline"
    raise ValueError(
        f"expected history = {history} and a film of {history} frames as {_reference(history)}, "
        f"with which {name} begins a clip, got a film of {frames} frames, of which the pipeline "
        f"takes {given or 'none'} unchanged: {cure}"
    )


class PictureContinuation(Continuation):
    """A continuation of a `Pipeline`: a chunk begins with the last frames of the one before."""

    def __init__(self, pipeline: Any, history: int):
        _check_takes(pipeline.runner.call_parameters, pipeline.runner.name, history)
        _check_first(pipeline, history)
        self.pipeline, self.history = pipeline, history
        self.unread = (_other(history),)
        self.rows = OrderedDict[tuple[int, bytes], int]()  # in the order of use
        # the given pixel frames of a following chunk are left out
        self.frame_map: list[Span] = [
            (max(0, start - history), max(0, end - history)) for start, end in pipeline.frame_map
        ]

    @torch.no_grad()
    def condition(self, cond: Cond, before: Tensor) -> Cond:
        """Return the last frames of the chunks before."""
        return {PICTURES: self._last(self._decoded(before.to(self.pipeline.device), cond))}

    def _last(self, clips: Tensor) -> Tensor:
        """Return the frames of clips that the next chunks see."""
        return levels(clips[:, -self.history :].detach())

    def absent(self, count: int) -> Cond:
        """Return black pictures, which no call reads."""
        height, width = self.pipeline.clip_shape[2:]
        size = (count, self.history, 3, height, width)
        return {PICTURES: torch.zeros(size, dtype=torch.uint8)}

    def predict(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """Return the pipeline's prediction under the given frames."""
        raw: Tensor = self.pipeline.predict(x, t, self._rows(cond))
        return raw

    def decode(self, chunks: Sequence[Tensor], cond: Cond | None) -> Tensor:
        """Return the clips, each chunk decoded under its own given frames."""
        dry = torch.full((len(chunks[0]),), self.pipeline.dry_row)
        under: Cond = {"row": dry} if cond is None else cond
        clips = [self._decoded(chunks[0], under)]
        for chunk in chunks[1:]:
            given = {PICTURES: self._last(clips[-1]), FOLLOWS: torch.ones(len(chunk))}
            under = extended(under, given)
            clips.append(self._decoded(chunk, under))
        return torch.cat([clips[0], *(clip[:, self.history :] for clip in clips[1:])], 1)

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
            pictures = cond[PICTURES].cpu()
            for i in cond[FOLLOWS].nonzero().flatten().tolist():
                row[i] = self._row(int(row[i]), pictures[i])
            self._drop(len(row))
        return {"row": row}

    def _row(self, prompt: int, pictures: Tensor) -> int:
        """Return the row that has the prompt of another row, and the given frames (n, 3, H, W)."""
        table = self.pipeline.runner.table
        key = prompt, hashlib.sha256(pictures.numpy().tobytes()).digest()
        if key not in self.rows:
            film = [_references.image(picture / 255) for picture in pictures]
            given = {_reference(self.history): film if self.history > 1 else film[0]}
            table.append(Row(table[prompt].prompt, {**table[prompt].references, **given}))
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
