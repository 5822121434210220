"""Several latents of one clip as one, where a pipeline denoises them together, as sound and
video.

The pipeline's network reads both, so a policy of the video alone would not be a function of
its latents. vidrl's latents hold both: what stands for the time of one latent frame stands
in one column, so that a segment of the time axis covers the video and the sound of that
time.

    video   v v v v | v v v v | v v v v    numbers of three latent frames sound   s ·     |
    s s     | s s        sound of their pixel frames; · is a place without a number

Places without a number are 0: their noise and their prediction are 0, so they stay 0 along
the path, and their log-ratio is 0.

Legend: B batch, E numbers of a latent frame, L latent frames, T positions of what stands
beside; vidrl's latents are (B, E, L, 1, 1), the pipeline's are joined as rows of numbers
(`_drive`).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor
from torch.nn.functional import pad

from vidrl.diffusion.segments import Span

from . import _layout
from ._drive import FRAMES, Drive
from ._layout import Layout


@dataclass(frozen=True)
class Joined:
    """The first latents, those `beside` it by their shapes, and where the numbers of these
    stand.

    `column`: the numbers (slots, L) that stand beside each latent frame, -1 for none.
    `place`: of each number its place in `column`. `order` is as in Layout, over all
    latents.
    """

    first: Layout
    beside: tuple[tuple[int, ...], ...]
    column: Tensor
    place: Tensor
    order: Tensor | None

    @property
    def frame_map(self) -> list[Span]:
        return self.first.frame_map

    @property
    def own(self) -> tuple[int, ...]:
        return (prod(self.first.own) + len(self.place),)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape (E, L, 1, 1) of one clip's latents."""
        return (
            prod(self.first.own) // self.first.shape[1] + len(self.column),
            self.column.shape[1],
            1,
            1,
        )

    def of(self, length: int) -> Joined:
        """Itself for its own number of latent frames; ValueError for another."""
        if length == self.shape[1]:
            return self
        raise ValueError(
            f"expected latents of {self.shape[1]} frames, got {length}: what stands beside the "
            "video, as sound, is not cut"
        )

    def ours(self, theirs: Tensor) -> Tensor:
        """Rows of numbers as (B, E, L, 1, 1)."""
        whole = prod(self.first.own)
        video = self.first.ours(theirs[:, :whole].reshape(-1, *self.first.own))
        column = self.column.to(theirs.device)
        beside = pad(theirs[:, whole:], (0, 1))[:, column]  # -1 is the 0 at the end
        return torch.cat([video.movedim(2, -1).flatten(1, 3), beside], 1)[..., None, None]

    def theirs(self, ours: Tensor) -> Tensor:
        """Latents (B, E, L, 1, 1) as rows of numbers."""
        c, _, *space = self.first.shape
        video, beside = ours[..., 0, 0].tensor_split([c * prod(space)], 1)
        video = self.first.theirs(video.unflatten(1, (c, *space)).movedim(-1, 2))
        place = self.place.to(ours.device)
        return torch.cat([video.reshape(len(ours), -1), beside.flatten(1)[:, place]], 1)

    def noise(self, draw: torch.Generator) -> Tensor:
        """One draw of unit noise, (E, L, 1, 1): the pipeline's own latents of that
        generator."""
        plain = _layout.drawn((self.first.own, *self.beside), draw)
        return self.ours((plain if self.order is None else plain[self.order])[None])[0]


def look(drive: Drive, row: int) -> Layout | Joined:
    """The layout of a pipeline's latents, and of those that it denoises beside them."""
    drive.look_at_turns(row)
    first = _layout.look(drive, row)
    numbers = [number for number in drive.parts.sizes if number]
    if not numbers:
        return first
    entered = drive.entered(row)
    owns = tuple(tuple(entered[number].shape[1:]) for number in numbers)
    frames = torch.cat(
        [_frames(drive, row, number, own, first) for number, own in zip(numbers, owns, strict=True)]
    )
    column, place = _columns(frames, first.length)
    return Joined(first, owns, column, place, _layout.order(drive, row, first.own, *owns))


def _frames(drive: Drive, row: int, number: int, own: tuple[int, ...], first: Layout) -> Tensor:
    """The latent frame of each number of latents that stand beside the first."""
    axis = _axis(drive, row, number, own) if first.length > 1 else 0
    spans, length = first.frame_map, own[axis]
    middles = (torch.arange(length) + 0.5) / length * spans[-1][1]
    of_each = torch.bucketize(middles, torch.tensor([float(end) for _, end in spans]), right=True)
    shape = [length if i == axis else 1 for i in range(len(own))]
    return of_each.view(shape).expand(own).flatten()


def _axis(drive: Drive, row: int, number: int, own: tuple[int, ...]) -> int:
    """Which axis of these latents is time: the one that another number of frames
    changes."""
    name = next(name for name in FRAMES if name in drive.takes)
    frames = drive.call.get(name, drive.takes[name].default)
    for other in _layout.lengths(frames):
        found = _layout.tried(drive, row, name, other, number)
        axes = [i for i, (a, b) in enumerate(zip(own, found or own, strict=True)) if a != b]
        if len(axes) == 1:
            return axes[0]
    raise drive.cannot(f"the time axis of what it denoises beside the video is not found in {own}")


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
