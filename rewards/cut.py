"""Hard cuts and dissolves: places where one picture ends and another begins."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, pad

from ._flow.swift import followed, thumbnails, unlike
from .base import About, Card, Reward, Samples
from .flow import estimate, shrink

GRID, BINS = 8, 16


class Cut(Reward):
    """Minus the number of cuts and dissolves a second; 0 is one unbroken shot.

    Two frames differ by s = sqrt(h l): h the total variation between their histograms (16
    bins a channel, averaged), l = (1 - r) / 2 - 0.05, or 0, with r the correlation of their
    light over an 8 x 8 grid. Panning hardly changes h, and light that changes as a whole
    hardly changes l.

    - A cut: s between frames up to `flash` seconds before and those up to as long after,
      the least of all these pairs, so that a flash, after which the old picture is back, is
      none; less twice the median of the pairs within half a second; from 0 to 1 between
      `low` and `high`; times how much the flow leaves unexplained, u, from 0 to 1 between
      0.1 and 0.3 of the picture's own contrast.
    - A dissolve: s between the frames a, b at the ends of a span of a half or of one
      second, from 0 to 1 between 2 `low` and 1.2 `high`, where all within are mixtures of
      the two, a (1 - x) + b x, but for at most 0.35 |a - b| in the grid's colours, and no
      step of x is above a half. It is credited once, to the middle of the span.

    A term is a pair of frames, credited to both.

    >>> shots = torch.cat([torch.rand(1, 1, 3, 32, 32).expand(1, 8, 3, 32, 32) * scale for scale in (1.0, 0.2)], 1)
    >>> Cut()(Samples(1 - shots, ["a boat"], 8.0)).value.abs() < 1  # the same picture, lighter: no cut
    tensor([True])
    """

    needs = ("cv2",)
    lowered_by = ("cut",)
    range = (-float("inf"), 0.0)
    support = "pair"
    reach = 1
    shrinks = True
    card = Card(
        sees="Hard cuts and dissolves, and where they are.",
        blind_to="Cuts between pictures of one layout or of one palette, such as a jump cut within a shot; wipes; "
        "shots shorter than `flash`, which pass for flashes.",
        hacks="Freezing. Small changes of many steps: morphing from one picture to the next slower than a second.",
        input="At least 2 frames of 8 pixels; dissolves need more than half a second on the clip. Fades to or from "
        "black count as dissolves.",
        cost="1 ms a frame of 192 x 341, and a flow where there may be a cut.",
    )

    def __init__(
        self,
        low: float = 0.1,
        high: float = 0.25,
        flash: float = 0.1,
        flow: str = "dis",
        flow_size: int = 192,
    ) -> None:
        super().__init__()
        if not 0 <= low < high:
            raise ValueError(
                f"expected 0 <= low < high, differences of pictures, got low={low}, high={high}"
            )
        self.low, self.high, self.flash, self.flow, self.flow_size = (
            low,
            high,
            flash,
            flow,
            flow_size,
        )

    def features(self, samples: Samples) -> Tensor:
        """Of each pair what the flow leaves, if it may be a cut, and the looks of both
        frames, (B, F - 1, 1 + 2 n)."""
        frames = samples.small(self.working_size).detach()
        grid = colours(thumbnails(samples, self.working_size))
        bytes_here = frames.dtype == torch.uint8 and not frames.is_cuda
        counted = tally(frames) if bytes_here else histogram(shrink(frames, self.working_size))
        looks = torch.cat([grid.flatten(2), counted.flatten(2)], 2)
        left = self._left(frames, Looks.of(looks))
        return torch.cat([left[..., None], looks[:, :-1], looks[:, 1:]], 2)

    def _left(self, frames: Tensor, looks: Looks) -> Tensor:
        """What the flow leaves of each pair in contrasts of its picture, 0 where the two
        are too alike for a cut."""
        pairs = torch.arange(frames.shape[1] - 1)
        rows = looks.unlike(pairs, pairs + 1) > self.low - 1e-3
        left = looks.grid.new_zeros(rows.shape)
        if rows.any():
            both = shrink(
                torch.stack([frames[:, :-1][rows], frames[:, 1:][rows]], 1), self.working_size
            )
            motion = followed(estimate(both, self.flow, self.working_size), self.flow)
            scale = both.std((3, 4)).mean(2).amax(1) + 1e-2
            left[rows] = unlike(both[:, :1], both[:, 1:], motion.forward)[:, 0].clamp(max=1) / scale
        return left

    def conclude(self, features: Tensor, about: About) -> Tensor:
        """Minus the cuts at each pair, times the frames a second, (B, F - 1)."""
        left, first, second = features.split([1, *[(features.shape[2] - 1) // 2] * 2], 2)
        looks = Looks.of(torch.cat([first, second[:, -1:]], 1))
        hard = self._cuts(looks, ramp(left[..., 0], 0.1, 0.3), about.fps)
        soft = torch.stack([self._dissolves(looks, round(about.fps * s)) for s in (0.5, 1.0)]).amax(
            0
        )
        soft = soft * (1 - around_max(hard, round(about.fps / 2)))
        return -(hard + once(soft, round(about.fps))).clamp(max=1) * about.fps

    def _cuts(self, looks: Looks, unexplained: Tensor, fps: float) -> Tensor:
        frames = looks.grid.shape[1]
        pairs, reach = torch.arange(frames - 1), max(1, round(self.flash * fps))
        steps = range(reach + 1)
        ends = [
            ((pairs - i).clamp(min=0), (pairs + 1 + j).clamp(max=frames - 1))
            for i in steps
            for j in steps
        ]
        least = torch.stack([looks.unlike(a, b) for a, b in ends]).amin(0)
        usual = median_around(looks.unlike(pairs, pairs + 1), max(2, round(fps / 2)))
        return ramp(least - 2 * usual, self.low, self.high) * unexplained

    def _dissolves(self, looks: Looks, span: int) -> Tensor:
        """How surely each pair is the middle of a dissolve over `span` frames, (B, F -
        1)."""
        frames = looks.grid.shape[1]
        none = looks.grid.new_zeros(len(looks.grid), frames - 1)
        if span < 3 or frames < span + 1:
            return none
        starts = torch.arange(frames - span)
        mixed = mixtures(looks.grid.unfold(1, span + 1, 1))
        found = ramp(looks.unlike(starts, starts + span), 2 * self.low, 1.2 * self.high) * mixed
        none[:, starts + span // 2] = found
        return none


class Looks:
    """Of each frame the colours over a grid (B, F, C * 64) and the histograms (B, F, C,
    16)."""

    def __init__(self, grid: Tensor, histograms: Tensor) -> None:
        self.grid, self.histograms = grid, histograms
        light = grid.unflatten(2, (-1, GRID * GRID)).mean(2)
        light = light - light.mean(2, keepdim=True)
        self.layout = light / (light.norm(dim=2, keepdim=True) + 1e-2)

    @classmethod
    def of(cls, looks: Tensor) -> Looks:
        """From what `features` put together."""
        channels = looks.shape[2] // (GRID * GRID + BINS)
        grid, histograms = looks.split([channels * GRID * GRID, channels * BINS], 2)
        return cls(grid, histograms.unflatten(2, (channels, BINS)))

    def unlike(self, a: Tensor, b: Tensor) -> Tensor:
        """s between the frames `a` and those `b`, (B, N)."""
        h = (self.histograms[:, a] - self.histograms[:, b]).abs().sum(3).mean(2) / 2
        r = (self.layout[:, a] * self.layout[:, b]).sum(2) + (self._flat(a) * self._flat(b))
        return (h * ((1 - r) / 2 - 0.05).clamp(min=0)).clamp(min=0).sqrt()

    def _flat(self, at: Tensor) -> Tensor:
        """How far a frame has no layout: two such are alike."""
        return (1 - self.layout[:, at].square().sum(2)).clamp(min=0).sqrt()


def colours(frames: Tensor) -> Tensor:
    """Means over an 8 x 8 grid, (B, F, C, 8, 8)."""
    return adaptive_avg_pool2d(frames.flatten(0, 1), GRID).unflatten(0, frames.shape[:2])


def histogram(frames: Tensor) -> Tensor:
    """Shares of values about 16 levels of each channel, each pixel shared by the nearest
    two, (B, F, C, 16).

    >>> histogram(torch.full((1, 1, 1, 4, 4), 0.5))[0, 0, 0, 6:10]
    tensor([0.0000, 0.5000, 0.5000, 0.0000])
    """
    at = frames.flatten(3).clamp(0, 1) * (BINS - 1)
    low = at.floor().clamp(max=BINS - 2)
    high_share = at - low
    counts = at.new_zeros(*at.shape[:3], BINS)
    counts.scatter_add_(3, low.long(), 1 - high_share).scatter_add_(3, low.long() + 1, high_share)
    return counts / at.shape[3]


def tally(frames: Tensor) -> Tensor:
    """The same histograms of bytes, from how often each byte occurs."""
    # a frame fits the cache
    planes = (plane for clip in frames for frame in clip for plane in frame.int())
    counts = torch.stack(
        [torch.bincount(plane.flatten(), minlength=256) for plane in planes]
    ).float()
    share = histogram((torch.arange(256.0) / 255).view(256, 1, 1, 1, 1))[:, 0, 0]
    return (counts @ share).view(*frames.shape[:3], BINS) / frames[0, 0, 0].numel()


def mixtures(windows: Tensor, slack: float = 0.35) -> Tensor:
    """How far the rows inside each window are mixtures of its two ends in small steps: (B,
    T, D, N) to (B, T).

    1 where they are, 0 where they stray by `slack` of the distance of the ends or some step
    is a half of the way.
    """
    start, way = windows[..., :1], windows[..., -1:] - windows[..., :1]
    length2 = way.square().sum(2, keepdim=True).clamp(min=1e-8)
    share = ((windows - start) * way).sum(2, keepdim=True) / length2
    strays = (windows - start - share * way).norm(dim=2).amax(-1) / length2[..., 0, 0].sqrt()
    largest = share.diff(dim=-1).amax((-2, -1))
    return ramp(-strays, -slack, -slack / 2) * ramp(-largest, -0.5, -0.4)


def ramp(x: Tensor, low: float, high: float) -> Tensor:
    """0 up to `low`, 1 from `high` on."""
    return ((x - low) / (high - low)).clamp(0, 1)


def median_around(x: Tensor, reach: int) -> Tensor:
    """The median of (B, T) within `reach` entries of each, that one left out; 0 where there
    is no other.

    >>> median_around(torch.tensor([[1.0, 9.0, 2.0, 3.0]]), reach=2)
    tensor([[2., 2., 3., 2.]])
    """
    windows = pad(x, (reach, reach), value=torch.nan).unfold(1, 2 * reach + 1, 1).contiguous()
    windows[..., reach] = torch.nan
    return windows.nanmedian(2).values.nan_to_num()


def around_max(x: Tensor, reach: int) -> Tensor:
    """The largest of (B, T) within `reach` entries of each."""
    return pad(x, (reach, reach), value=0.0).unfold(1, 2 * reach + 1, 1).amax(2)


def once(x: Tensor, reach: int) -> Tensor:
    """(B, T) but for its peaks 0: the largest within `reach` entries stays, the first of
    equals.

    >>> once(torch.tensor([[0.0, 0.5, 0.8, 0.8, 0.2, 0.0]]), reach=2)
    tensor([[0.0000, 0.0000, 0.8000, 0.0000, 0.0000, 0.0000]])
    """
    reach = min(reach, x.shape[1])
    earlier = (
        pad(x, (reach, 0), value=-1.0).unfold(1, reach + 1, 1)[..., :-1].amax(2) if reach else x - 1
    )
    return torch.where((x >= around_max(x, reach)) & (x > earlier), x, torch.zeros_like(x))
