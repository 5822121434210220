"""Motion that is not smooth: the third derivative of where tracked points go."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from ._flow.coarse import coarse_motion
from .base import Card, Reward, Samples
from .flow import Motion, around


class Jerk(Reward):
    """How jerky motion is: -ln(1 + j / scale), 0 for what rests or moves with constant
    speed or acceleration.

    Points of a grid (`grid` x `grid`, evenly over the picture) are followed along the flow
    through four frames, x_0 ... x_3, from the second: back one and on two. j is the mean
    length of their third difference x_3 - 3 x_2 + 3 x_1 - x_0, times fps^3, in diagonals a
    second^3, weighted by how far each point goes in all; a point that goes out of sight
    counts no more. Flow is exact to a fraction of a pixel, which fps^3 makes much of:
    differences below `noise` pixels a point are taken off, and clips of 16 frames a second
    or more are looked at in steps of about an eighth of a second. A term is four frames,
    credited to the middle two.

    >>> Jerk()(Samples(torch.rand(1, 1, 3, 32, 32).expand(1, 6, 3, 32, 32), ["a boat"], 8.0)).value.abs()
    tensor([0.])
    """

    needs = ("cv2",)
    lowered_by = ("shake", "stutter", "duplicate", "shuffle")
    range = (-float("inf"), 0.0)
    support = "pair"
    reach = 3
    rate = 8.0
    shrinks = True
    card = Card(
        sees="Jerks, jitter, shaking and stutter of whatever moves, the camera too.",
        blind_to="Whether anything moves at all: a frozen clip has no jerk and scores 0, the best. Blows and bounces "
        "that are meant are jerks as well; changes finer than an eighth of a second; what the flow cannot follow.",
        hacks="Freezing, slow motion, blurring until the flow finds nothing; use it beside dynamic_degree.",
        input="At least 4 frames of 8 pixels, 6 or more a second.",
        cost="1 ms a frame of 192 x 341 beside the flow.",
    )

    def __init__(
        self,
        scale: float = 5.0,
        grid: int = 24,
        noise: float = 0.1,
        flow: str = "dis",
        flow_size: int = 192,
    ) -> None:
        super().__init__()
        if not scale > 0:
            raise ValueError(
                f"expected scale, in diagonals a second^3, to be positive, got {scale}"
            )
        self.scale, self.grid = scale, grid
        self.noise = noise
        self.flow, self.flow_size = flow, flow_size

    def terms(self, samples: Samples) -> Tensor:
        """One number for four frames in a row, (B, F - 3)."""
        motion = self.motion(samples)
        third, way, seen = tracks(motion, coarse_motion(self, samples), self.grid)
        jerk = (third.norm(dim=-1) - self.noise).clamp(min=0) * samples.fps**3 / motion.diagonal
        weight = way * seen + 1e-6
        return -torch.log1p((jerk * weight).sum(2) / weight.sum(2) / self.scale)

    def maps(self, samples: Samples) -> dict[str, Tensor]:
        """The jerk of the point at each place of the grid in the second of four frames; NaN
        where none is followed."""
        frames = samples.video.shape[1]
        if frames <= self.reach:
            return {}
        motion = self.motion(samples)
        third, _, seen = tracks(motion, coarse_motion(self, samples), self.grid)
        jerk = third.norm(dim=-1) * samples.fps**3 / motion.diagonal
        drawn = jerk.masked_fill(~seen, torch.nan).unflatten(2, (self.grid, self.grid))
        return {"jerk": torch.nn.functional.pad(drawn, (0, 0, 0, 0, 1, 2), value=torch.nan)}


def tracks(motion: Motion, coarse: Motion, grid: int) -> tuple[Tensor, Tensor, Tensor]:
    """The third differences (B, F - 3, N, 2) of the N = grid^2 points, how far each goes,
    whether it is in sight.

    Pixels of the frames that the flow is measured at; the flow is that on the coarser grid,
    averaged as it is. A point starts in the second of its four frames.
    """
    scale = motion.diagonal / coarse.diagonal
    there = held(coarse.forward, coarse.frames[:, :-1]) * scale
    back = held(coarse.backward, coarse.frames[:, 1:]) * scale
    start, size = points(grid, motion.frames), motion.frames.shape[-2:]
    first = look(back[:, :-2], start, size)
    second = look(there[:, 1:-1], start, size)
    third = look(there[:, 2:], start + second, size)
    before, after = (
        seen[:, :, None].to(there) for seen in (motion.seen_earlier, motion.seen_later)
    )
    seen = [look(before[:, :-2], start, size), look(after[:, 1:-1], start, size)]
    seen.append(look(after[:, 2:], start + second, size))
    way = (first.norm(dim=-1) + second.norm(dim=-1) + third.norm(dim=-1)) / 3
    return third - 2 * second - first, way, torch.stack(seen).amin(0)[..., 0] > 0.99


def held(flow: Tensor, frames: Tensor, window: float = 0.03) -> Tensor:
    """The flow (B, T, 2, H, W) averaged nearby, edges counting most, so that one pixel's
    error does not count."""
    ink = frames.detach().mean(2, keepdim=True)
    ink = (
        ink.diff(dim=-1, append=ink[..., -1:]).square()
        + ink.diff(dim=-2, append=ink[..., -1:, :]).square()
    ) + 1e-4
    return around(flow * ink, window) / around(ink, window)


def points(grid: int, frames: Tensor) -> Tensor:
    """The centres of grid x grid cells, in pixels (x, y): (1, 1, N, 2)."""
    height, width = frames.shape[-2:]
    share = (torch.arange(grid).to(frames.detach()) + 0.5) / grid
    y, x = torch.meshgrid(share * height - 0.5, share * width - 0.5, indexing="ij")
    return torch.stack([x, y], -1).view(1, 1, -1, 2)


def look(field: Tensor, at: Tensor, size: Sequence[int]) -> Tensor:
    """A field (B, T, K, h, w) over a picture of `size` (H, W), at points of it (B or 1, T
    or 1, N, 2), bilinear: (B, T, N, K).

    >>> field = torch.arange(4.0).expand(1, 1, 1, 4, 4)
    >>> look(field, torch.tensor([[1.5, 2.0]]).view(1, 1, 1, 2), (4, 4)).item()
    1.5
    """
    batch, time = field.shape[:2]
    share = (2 * at.to(field) + 1) / torch.tensor([size[1], size[0]]).to(field) - 1
    where = share.expand(batch, time, -1, 2).flatten(0, 1)[:, None]
    found = grid_sample(
        field.flatten(0, 1), where, mode="bilinear", padding_mode="border", align_corners=False
    )
    return found[:, :, 0].mT.unflatten(0, (batch, time))
