"""Is each single frame worth looking at: sharp, lit, with contrast and colour, without
noise, blocks or clipping."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from .base import Card, Reward, Samples, Score, finish
from .flow import blocks, shrink

LEAST = 0.1  # of `sharp`: a blurred picture is worth a tenth


class FrameQuality(Reward):
    """Quality of single frames without a reference or weights, in [0, 1]: a product of
    eight factors, each in [0, 1].

    All of colours with their chroma compressed, so that saturating does not pay, and of
    steps that stand out from the grain, so that grain does not. With E the mean squared
    step from pixel to pixel and s^2 the variance of the means of blocks, a sixteenth of the
    shorter side, which neither grain nor sharpening moves:

    - sharp: (0.1 + 2 x / (x^2 + 1)) / 1.1, x = min(a / 0.22, 1, (0.5 / b)^4). a and b say
      by how much more than 1/4 the steps of strong edges, over one pixel and over two, are
      those of the picture at half the size: 0 for a blurred picture, up to 1/2 for clean
      edges, more where edges are overdrawn, at every size and brightness;
    - detail: k / (k + detail), k = E / s^2 times the shorter side in 64 pixels, for edges
      the same at every size;
    - contrast: s^2 / (s^2 + contrast^2);
    - lit: a smooth window of the mean in [0.04, 0.96];
    - noise: exp(-sigma / noise), sigma by the mask of Immerkaer (CVIU 1996), median form;
    - blocks: exp(-excess), the excess of the gradient at the borders of 2, 4 and 8 pixel
      blocks;
    - clipped: exp(-6 share^2 / (share + 0.1)), pixels at 1 in some channel or at 0 in some
      but not all;
    - colour: (1 + c^2 / (c^2 + 0.005^2)) / 2, c the mean length of chroma, 1 for one
      channel.

    Measured on frames whose shorter side is at most `size`. With `log` the natural
    logarithm of 0.01 and the product, in [-4.6, 0.01], for sums in which no other reward
    may buy a bad picture. `Score.parts` has the factors, sharp, detail, contrast, noise,
    lit, clipped, colour, blocks. A term is one frame.

    >>> FrameQuality()(Samples(torch.full((1, 1, 3, 32, 32), 0.5), [""], 8.0)).value
    tensor([0.])
    """

    differentiable = True
    version = "2"  # 2: strong edges decide what is sharp, and contrast is that of blocks
    lowered_by = ("blur", "dim", "contrast", "grey", "noise", "grid")
    range = (0.0, 1.0)
    reach = 0
    card = Card(
        sees="Sharpness, detail, contrast, light, noise, blocks, clipping and colour of each frame.",
        blind_to="Time, all of it; and what the picture shows.",
        hacks="More contrast and crisper edges, a little, up to clipping and overdrawn edges; on plain scenes any "
        "thing added, a lot.",
        input="Any frame of 8 pixels.",
    )

    def __init__(
        self,
        detail: float = 0.006,
        contrast: float = 0.065,
        noise: float = 0.06,
        size: int = 192,
        log: bool = False,
    ) -> None:
        super().__init__()
        self.detail, self.contrast = detail, contrast
        self.noise, self.size = noise, size
        self.log = log

    def forward(self, samples: Samples) -> Score:
        """The score of whole clips; the factors are in `parts`."""
        score = super().forward(samples)
        rows = [i for i, reason in enumerate(score.why) if reason is None]
        if rows:
            factors = self._factors(samples.pick(rows))
            why = list(score.why)
            score.parts = {
                name: finish(curve, self.support, why[:], rows) for name, curve in factors.items()
            }
        return score

    def terms(self, samples: Samples) -> Tensor:
        """One number a frame, (B, F)."""
        product = torch.stack(list(self._factors(samples).values())).prod(0)
        return (product + 0.01).log() if self.log else product

    def _factors(self, samples: Samples) -> dict[str, Tensor]:
        key = ("factors", self.detail, self.contrast, self.noise, self.size)
        return samples.memo(key, lambda: self._measured(samples))

    def _measured(self, samples: Samples) -> dict[str, Tensor]:
        small = shrink(samples.small(self.size), self.size)
        share = clipped(small)
        return self._shape(small) | {
            "lit": lit(small.mean((2, 3, 4))),
            "clipped": torch.exp(-6 * share**2 / (share + 0.1)),
            "colour": colourful(small),
            "blocks": torch.exp(-blockiness(samples.video)),
        }

    def _shape(self, small: Tensor) -> dict[str, Tensor]:
        sigma, tone = noise_level(small), compress(small)
        half, energy = halved(tone), sum(step.mean((2, 3)) for step in squared_steps(tone, sigma))
        plain = variance(blocks(tone, max(1, min(small.shape[-2:]) // 16)))
        k = energy / (plain + 1e-5) * min(small.shape[-2:]) / 64
        return {
            "sharp": sharp(ratio(tone, half, sigma, 1), ratio(tone, half, sigma, 2)),
            "detail": k / (k + self.detail),
            "contrast": plain / (plain + self.contrast**2),
            "noise": torch.exp(-sigma / self.noise),
        }


def compress(video: Tensor, knee: float = 0.1) -> Tensor:
    """Colours (B, F, C, H, W) with chroma q, what differs from the mean of the channels,
    made q / (1 + |q| / knee)."""
    grey = video.mean(2, keepdim=True)
    chroma = video - grey
    return grey + chroma / (1 + (chroma.square().sum(2, keepdim=True) + 1e-8).sqrt() / knee)


def colourful(video: Tensor) -> Tensor:
    """(1 + c^2 / (c^2 + 0.005^2)) / 2 with c the mean length of chroma; 1 where there is
    one channel, (B, F)."""
    if video.shape[2] == 1:
        return video.new_ones(video.shape[:2])
    chroma = (video - video.mean(2, keepdim=True)).square().sum(2)
    square = ((chroma + 1e-10).sqrt() - 1e-5).mean((2, 3)) ** 2
    return (1 + square / (square + 0.005**2)) / 2


def sharp(near: Tensor, far: Tensor, clean: tuple[float, float] = (0.22, 0.5)) -> Tensor:
    """(0.1 + 2 x / (x^2 + 1)) / 1.1, x = min(a / 0.22, 1, (0.5 / b)^4), a = near - 1/4 and
    b = far - 1/4, 0 or more.

    `near` and `far` are the `ratio` of steps over one pixel, in which blur shows, and over
    two, in which halos show: 1/4 for a smooth picture, 0.5 to 0.75 for clean edges, more
    for edges that are overdrawn.

    >>> sharp(torch.tensor([0.25, 0.6, 0.6]), torch.tensor([0.25, 0.7, 1.0])).round(decimals=2)
    tensor([0.0900, 1.0000, 0.4400])
    """
    a, b = (near - 0.25).clamp(min=0), (far - 0.25).clamp(min=0)
    x = torch.minimum(a / clean[0], (clean[1] / (b + 1e-6)) ** 4).clamp(max=1)
    return (LEAST + 2 * x / (x**2 + 1)) / (LEAST + 1)


def ratio(tone: Tensor, half: Tensor, sigma: Tensor, apart: int, floor: float = 1e-5) -> Tensor:
    """How large the steps of strong edges are beside those of the same picture at half the
    size, (B, F).

    Halving a smooth picture makes its squared steps 4 times as large; those of clean edges
    stay about the same.
    """
    fine, coarse = (
        strong(squared_steps(x, grain, apart)) for x, grain in ((tone, sigma), (half, sigma / 2))
    )
    return (fine + floor / 4) / (coarse + floor)


def strong(steps: tuple[Tensor, Tensor]) -> Tensor:
    """The root of the mean square of squared steps along x, plus that along y, (B, F):
    strong edges outweigh the rest.

    What is soft because it is out of focus, and what is fine grain, counts little beside
    the edges of a thing.
    """
    across, down = (step.square().mean((2, 3)) for step in steps)
    return (across + 1e-12).sqrt() + (down + 1e-12).sqrt()


def squared_steps(video: Tensor, sigma: Tensor, apart: int = 1) -> tuple[Tensor, Tensor]:
    """Squared differences of pixels `apart` along x and along y, (B, F, H, W) each, less
    what grain of `sigma` makes.

    Grain alone has a mean of 2 sigma^2, sigma (B, F); six times as much is taken off, and
    nothing is below 0: what does not stand out from the grain is no edge.
    """
    grain = 12 * sigma.square()[..., None, None]
    across = video[..., apart:] - video[..., :-apart]
    down = video[..., apart:, :] - video[..., :-apart, :]
    return tuple((step.square().mean(2) - grain).clamp(min=0) for step in (across, down))  # type: ignore[return-value]


def variance(video: Tensor) -> Tensor:
    """Over pixels and channels, (B, F)."""
    centred = video - video.mean((2, 3, 4), keepdim=True)
    return centred.square().sum((2, 3, 4)) / (video[0, 0].numel() - 1)


def halved(video: Tensor) -> Tensor:
    """Means of two by two pixels, (B, F, C, H / 2, W / 2)."""
    return avg_pool2d(video.flatten(0, 1), 2).unflatten(0, video.shape[:2])


def noise_level(video: Tensor) -> Tensor:
    """Standard deviation of grain, from the median of |I * N| / 6, N = [1 -2 1; -2 4 -2; 1
    -2 1]; (B, F).

    Source: Immerkaer, Fast noise variance estimation, CVIU 1996; the median leaves edges
    out.
    """
    response = video.mean(2).diff(n=2, dim=-1).diff(n=2, dim=-2).abs().flatten(2)
    sigma = _median(response.flatten(0, 1)).view(video.shape[:2]) / 6 / 0.6745
    return sigma * video.shape[2] ** 0.5  # the mean of channels has less grain than one


def blockiness(
    video: Tensor, periods: tuple[int, ...] = (2, 4, 8), slack: float = 0.3, lines: int = 60
) -> Tensor:
    """By how much steps at block borders exceed the others, in logarithms above `slack`,
    worst period, (B, F).

    The median along each line counts: the border of a block goes through the whole picture,
    the edge of a thing not. Of frames of 360 pixels and more at least `lines` lines, evenly
    spread, are looked at. Clips (B, F, C, H, W), float or uint8.
    """
    every = min(video.shape[-2:]) // lines if min(video.shape[-2:]) >= 360 else 1
    across, down = video[..., ::every, :].mT, video[..., ::every]
    steps = [
        torch.stack([_steps(clip) for clip in clips.flatten(0, 1)]) for clips in (across, down)
    ]
    steps = [profile.unflatten(0, video.shape[:2]) for profile in steps]
    return torch.stack(
        [_excess(profile, period, slack) for profile in steps for period in periods]
    ).amax(0)


def _steps(frame: Tensor) -> Tensor:
    """The median step from each line of (C, N, M) to the next, channels averaged, (N -
    1,)."""
    whole = 255 if frame.dtype == torch.uint8 else 1
    lines = frame.short() if frame.dtype == torch.uint8 else frame
    steps = torch.stack(list(lines.diff(dim=1).abs().unbind(0))).sum(0, dtype=lines.dtype)
    return _median(steps).to(torch.get_default_dtype() if whole > 1 else frame.dtype) / (
        whole * len(frame)
    )


def _median(rows: Tensor) -> Tensor:
    """The lower median of each row of (N, M), (N,)."""
    middle = (rows.shape[1] - 1) // 2
    if rows.requires_grad or rows.device.type != "cpu":
        return rows.kthvalue(middle + 1, dim=1).values
    # much the faster
    return torch.from_numpy(np.partition(rows.numpy(), middle, axis=1)[:, middle])


def _excess(profile: Tensor, period: int, slack: float) -> Tensor:
    """Mean of a profile of steps (B, F, N) at the borders of blocks against the rest, as a
    logarithm above `slack`."""
    border = torch.arange(profile.shape[-1], device=profile.device) % period == period - 1
    if not border.any():
        return profile.new_zeros(profile.shape[:2])
    at, off = profile[..., border].mean(-1), profile[..., ~border].mean(-1)
    return (((at + 1e-3) / (off + 1e-3)).log() - slack).clamp(min=0)


def lit(mean: Tensor) -> Tensor:
    """A smooth window of mean light: 0 in the dark and at white, near 1 between.

    >>> lit(torch.tensor([0.0, 0.04, 0.5, 1.0])).round(decimals=2)
    tensor([0.0000, 0.5000, 0.9900, 0.0000])
    """
    edge = torch.minimum(mean, 1 - mean).clamp(min=0)
    return edge**2 / (edge**2 + 0.04**2)


def clipped(video: Tensor) -> Tensor:
    """Share of pixels at 1 in some channel, or at 0 in some channel but not in all, ramps
    of 3 % wide, (B, F)."""
    high = ((video.amax(2) - 0.97) / 0.03).clamp(0, 1)
    low = ((0.03 - video.amin(2)) / 0.03).clamp(0, 1) * ((video.amax(2) - 0.1) / 0.1).clamp(0, 1)
    return torch.maximum(high, low).mean((2, 3))
