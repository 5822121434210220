"""Several latents of one clip as one, where a pipeline denoises them together, as sound and
video.

The pipeline's network reads both, so a policy of the video alone would not be a function of
its latents. vidrl's latents hold both: what stands for the time of one latent frame stands
in one column, so that a segment of the time axis covers the video and the sound of that
time.

    video   v v v v | v v v v | v v v v    numbers of three latent frames
    sound   s ·     | s s     | s s        sound of their pixel frames; · is padding

Places without a number are 0: their noise and their prediction are 0, so they stay 0 along
the path, and their log-ratio is 0.

Legend: B batch, E numbers of a latent frame, L latent frames, T positions of what stands
beside; vidrl's latents are (B, E, L, 1, 1), the pipeline's are joined as rows of numbers
(`_runner`).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor
from torch.nn.functional import pad

from vidrl.diffusion.segments import Span

from . import _latent_layout
from ._latent_layout import Layout
from ._runner import FRAMES, Runner


@dataclass(frozen=True)
class JointLayout:
    """The first latents, those `beside` it by their shapes, and where the numbers of these
    stand.

    `column`: the numbers (slots, L) that stand beside each latent frame, -1 for none.
    `place`: of each number its place in `column`. `order` is as in Layout, over all
    latents.
    """

    video: Layout
    other_shapes: tuple[tuple[int, ...], ...]
    column: Tensor
    place: Tensor
    draw_order: Tensor | None

    @property
    def frame_map(self) -> list[Span]:
        return self.video.frame_map

    @property
    def pipeline_shape(self) -> tuple[int, ...]:
        return (prod(self.video.pipeline_shape) + len(self.place),)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape (E, L, 1, 1) of one clip's latents."""
        return (
            prod(self.video.pipeline_shape) // self.video.shape[1] + len(self.column),
            self.column.shape[1],
            1,
            1,
        )

    def with_length(self, length: int) -> JointLayout:
        """Itself for its own number of latent frames; ValueError for another."""
        if length == self.shape[1]:
            return self
        raise ValueError(
            f"expected latents of {self.shape[1]} frames, got {length}: what stands beside the "
            "video, as sound, is not cut"
        )

    def to_vidrl(self, latents: Tensor) -> Tensor:
        """Rows of numbers as (B, E, L, 1, 1)."""
        size = prod(self.video.pipeline_shape)
        video = self.video.to_vidrl(latents[:, :size].reshape(-1, *self.video.pipeline_shape))
        column = self.column.to(latents.device)
        other_shapes = pad(latents[:, size:], (0, 1))[:, column]  # -1 is the 0 at the end
        return torch.cat([video.movedim(2, -1).flatten(1, 3), other_shapes], 1)[..., None, None]

    def to_pipeline(self, latents: Tensor) -> Tensor:
        """Latents (B, E, L, 1, 1) as rows of numbers."""
        c, _, *space = self.video.shape
        video, other_shapes = latents[..., 0, 0].tensor_split([c * prod(space)], 1)
        video = self.video.to_pipeline(video.unflatten(1, (c, *space)).movedim(-1, 2))
        place = self.place.to(latents.device)
        return torch.cat([video.reshape(len(latents), -1), other_shapes.flatten(1)[:, place]], 1)

    def noise(self, draw: torch.Generator) -> Tensor:
        """One draw of unit noise, (E, L, 1, 1): the pipeline's own latents of that
        generator."""
        plain = _latent_layout.plain_draw((self.video.pipeline_shape, *self.other_shapes), draw)
        return self.to_vidrl((plain if self.draw_order is None else plain[self.draw_order])[None])[
            0
        ]


def find_layout(runner: Runner, row: int) -> Layout | JointLayout:
    """The layout of a pipeline's latents, and of those that it denoises beside them."""
    runner.examine_loop(row)
    video = _latent_layout.find_layout(runner, row)
    numbers = [number for number in runner.parts.sizes if number]
    if not numbers:
        return video
    initial_latents_by_scheduler = runner.initial_latents_by_scheduler(row)
    shapes_there = tuple(
        tuple(initial_latents_by_scheduler[number].shape[1:]) for number in numbers
    )
    frames = torch.cat(
        [
            _latent_frame_of_each(runner, row, number, shape_there, video)
            for number, shape_there in zip(numbers, shapes_there, strict=True)
        ]
    )
    column, place = _columns(frames, video.length)
    return JointLayout(
        video,
        shapes_there,
        column,
        place,
        _latent_layout.draw_order(runner, row, video.pipeline_shape, *shapes_there),
    )


def _latent_frame_of_each(
    runner: Runner, row: int, number: int, shape_there: tuple[int, ...], video: Layout
) -> Tensor:
    """The latent frame of each number of latents that stand beside the first."""
    axis = _time_axis(runner, row, number, shape_there) if video.length > 1 else 0
    spans, length = video.frame_map, shape_there[axis]
    middles = (torch.arange(length) + 0.5) / length * spans[-1][1]
    of_each = torch.bucketize(middles, torch.tensor([float(end) for _, end in spans]), right=True)
    shape = [length if i == axis else 1 for i in range(len(shape_there))]
    return of_each.view(shape).expand(shape_there).flatten()


def _time_axis(runner: Runner, row: int, number: int, shape_there: tuple[int, ...]) -> int:
    """Which axis of these latents is time: the one that another number of frames
    changes."""
    name = next(name for name in FRAMES if name in runner.call_parameters)
    frames = runner.call.get(name, runner.call_parameters[name].default)
    for other in _latent_layout.lengths_to_try(frames):
        found = _latent_layout.shape_at_length(runner, row, name, other, number)
        axes = [
            i
            for i, (a, b) in enumerate(zip(shape_there, found or shape_there, strict=True))
            if a != b
        ]
        if len(axes) == 1:
            return axes[0]
    raise runner.refusal(
        f"the time axis of what it denoises beside the video is not found in {shape_there}"
    )


def _columns(frames: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """The numbers of each latent frame, and the place of each number in that table, row by
    row.

    >>> _columns(torch.tensor([0, 1, 1, 0, 1]), 2)[0].tolist()
    [[0, 1], [3, 2], [-1, 4]]
    """
    each = [(frames == frame).nonzero().flatten() for frame in range(length)]
    column = torch.full((max(map(len, each)), length), -1)
    for frame, numbers in enumerate(each):
        column[: len(numbers), frame] = numbers
    held = (column.flatten() >= 0).nonzero().flatten()
    place = torch.empty(len(frames), dtype=torch.long)
    place[column.flatten()[held]] = held
    return column, place
