"""A reward that finds hard cuts and dissolves between two pictures."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, pad

from ._flow.fast_pans import refit_pans, thumbnails, warp_difference
from .base import About, Card, Reward, Samples
from .flow import estimate, shrink

GRID = 8  # the layout of a frame is compared on a grid of 8 x 8 cells
BINS = 16  # levels of a histogram, for each channel


class Cut(Reward):
    """Minus the number of cuts and dissolves a second; 0 means that the clip is one shot.

    The difference of two frames is s = sqrt(h l). h is the total variation between their
    histograms (16 bins a channel, averaged over the channels). l is max(0, (1 - r) / 2 -
    0.05), where r is the correlation of the light of the two frames over an 8 x 8 grid. A
    pan hardly changes h, and a change of the light of the whole picture hardly changes l,
    so neither looks like a cut.

    - A cut between two frames: s is taken over all pairs of a frame up to `flash` seconds
      before and a frame up to as long after, and the least counts, so that a flash, after
      which the old picture is back, is no cut. Twice the median s of the pairs within half
      a second is subtracted. The result counts 0 at `low` and 1 at `high`, linear between.
      It is multiplied by how much of the change the flow leaves unexplained: 0 at 0.1, 1 at
      0.3 of the picture's own contrast.
    - A dissolve: s between the frames a and b at the two ends of a span of a half or of one
      second counts 0 at 2 `low` and 1 at 1.2 `high`, if every frame between is a mixture a
      (1 - x) + b x of the two, up to 0.35 |a - b| in the colours of the grid, and no step
      of x is above a half. A dissolve is credited once, to the middle of its span.

    A term compares two neighbouring frames and is credited to both. The range is
    (-infinity, 0].

    >>> picture = torch.rand(1, 1, 3, 32, 32).expand(1, 8, 3, 32, 32)
    >>> clip = 1 - torch.cat([picture, 0.2 * picture], 1)  # the picture gets lighter: no cut
    >>> Cut()(Samples(clip, ["a boat"], 8.0)).value.abs() < 1
    tensor([True])
    """

    needs = ("cv2",)
    lowered_by = ("cut",)
    range = (-float("inf"), 0.0)
    time_support = "pair"
    lookahead = 1
    shrinks = True
    card = Card(
        sees="Hard cuts and dissolves, and where in the clip they are.",
        blind_to="Cuts between pictures of the same layout or the same colours, such as a jump cut "
        "within a shot; wipes; shots shorter than `flash`, which count as flashes.",
        hacks="Freezing; small changes in many steps, such as a morph from one picture to the "
        "next that takes longer than a second.",
        input="At least 2 frames of 8 pixels. Dissolves are found only in clips longer than "
        "half a second. A fade to or from black counts as a dissolve.",
        cost="1 ms a frame of 192 x 341, and the flow of the pairs that may be cuts.",
    )

    def __init__(
        self,
        low: float = 0.1,
        high: float = 0.25,
        flash: float = 0.1,
        flow: str = "auto",
        flow_size: int = 192,
    ) -> None:
        super().__init__()
        if not 0 <= low < high:
            raise ValueError(
                f"expected 0 <= low < high, differences of pictures, got low={low}, high={high}"
            )
        self.low, self.high = low, high
        self.flash = flash
        self.flow, self.flow_size = flow, flow_size

    def features(self, samples: Samples) -> Tensor:
        """Return what the flow leaves unexplained of each pair, and its two frames' appearance.

        The shape is (B, F - 1, 1 + 2 n), where n = C * (64 + 16): the colours of the grid and
        the histograms of a frame.
        """
        frames = samples.small(self.working_size).detach()
        grid = colours(thumbnails(samples, self.working_size))
        bytes_on_cpu = frames.dtype == torch.uint8 and not frames.is_cuda
        counted = tally(frames) if bytes_on_cpu else histogram(shrink(frames, self.working_size))
        appearance = torch.cat([grid.flatten(2), counted.flatten(2)], 2)
        unexplained = self._unexplained(frames, Appearance.of(appearance))
        return torch.cat([unexplained[..., None], appearance[:, :-1], appearance[:, 1:]], 2)

    def _unexplained(self, frames: Tensor, appearance: Appearance) -> Tensor:
        """Return how much of each pair's difference the flow leaves unexplained, (B, F - 1).

        The unit is the contrast of the picture. The flow is expensive, so it is computed only
        for pairs that differ enough to be a cut; the others are 0.
        """
        pairs = torch.arange(frames.shape[1] - 1)
        # a little below `low`, so that rounding never drops a pair that counts
        rows = appearance.unlike(pairs, pairs + 1) > self.low - 1e-3
        unexplained = appearance.grid.new_zeros(rows.shape)
        if rows.any():
            both = shrink(
                torch.stack([frames[:, :-1][rows], frames[:, 1:][rows]], 1), self.working_size
            )
            motion = refit_pans(estimate(both, self.flow, self.working_size), self.flow)
            # the contrast of the pair; the constant keeps plain pictures from dividing by 0
            scale = both.std((3, 4)).mean(2).amax(1) + 1e-2
            unexplained[rows] = (
                warp_difference(both[:, :1], both[:, 1:], motion.forward)[:, 0].clamp(max=1) / scale
            )
        return unexplained

    def terms_of_clip(self, features: Tensor, about: About) -> Tensor:
        """Return minus the cuts at each pair, per second, (B, F - 1)."""
        unexplained, first, second = features.split([1, *[(features.shape[2] - 1) // 2] * 2], 2)
        appearance = Appearance.of(torch.cat([first, second[:, -1:]], 1))
        hard = self._cuts(appearance, ramp(unexplained[..., 0], 0.1, 0.3), about.fps)
        soft = torch.stack(
            [self._dissolves(appearance, round(about.fps * s)) for s in (0.5, 1.0)]
        ).amax(0)
        # a hard cut also looks like the end of a dissolve: it must not count twice
        soft = soft * (1 - around_max(hard, round(about.fps / 2)))
        return -(hard + once(soft, round(about.fps))).clamp(max=1) * about.fps

    def _cuts(self, appearance: Appearance, unexplained: Tensor, fps: float) -> Tensor:
        """Return how much each pair is a hard cut, from 0 to 1, (B, F - 1)."""
        frames = appearance.grid.shape[1]
        pairs, radius = torch.arange(frames - 1), max(1, round(self.flash * fps))
        steps = range(radius + 1)
        ends = [
            ((pairs - i).clamp(min=0), (pairs + 1 + j).clamp(max=frames - 1))
            for i in steps
            for j in steps
        ]
        least = torch.stack([appearance.unlike(a, b) for a, b in ends]).amin(0)
        usual = median_around(appearance.unlike(pairs, pairs + 1), max(2, round(fps / 2)))
        return ramp(least - 2 * usual, self.low, self.high) * unexplained

    def _dissolves(self, appearance: Appearance, span: int) -> Tensor:
        """Return how much each pair is the middle of a dissolve, (B, F - 1).

        A dissolve has a span of `span` frames.
        """
        frames = appearance.grid.shape[1]
        degree = appearance.grid.new_zeros(len(appearance.grid), frames - 1)
        if span < 3 or frames < span + 1:  # no frame in between, or no room for the span
            return degree
        starts = torch.arange(frames - span)
        mixed = mixtures(appearance.grid.unfold(1, span + 1, 1))
        found = (
            ramp(appearance.unlike(starts, starts + span), 2 * self.low, 1.2 * self.high) * mixed
        )
        degree[:, starts + span // 2] = found
        return degree


class Appearance:
    """The appearance of frames, by which they are compared: colours on a grid, histograms.

    `grid` is (B, F, C * 64), `histograms` is (B, F, C, 16), and `layout` is the light of
    the grid without its mean, scaled to unit length, (B, F, 64).
    """

    def __init__(self, grid: Tensor, histograms: Tensor) -> None:
        self.grid, self.histograms = grid, histograms
        light = grid.unflatten(2, (-1, GRID * GRID)).mean(2)
        light = light - light.mean(2, keepdim=True)
        self.layout = light / (light.norm(dim=2, keepdim=True) + 1e-2)

    @classmethod
    def of(cls, appearance: Tensor) -> Appearance:
        """Split the tensor that `Cut.features` builds, (B, F, C * 80)."""
        channels = appearance.shape[2] // (GRID * GRID + BINS)
        grid, histograms = appearance.split([channels * GRID * GRID, channels * BINS], 2)
        return cls(grid, histograms.unflatten(2, (channels, BINS)))

    def unlike(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the difference s = sqrt(h l) of the frames `a` and `b`, (B, N)."""
        h = (self.histograms[:, a] - self.histograms[:, b]).abs().sum(3).mean(2) / 2
        r = (self.layout[:, a] * self.layout[:, b]).sum(2) + (self._flat(a) * self._flat(b))
        return (h * ((1 - r) / 2 - 0.05).clamp(min=0)).clamp(min=0).sqrt()

    def _flat(self, at: Tensor) -> Tensor:
        """Return how much a frame has no layout; two frames without layout are alike."""
        return (1 - self.layout[:, at].square().sum(2)).clamp(min=0).sqrt()


