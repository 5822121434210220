"""Is each single frame worth looking at: sharp, lit, with contrast and colour, without noise, blocks or clipping."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d, interpolate

from .base import Reward, Samples


class FrameQuality(Reward):
    """Quality of single frames without a reference or weights, in [0, 1]: a product of seven factors, each in [0, 1].

    - sharp: D / (D + sharpness), D the mean squared gradient less what noise adds;
    - contrast: s / (s + contrast), s the standard deviation over pixels and channels; both of colours with their chroma
      compressed, so that saturating does not pay;
    - lit: a smooth window of the mean in [0.04, 0.96];
    - noise: exp(-sigma / noise), sigma by the mask of Immerkaer (CVIU 1996), median form;
    - blocks: exp(-excess), the excess of the gradient at the borders of 2, 4 and 8 pixel blocks;
    - clipped: exp(-6 share), pixels at 1 in some channel or at 0 in some but not all;
    - colour: (1 + c / (c + 0.01)) / 2, c the mean length of chroma, 1 for one channel.

    Measured on frames whose shorter side is at most `size`. A term is one frame.

    >>> FrameQuality()(Samples(torch.full((1, 1, 3, 32, 32), 0.5), [""], 8.0)).value
    tensor([0.])
    """

    differentiable = True
    lowered_by = ("blur", "dim", "contrast", "grey", "noise", "grid")
    range = (0.0, 1.0)
    reach = 0
    card = "Sees no time at all. More contrast is better to it up to clipping."

    def __init__(self, sharpness: float = 0.003, contrast: float = 0.1, noise: float = 0.06, size: int = 192) -> None:
        super().__init__()
        self.sharpness, self.contrast, self.noise, self.size = sharpness, contrast, noise, size

    def terms(self, samples: Samples) -> Tensor:
        """One number a frame, (B, F)."""
        frames = samples.frames
        small = shrink(frames.flatten(0, 1), self.size).unflatten(0, frames.shape[:2])
        sigma, tone = noise_level(small), compress(small)
        energy = (gradient_energy(tone) - 2 * sigma**2).clamp(min=0)
        spread = (tone.flatten(2).var(dim=2) + 1e-8).sqrt()
        parts = [
            energy / (energy + self.sharpness),
            spread / (spread + self.contrast),
            lit(small.mean((2, 3, 4))),
            torch.exp(-sigma / self.noise),
            torch.exp(-blockiness(frames)),
            torch.exp(-6 * clipped(small)),
            colourful(small),
        ]
        return torch.stack(parts).prod(0)


def shrink(images: Tensor, size: int) -> Tensor:
    """Images (N, C, H, W) with their shorter side at most `size`, antialiased."""
    height, width = images.shape[-2:]
    if min(height, width) <= size:
        return images
    goal = [round(side * size / min(height, width)) for side in (height, width)]
    return interpolate(images, size=goal, mode="bilinear", antialias=True, align_corners=False)


def compress(video: Tensor, knee: float = 0.1) -> Tensor:
    """Colours (B, F, C, H, W) with chroma q, what differs from the mean of the channels, made q / (1 + |q| / knee)."""
    grey = video.mean(2, keepdim=True)
    chroma = video - grey
    return grey + chroma / (1 + (chroma.square().sum(2, keepdim=True) + 1e-8).sqrt() / knee)


def colourful(video: Tensor) -> Tensor:
    """(1 + c / (c + 0.01)) / 2 with c the mean length of chroma; 1 where there is one channel, (B, F)."""
    if video.shape[2] == 1:
        return video.new_ones(video.shape[:2])
    chroma = (video - video.mean(2, keepdim=True)).square().sum(2)
    c = ((chroma + 1e-10).sqrt() - 1e-5).mean((2, 3))
    return (1 + c / (c + 0.01)) / 2


def gradient_energy(video: Tensor) -> Tensor:
    """Mean squared difference of neighbours along x plus along y, (B, F)."""
    return video.diff(dim=-1).square().mean((2, 3, 4)) + video.diff(dim=-2).square().mean((2, 3, 4))


def noise_level(video: Tensor) -> Tensor:
    """Standard deviation of grain, from the median of |I * N| / 6, N = [1 -2 1; -2 4 -2; 1 -2 1]; (B, F).

    Source: Immerkaer, Fast noise variance estimation, CVIU 1996; the median leaves edges out.
    """
    mask = torch.tensor([[1.0, -2, 1], [-2, 4, -2], [1, -2, 1]]).to(video)
    plane = video.mean(2).flatten(0, 1)[:, None]
    response = conv2d(plane, mask[None, None]).abs().flatten(1).median(1).values / 6 / 0.6745
    return response.view(video.shape[:2]) * video.shape[2] ** 0.5  # the mean of channels has less grain than one


def blockiness(video: Tensor, periods: tuple[int, ...] = (2, 4, 8), slack: float = 0.3) -> Tensor:
    """By how much steps at block borders exceed the others, in logarithms above `slack`, worst period, (B, F).

    The median along each line counts: the border of a block goes through the whole picture, the edge of a thing not.
    """
    across, down = video.diff(dim=-1).abs().mean(2), video.diff(dim=-2).abs().mean(2)
    steps = [across.median(dim=2).values, down.median(dim=3).values]
    return torch.stack([_excess(profile, period, slack) for profile in steps for period in periods]).amax(0)


def _excess(profile: Tensor, period: int, slack: float) -> Tensor:
    """Mean of a profile of steps (B, F, N) at the borders of blocks against the rest, as a logarithm above `slack`."""
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
    """Share of pixels at 1 in some channel, or at 0 in some channel but not in all, ramps of 3 % wide, (B, F)."""
    high = ((video.amax(2) - 0.97) / 0.03).clamp(0, 1)
    low = ((0.03 - video.amin(2)) / 0.03).clamp(0, 1) * ((video.amax(2) - 0.1) / 0.1).clamp(0, 1)
    return torch.maximum(high, low).mean((2, 3))
