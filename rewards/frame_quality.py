"""A reward that measures the quality of each frame: sharp, lit, clean and colourful."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ._flow.in_cache import in_cache
from .base import Card, Reward, Samples, Score, score_of_curves
from .flow import blocks, shrink

FACTORS = ("sharp", "detail", "contrast", "noise", "lit", "clipped", "colour", "blocks")
LEAST = 0.1  # a fully blurred picture has about this value of `sharp`, not 0


class FrameQuality(Reward):
    """The quality of single frames, a product of eight factors that are each in [0, 1].

    The reward needs no reference and no weights. The range is [0, 1]. Before measuring,
    strong chroma is compressed, so that more saturation does not raise the score, and only
    steps from pixel to pixel that exceed the grain count, so that more grain does not raise
    it either. E is the mean squared step between neighbouring pixels. s^2 is the variance
    of the means of blocks (a sixteenth of the shorter side), which neither grain nor
    sharpening changes. The factors:

    - sharp: (0.1 + 2 x / (x^2 + 1)) / 1.1 with x = min(a / 0.22, 1, (0.5 / b)^4). a and b
      compare the steps of strong edges over one pixel (a) and over two pixels (b) with
      those of the picture at half the size, less 1/4. They are 0 for a blurred picture, up
      to 1/2 for clean edges and larger for overdrawn edges, at every size and brightness.
    - detail: k / (k + detail), where k = E / s^2 times the shorter side divided by 64
      pixels. For edges, k is the same at every size.
    - contrast: s^2 / (s^2 + contrast^2).
    - lit: a smooth window of the mean light, about [0.04, 0.96].
    - noise: exp(-sigma / noise), where sigma is the standard deviation of the grain, by the
      mask of Immerkaer (CVIU 1996) with a median.
    - blocks: exp(-excess), where excess is how much the steps at the borders of blocks of
      2, 4 and 8 pixels exceed the other steps.
    - clipped: exp(-6 share^2 / (share + 0.1)), where share is the share of pixels that are
      1 in some channel, or 0 in some but not all channels.
    - colour: (1 + c^2 / (c^2 + 0.005^2)) / 2, where c is the mean length of the chroma; 1
      for clips of one channel.

    Frames are measured at a shorter side of at most `size` pixels. With `log`, the value is
    the natural logarithm of the product plus 0.01, in [-4.6, 0.01]. Use `log` in sums in
    which no other reward may make up for a bad picture. `Score.parts` holds the eight
    factors. A term reads one frame.

    >>> FrameQuality()(Samples(torch.full((1, 1, 3, 32, 32), 0.5), [""], 8.0)).value
    tensor([0.])
    """

    differentiable = True
    version = "2"  # 2: strong edges decide what is sharp, and contrast is that of blocks
    lowered_by = ("blur", "dim", "contrast", "grey", "noise", "grid")
    range = (0.0, 1.0)
    lookahead = 0
    card = Card(
        sees="Sharpness, detail, contrast, light, noise, blocks, clipping and colour of each "
        "frame.",
        blind_to="Time, and what the picture shows.",
        hacks="A little more contrast and crisper edges, until clipping and overdrawn edges "
        "lower the score. In plain scenes, anything that is added raises the score a lot.",
        input="Any frame of 8 pixels or more.",
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
        """Return the score of whole clips; `Score.parts` holds the factors."""
        score = super().forward(samples)
        rows = [i for i, reason in enumerate(score.why) if reason is None]
        if rows:
            factors = self._factors(samples.pick(rows))
            why = list(score.why)
            score.parts = {
                name: score_of_curves(curve, self.time_support, why[:], rows)
                for name, curve in factors.items()
            }
        return score

    def terms(self, samples: Samples) -> Tensor:
        """Return the product of the factors of each frame, or its logarithm, (B, F)."""
        product = torch.stack(list(self._factors(samples).values())).prod(0)
        return (product + 0.01).log() if self.log else product

    def _factors(self, samples: Samples) -> dict[str, Tensor]:
        """Return the eight factors, each (B, F), computed once for one `Samples`."""
        key = ("factors", self.detail, self.contrast, self.noise, self.size)
        return samples.memo(key, lambda: self._measured(samples))

    def _measured(self, samples: Samples) -> dict[str, Tensor]:
        """Compute the eight factors, each (B, F)."""
        factors = in_cache(self._of_pixels, samples.small(self.size)).unbind(2)
        # in the pixels of the clip itself: shrinking would move the borders of blocks
        blocky = torch.exp(-blockiness(samples.video))
        return dict(zip(FACTORS, (*factors, blocky), strict=True))

    def _of_pixels(self, small: Tensor) -> Tensor:
        """Compute all factors but `blocks`, in the order of FACTORS, (B, F, 7)."""
        small = shrink(small, self.size)  # bytes become float
        grey = small.mean(2, keepdim=True)
        chroma = small - grey
        square = chroma.square().sum(2, keepdim=True)
        share = clipped(small)
        factors = (
            *self._shape(small, compressed(grey, chroma, square)),
            lit(small.mean((2, 3, 4))),
            torch.exp(-6 * share**2 / (share + 0.1)),
            # a clip of one channel has no colour to lose
            colourful(square[:, :, 0]) if small.shape[2] > 1 else torch.ones_like(share),
        )
        return torch.stack(factors, 2)

    def _shape(self, small: Tensor, tone: Tensor) -> tuple[Tensor, ...]:
        """Compute the factors that depend on steps and contrast, each (B, F).

        `tone` is the picture with compressed chroma.
        """
        sigma, half = noise_level(small), halved(tone)
        near = squared_steps(tone, sigma)
        energy = sum(step.mean((2, 3)) for step in near)
        plain = variance(blocks(tone, max(1, min(small.shape[-2:]) // 16)))
        k = energy / (plain + 1e-5) * min(small.shape[-2:]) / 64
        far = squared_steps(tone, sigma, 2)
        half_near, half_far = (squared_steps(half, sigma / 2, step) for step in (1, 2))
        return (
            sharp(ratio(near, half_near), ratio(far, half_far)),
            k / (k + self.detail),
            plain / (plain + self.contrast**2),
            torch.exp(-sigma / self.noise),
        )


def compressed(grey: Tensor, chroma: Tensor, square: Tensor, knee: float = 0.1) -> Tensor:
    """Compress the chroma of colours (B, F, C, H, W), so that saturation has a limit.

    The chroma q is a pixel's difference from `grey`, the mean of its channels; it becomes q /
    (1 + |q| / knee). `square` is |q|^2, (B, F, 1, H, W).
    """
    # 1e-8 keeps the slope of the root finite where a pixel is grey
    return grey + chroma / (1 + (square + 1e-8).sqrt() / knee)


def colourful(square: Tensor) -> Tensor:
    """Return (1 + c^2 / (c^2 + 0.005^2)) / 2, where c is the mean length of chroma, (B, F).

    `square` is the squared length of the chroma, (B, F, H, W). A grey picture gets 1/2.
    """
    # smooth near 0; subtracting 1e-5 makes the length of no chroma exactly 0
    length = ((square + 1e-10).sqrt() - 1e-5).mean((2, 3)) ** 2
    return (1 + length / (length + 0.005**2)) / 2


def sharp(near: Tensor, far: Tensor, clean: tuple[float, float] = (0.22, 0.5)) -> Tensor:
    """Return the factor `sharp` of `FrameQuality` from two ratios of steps, (B, F).

    (0.1 + 2 x / (x^2 + 1)) / 1.1 with x = min(a / 0.22, 1, (0.5 / b)^4), a = max(0, near -
    1/4) and b = max(0, far - 1/4). `near` is the `ratio` of steps over one pixel, in which
    blur shows; `far` is that of steps over two pixels, in which halos show. A ratio is 1/4
    for a smooth picture, 0.5 to 0.75 for clean edges and larger for overdrawn edges.

    >>> sharp(torch.tensor([0.25, 0.6, 0.6]), torch.tensor([0.25, 0.7, 1.0])).round(decimals=2)
    tensor([0.0900, 1.0000, 0.4400])
    """
    a, b = (near - 0.25).clamp(min=0), (far - 0.25).clamp(min=0)
    x = torch.minimum(a / clean[0], (clean[1] / (b + 1e-6)) ** 4).clamp(max=1)
    return (LEAST + 2 * x / (x**2 + 1)) / (LEAST + 1)


def ratio(
    fine: tuple[Tensor, Tensor], coarse: tuple[Tensor, Tensor], floor: float = 1e-5
) -> Tensor:
    """Return the size of strong steps relative to those at half the size, (B, F).

    `fine` and `coarse` are the `squared_steps` of a picture and of the picture at half the
    size. The squared steps of a smooth picture are 4 times as large at half the size, so the
    ratio is 1/4; those of clean edges stay about the same. `floor` keeps plain pictures at
    1/4.
    """
    return (strong(fine) + floor / 4) / (strong(coarse) + floor)


def strong(steps: tuple[Tensor, Tensor]) -> Tensor:
    """Return the strength of the strongest edges from squared steps along x and y, (B, F).

    For each direction, the root of the mean square of the squared steps is taken; both are
    added. The square lets strong edges outweigh the rest: a background out of focus and
    fine grain count little compared with the edges of a thing.
    """
    across, down = (step.square().mean((2, 3)) for step in steps)
    return (across + 1e-12).sqrt() + (down + 1e-12).sqrt()


def squared_steps(video: Tensor, sigma: Tensor, distance: int = 1) -> tuple[Tensor, Tensor]:
    """Return squared differences of pixels along x and along y above the grain.

    The two pixels have a distance of `distance` pixels; each result is (B, F, H, W). Grain of
    standard deviation sigma (B, F) alone has a mean of 2 sigma^2. Six times as much is
    subtracted, and negative values become 0: a step that does not exceed the grain clearly
    is no edge.
    """
    grain = 12 * sigma.square()[..., None, None]
    across = video[..., distance:] - video[..., :-distance]
    down = video[..., distance:, :] - video[..., :-distance, :]
    return (
        (across.square().mean(2) - grain).clamp(min=0),
        (down.square().mean(2) - grain).clamp(min=0),
    )


def variance(video: Tensor) -> Tensor:
    """Return the variance over pixels and channels, (B, F)."""
    centred = video - video.mean((2, 3, 4), keepdim=True)
    return centred.square().sum((2, 3, 4)) / (video[0, 0].numel() - 1)


def halved(video: Tensor) -> Tensor:
    """Return the means of two by two pixels, (B, F, C, H / 2, W / 2)."""
    # slices take a third of the time of torch's pooling
    height, width = (side // 2 * 2 for side in video.shape[-2:])
    rows = video[..., 0:height:2, :width] + video[..., 1:height:2, :width]
    return (rows[..., ::2] + rows[..., 1::2]) / 4


def noise_level(video: Tensor) -> Tensor:
    """Return the standard deviation of the grain, (B, F).

    The formula is the median of |I * N| / 6 / 0.6745, where N = [1 -2 1; -2 4 -2; 1 -2 1]
    is a mask whose response to smooth pictures is 0. The median ignores edges, which are
    few.

    Source: Immerkaer, Fast noise variance estimation, CVIU 1996.
    """
    response = video.mean(2).diff(n=2, dim=-1).diff(n=2, dim=-2).abs().flatten(2)
    # 6 is the norm of the mask, 0.6745 the median of |x| for a standard normal x
    sigma = _median(response) / 6 / 0.6745
    # the mean over C channels has less grain than a single channel, by sqrt(C)
    return sigma * video.shape[2] ** 0.5


def blockiness(
    video: Tensor, periods: tuple[int, ...] = (2, 4, 8), slack: float = 0.3, lines: int = 60
) -> Tensor:
    """Return how much the steps at block borders exceed the other steps, (B, F).

    The unit is the natural logarithm above `slack`; of all periods (sizes of blocks) and
    both directions the worst counts. The median along each line is taken, because the
    border of a block goes through the whole picture and the edge of a thing does not. In
    frames of 360 pixels and more, only every so many lines are read, at least `lines` of
    them. Clips (B, F, C, H, W) are float or uint8.
    """
    every = min(video.shape[-2:]) // lines if min(video.shape[-2:]) >= 360 else 1
    across, down = video[..., ::every, :].mT, video[..., ::every]
    steps = [in_cache(_steps, clips) for clips in (across, down)]
    return torch.stack(
        [_excess(profile, period, slack) for profile in steps for period in periods]
    ).amax(0)


def _steps(frames: Tensor) -> Tensor:
    """Return the median step from each line of (B, F, C, N, M) to the next, (B, F, N - 1)."""
    white = 255 if frames.dtype == torch.uint8 else 1
    # int16 holds differences of bytes exactly and is faster than float
    lines = frames.short() if frames.dtype == torch.uint8 else frames
    steps = lines.diff(dim=-2).abs().sum(2, dtype=lines.dtype)
    return _median(steps).to(torch.get_default_dtype() if white > 1 else frames.dtype) / (
        white * frames.shape[2]
    )


def _median(rows: Tensor) -> Tensor:
    """Return the lower median of each row of (..., M), (...)."""
    middle = (rows.shape[-1] - 1) // 2
    if rows.requires_grad or rows.device.type != "cpu":
        return rows.kthvalue(middle + 1, dim=-1).values
    # numpy's partition is many times faster than torch's kthvalue on the CPU
    return torch.from_numpy(np.partition(rows.numpy(), middle, axis=-1)[..., middle])


def _excess(profile: Tensor, period: int, slack: float) -> Tensor:
    """Return the logarithm of border steps over other steps, above `slack`, (B, F).

    `profile` (B, F, N) holds the steps from line to line; a block has `period` lines.
    """
    # a mask of the CPU, also for a profile on a GPU, which then need not be waited for
    border = torch.arange(profile.shape[-1]) % period == period - 1
    if not border.any():
        return profile.new_zeros(profile.shape[:2])
    at, off = profile[..., border].mean(-1), profile[..., ~border].mean(-1)
    return (((at + 1e-3) / (off + 1e-3)).log() - slack).clamp(min=0)


def lit(mean: Tensor) -> Tensor:
    """Return a smooth window of mean light: 0 for black and white, near 1 between.

    >>> lit(torch.tensor([0.0, 0.04, 0.5, 1.0])).round(decimals=2)
    tensor([0.0000, 0.5000, 0.9900, 0.0000])
    """
    edge = torch.minimum(mean, 1 - mean).clamp(min=0)
    return edge**2 / (edge**2 + 0.04**2)


def clipped(video: Tensor) -> Tensor:
    """Return the share of clipped pixels, with soft limits of 3 % of the range, (B, F).

    A pixel is clipped if a channel is at 1, or a channel is at 0 but not all are: black is
    no fault.
    """
    most = video.amax(2)
    high = ((most - 0.97) / 0.03).clamp(0, 1)
    low = ((0.03 - video.amin(2)) / 0.03).clamp(0, 1) * ((most - 0.1) / 0.1).clamp(0, 1)
    return torch.maximum(high, low).mean((2, 3))