def colours(frames: Tensor) -> Tensor:
    """Return the mean colours over an 8 x 8 grid, (B, F, C, 8, 8)."""
    return adaptive_avg_pool2d(frames.flatten(0, 1), GRID).unflatten(0, frames.shape[:2])


def histogram(frames: Tensor) -> Tensor:
    """Return the histogram of each channel over 16 levels, (B, F, C, 16), of sum 1.

    A pixel between two levels counts to both in proportion, so that a small change of light
    changes the histogram little.

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
    """Return the histograms of uint8 frames, computed fast from the count of each byte."""
    # one plane at a time: a plane fits the cache of the CPU, which is faster than one large count
    planes = (plane for clip in frames for frame in clip for plane in frame.int())
    counts = torch.stack(
        [torch.bincount(plane.flatten(), minlength=256) for plane in planes]
    ).float()
    share = histogram((torch.arange(256.0) / 255).view(256, 1, 1, 1, 1))[:, 0, 0]
    return (counts @ share).view(*frames.shape[:3], BINS) / frames[0, 0, 0].numel()


def mixtures(windows: Tensor, slack: float = 0.35) -> Tensor:
    """Return how much the frames of each window are mixtures of its two ends.

    Windows (B, T, D, N), of D colours and N frames, become (B, T). The result is 1 where
    every frame is such a mixture, and 0 where a frame differs from the mixture by `slack`
    times the distance of the ends, or one step between frames covers a half of the
    distance.
    """
    start, change = windows[..., :1], windows[..., -1:] - windows[..., :1]
    length2 = change.square().sum(2, keepdim=True).clamp(min=1e-8)
    # projection on the line between both ends: the weight x of the second picture in each frame
    mix = ((windows - start) * change).sum(2, keepdim=True) / length2
    residual = (windows - start - mix * change).norm(dim=2).amax(-1) / length2[..., 0, 0].sqrt()
    largest_step = mix.diff(dim=-1).amax((-2, -1))
    return ramp(-residual, -slack, -slack / 2) * ramp(-largest_step, -0.5, -0.4)


def ramp(x: Tensor, low: float, high: float) -> Tensor:
    """Return 0 up to `low`, 1 from `high` on, and a linear rise between."""
    return ((x - low) / (high - low)).clamp(0, 1)


def median_around(x: Tensor, radius: int) -> Tensor:
    """Return the median of the neighbours within `radius` entries, without the entry itself.

    x is (B, T). An entry without any neighbour gets 0.

    >>> median_around(torch.tensor([[1.0, 9.0, 2.0, 3.0]]), radius=2)
    tensor([[2., 2., 3., 2.]])
    """
    windows = pad(x, (radius, radius), value=torch.nan).unfold(1, 2 * radius + 1, 1).contiguous()
    windows[..., radius] = torch.nan
    return windows.nanmedian(2).values.nan_to_num()


def around_max(x: Tensor, radius: int) -> Tensor:
    """Return the largest value of x (B, T) within `radius` entries of each entry."""
    return pad(x, (radius, radius), value=0.0).unfold(1, 2 * radius + 1, 1).amax(2)


def once(x: Tensor, radius: int) -> Tensor:
    """Keep each entry of x that is the largest within `radius` entries; set the others to 0.

    x is (B, T). Of equal peaks, the first is kept.

    >>> once(torch.tensor([[0.0, 0.5, 0.8, 0.8, 0.2, 0.0]]), radius=2)
    tensor([[0.0000, 0.0000, 0.8000, 0.0000, 0.0000, 0.0000]])
    """
    radius = min(radius, x.shape[1])
    earlier = (
        pad(x, (radius, 0), value=-1.0).unfold(1, radius + 1, 1)[..., :-1].amax(2)
        if radius
        else x - 1
    )
    return torch.where((x >= around_max(x, radius)) & (x > earlier), x, torch.zeros_like(x))
