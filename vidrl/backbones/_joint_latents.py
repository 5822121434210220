"""Arrange the latents of video and sound, which a pipeline denoises together, as one tensor.

The pipeline's network reads both, so a policy of the video alone would not be a function of
its latents. vidrl's latents hold both: the elements that belong to the time of one latent
frame are one column, so a segment of the time axis covers the video and the sound of that
time.

    video   v v v v | v v v v | v v v v    elements of three latent frames
    sound   s ·     | s s     | s s        sound of their pixel frames; · is padding

Padding is 0: its noise and its prediction are 0, so it stays 0 along the path, and its
log-ratio is 0.

Legend: B batch, E elements of a latent frame, L latent frames. vidrl's latents are (B, E,
L, 1, 1); the pipeline's are joined to rows of numbers (`_loop_latents`).
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
    """The layout of the video latents, and the places of the other latents beside them.

    `video`: the layout of the first latents. `other_shapes`: the shapes of the others.
    `column`: (slots, L), the indices of the other elements that belong to each latent
    frame, -1 for padding. `place`: for each other element its index in the flattened
    `column`. `draw_order`: as in Layout, over all latents.
    """

    video: Layout
    other_shapes: tuple[tuple[int, ...], ...]
    column: Tensor
    place: Tensor
    draw_order: Tensor | None

    @property
    def frame_map(self) -> list[Span]:
        """The pixel frames [start, end) that are decoded from each latent frame."""
        return self.video.frame_map

    @property
    def pipeline_shape(self) -> tuple[int, ...]:
        """The shape (E,) of one clip's joined latents in the pipeline."""
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
        """Return the layout itself for its own number of latent frames; ValueError for another."""
        if length == self.shape[1]:
            return self
        raise ValueError(
            f"expected latents of {self.shape[1]} frames, got {length}: what stands beside the "
            "video, as sound, is not cut"
        )

    def to_vidrl(self, latents: Tensor) -> Tensor:
        """Convert rows of numbers to (B, E, L, 1, 1)."""
        size = prod(self.video.pipeline_shape)
        video = self.video.to_vidrl(latents[:, :size].reshape(-1, *self.video.pipeline_shape))
        column = self.column.to(latents.device)
        other_shapes = pad(latents[:, size:], (0, 1))[:, column]  # -1 is the 0 at the end
        return torch.cat([video.movedim(2, -1).flatten(1, 3), other_shapes], 1)[..., None, None]

    def to_pipeline(self, latents: Tensor) -> Tensor:
        """Convert latents (B, E, L, 1, 1) to rows of numbers."""
        c, _, *space = self.video.shape
        video, other_shapes = latents[..., 0, 0].tensor_split([c * prod(space)], 1)
        video = self.video.to_pipeline(video.unflatten(1, (c, *space)).movedim(-1, 2))
        place = self.place.to(latents.device)
        return torch.cat([video.reshape(len(latents), -1), other_shapes.flatten(1)[:, place]], 1)

    def noise(self, draw: torch.Generator) -> Tensor:
        """Draw unit noise (E, L, 1, 1): the pipeline's own latents of that generator."""
        plain = _latent_layout.plain_draw((self.video.pipeline_shape, *self.other_shapes), draw)
        return self.to_vidrl((plain if self.draw_order is None else plain[self.draw_order])[None])[
            0
        ]


def find_layout(runner: Runner, row: int) -> Layout | JointLayout:
    """Find the layout of a pipeline's latents, and of latents that it denoises beside them."""
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
    """Return the latent frame to which each element of the other latents belongs.

    The position i of T on the other latents' time axis lies at pixel frame (i + 1/2) F / T.
    """
    axis = _time_axis(runner, row, number, shape_there) if video.length > 1 else 0
    spans, length = video.frame_map, shape_there[axis]
    middles = (torch.arange(length) + 0.5) / length * spans[-1][1]
    of_each = torch.bucketize(middles, torch.tensor([float(end) for _, end in spans]), right=True)
    shape = [length if i == axis else 1 for i in range(len(shape_there))]
    return of_each.view(shape).expand(shape_there).flatten()


def _time_axis(runner: Runner, row: int, number: int, shape_there: tuple[int, ...]) -> int:
    """Return the time axis of these latents: the axis that the number of frames changes."""
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
    """Return the element indices of each latent frame, and each element's place in that table.

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
