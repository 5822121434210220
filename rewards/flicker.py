"""A reward that finds light, colour and sharpness that jump from frame to frame."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from ._flow.in_cache import in_cache
from .base import Card, Reward, Samples
from .flow import blocks


class Flicker(Reward):
    """Minus how much light, colour and sharpness jump; 0 means that nothing flickers.

    A term is -(the mean over blocks and channels of |ln n + ln p - 2 ln c|) - detail |ln
    D_n + ln D_p - 2 ln D_c|. c is the mean of a block (an eighth of the shorter side) of
    frame t. n and p are the same means of frames t+1 and t-1 after these frames are warped
    onto frame t along the flow, over pixels that are seen in all three. D is the mean
    squared slope of a whole frame; D jumps where blended and sharp frames alternate, as in
    many slow motions. The range is [-20, 0]; 0 is no flicker.

    Second differences let a steady fade pass, and logarithms ignore a constant gain. A term
    reads three frames and is credited to the middle frame.

    >>> import torch
    >>> Flicker()(Samples(torch.full((1, 5, 3, 32, 32), 0.5), [""], 8.0)).value.abs()
    tensor([0.])
    """

    differentiable = True
    needs = ("cv2",)
    version = "2"  # 2: sharpness by slopes over two pixels
    lowered_by = ("flicker", "cut", "slow")
    range = (-20.0, 0.0)
    time_support = "pair"
    lookahead = 2
    shrinks = True
    rate = 8.0
    card = Card(
        sees="Jumps of light, colour and sharpness from their own trend, followed along the "
        "motion.",
        blind_to="Flicker of parts smaller than an eighth of the frame; changes that take longer "
        "than three frames.",
        hacks="Freezing, or dimming the part that flickers.",
        input="At least 3 frames of 8 pixels.",
    )

    def __init__(
        self, floor: float = 0.1, detail: float = 0.25, flow: str = "auto", flow_size: int = 192
    ) -> None:
        super().__init__()
        self.floor, self.detail = floor, detail
        self.flow, self.flow_size = flow, flow_size

    def terms(self, samples: Samples) -> Tensor:
        """Return one number for three frames in a row, (B, F - 2)."""
        motion = self.motion(samples)
        middle = motion.frames[:, 1:-1]
        after, before = motion.later[:, 1:], motion.earlier[:, :-1]
        seen = (motion.seen_later[:, 1:] & motion.seen_earlier[:, :-1]).unsqueeze(2)
        side = max(2, round(min(middle.shape[-2:]) / 8))
        sharpness_jump = (self.energy(samples) + 1e-4).log().diff(n=2, dim=1).abs()
        light = in_cache(partial(jump, side=side, floor=self.floor), before, middle, after, seen)
        return -light - self.detail * sharpness_jump


def jump(
    before: Tensor, middle: Tensor, after: Tensor, seen: Tensor, side: int, floor: float
) -> Tensor:
    """Return the mean |ln n + ln p - 2 ln c| of block means, (B, T).

    The images are (B, T, C, H, W). Each block counts by the share of its pixels that is
    seen. `floor` times the mean light is added before the logarithm, so that noise in dark
    places does not count.
    """
    weight = blocks(seen.to(middle), side)
    # 1e-3, about a quarter of a grey level of 255: a black picture has a finite logarithm
    base = floor * (before + middle + after).mean((2, 3, 4), keepdim=True) / 3 + 1e-3
    means = (
        blocks(x.clamp(min=0) * seen, side) / weight.clamp(min=1e-6)
        for x in (before, middle, after)
    )
    p, c, n = ((mean + base).log() for mean in means)
    change = (n + p - 2 * c).abs().mean(2, keepdim=True)
    return (change * weight).sum((2, 3, 4)) / weight.sum((2, 3, 4)).clamp(min=1e-6)
