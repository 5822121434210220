"""A reward that finds jerky motion, by the third derivative of tracked points."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from ._flow.coarse import coarse_motion
from .base import Card, Reward, Samples
from .flow import Motion, around


class Jerk(Reward):
    """Minus how jerky the motion of tracked points is, on a log scale; 0 is smooth.

    The value is the mean of -ln(1 + j / scale); motion of constant speed or constant
    acceleration gets 0. The range is (-infinity, 0].

    The points of a grid (`grid` x `grid`, evenly over the picture) are followed along the
    flow through four frames; x_0 ... x_3 are the places of a point. The points start in the
    second frame; they are followed one frame back and two frames on. j is the mean length
    of the third difference x_3 - 3 x_2 + 3 x_1 - x_0, times fps^3, in diagonals per
    second^3. Each point counts in proportion to the length of
    its path; a point that leaves the picture does not count.

    The error of the flow is a fraction of a pixel, but the factor fps^3 makes it large.
    Therefore `noise` pixels are subtracted from each difference, and clips of 16 frames a
    second or more are measured in steps of about an eighth of a second. A term reads four
    frames and is credited to the middle two.

    >>> still = torch.rand(1, 1, 3, 32, 32).expand(1, 6, 3, 32, 32)
    >>> Jerk()(Samples(still, ["a boat"], 8.0)).value.abs()
    tensor([0.])
    """

    needs = ("cv2",)
    lowered_by = ("shake", "stutter", "duplicate", "shuffle")
    range = (-float("inf"), 0.0)
    time_support = "pair"
    lookahead = 3
    rate = 8.0
    shrinks = True
    card = Card(
        sees="Jerks, jitter, shaking and stutter of everything that moves, the camera included.",
        blind_to="Whether anything moves: a frozen clip has no jerk and gets 0, the best value. "
        "Wanted blows and bounces count as jerks. Changes faster than an eighth of a "
        "second, and motion that the flow cannot follow, are not seen.",
        hacks="Freezing, slow motion, and blurring until the flow finds nothing. Add "
        "dynamic_degree.",
        input="At least 4 frames of 8 pixels, at 6 frames a second or more.",
        cost="1 ms a frame of 192 x 341, and the flow.",
    )

    def __init__(
        self,
        scale: float = 5.0,
        grid: int = 24,
        noise: float = 0.1,
        flow: str = "auto",
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
        """Return one number for four frames in a row, (B, F - 3)."""
        motion = self.motion(samples)
        third, path, seen = tracks(motion, coarse_motion(self, samples), self.grid)
        jerk = (third.norm(dim=-1) - self.noise).clamp(min=0) * samples.fps**3 / motion.diagonal
        weight = path * seen + 1e-6  # without any motion, all points count alike
        return -torch.log1p((jerk * weight).sum(2) / weight.sum(2) / self.scale)

    def maps(self, samples: Samples) -> dict[str, Tensor]:
        """Return `jerk`, the jerk of the point at each place of the grid.

        The values are those at the second of four frames; NaN where no point is followed.
        """
        frames = samples.video.shape[1]
        if frames <= self.lookahead:
            return {}
        motion = self.motion(samples)
        third, _, seen = tracks(motion, coarse_motion(self, samples), self.grid)
        jerk = third.norm(dim=-1) * samples.fps**3 / motion.diagonal
        drawn = jerk.masked_fill(~seen, torch.nan).unflatten(2, (self.grid, self.grid))
        return {"jerk": torch.nn.functional.pad(drawn, (0, 0, 0, 0, 1, 2), value=torch.nan)}


def tracks(motion: Motion, coarse: Motion, grid: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the third differences, path lengths and visibility of the points of a grid.

    The results are (B, F - 3, N, 2), (B, F - 3, N) and bool (B, F - 3, N), where N =
    grid^2, in pixels of the frames on which the flow was measured. `coarse` is the same
    motion on a coarser grid; the flow is read from it, because an average over cells has
    less noise. A point starts in the second of its four frames.
    """
    scale = motion.diagonal / coarse.diagonal
    forward = edge_average(coarse.forward, coarse.frames[:, :-1]) * scale
    backward = edge_average(coarse.backward, coarse.frames[:, 1:]) * scale
    start, size = points(grid, motion.frames), motion.frames.shape[-2:]
    first = sample_field(backward[:, :-2], start, size)
    second = sample_field(forward[:, 1:-1], start, size)
    third = sample_field(forward[:, 2:], start + second, size)
    before, after = (
        seen[:, :, None].to(forward) for seen in (motion.seen_earlier, motion.seen_later)
    )
    seen = [sample_field(before[:, :-2], start, size), sample_field(after[:, 1:-1], start, size)]
    seen.append(sample_field(after[:, 2:], start + second, size))
    path = (first.norm(dim=-1) + second.norm(dim=-1) + third.norm(dim=-1)) / 3
    # `first` points backwards in time, so the step before the start is -first;
    # 0.99: masks are interpolated, and a point near a hidden pixel counts as hidden
    return third - 2 * second - first, path, torch.stack(seen).amin(0)[..., 0] > 0.99


def edge_average(flow: Tensor, frames: Tensor, window: float = 0.03) -> Tensor:
    """Average the flow (B, T, 2, H, W) nearby, so that no single pixel decides.

    Strong edges, where the flow is reliable, count most.
    """
    grey = frames.detach().mean(2, keepdim=True)
    ink = (
        grey.diff(dim=-1, append=grey[..., -1:]).square()
        + grey.diff(dim=-2, append=grey[..., -1:, :]).square()
    ) + 1e-4  # plain ground averages all its pixels alike
    return around(flow * ink, window) / around(ink, window)


def points(grid: int, frames: Tensor) -> Tensor:
    """Return the centres of grid x grid cells, in pixels (x, y), (1, 1, N, 2)."""
    height, width = frames.shape[-2:]
    centre = (torch.arange(grid).to(frames.detach()) + 0.5) / grid  # fractions of a side
    y, x = torch.meshgrid(centre * height - 0.5, centre * width - 0.5, indexing="ij")
    return torch.stack([x, y], -1).view(1, 1, -1, 2)


def sample_field(field: Tensor, at: Tensor, size: Sequence[int]) -> Tensor:
    """Sample a field (B, T, K, h, w) at points, bilinearly, (B, T, N, K).

    The field covers a picture of `size` (H, W). The points (x, y) are in pixels of that
    picture, (B or 1, T or 1, N, 2).

    >>> field = torch.arange(4.0).expand(1, 1, 1, 4, 4)
    >>> sample_field(field, torch.tensor([[1.5, 2.0]]).view(1, 1, 1, 2), (4, 4)).item()
    1.5
    """
    batch, time = field.shape[:2]
    # grid_sample takes places from -1 to 1, the ends being the outer edges of the picture
    place = (2 * at.to(field) + 1) / torch.tensor([size[1], size[0]]).to(field) - 1
    where = place.expand(batch, time, -1, 2).flatten(0, 1)[:, None]
    found = grid_sample(
        field.flatten(0, 1), where, mode="bilinear", padding_mode="border", align_corners=False
    )
    return found[:, :, 0].mT.unflatten(0, (batch, time))
