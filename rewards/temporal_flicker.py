"""A reward that finds light, colour and fine texture that jump and come back."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from ._flow.fast_pans import motion_with_pans
from .base import (
    Card,
    Reward,
    Samples,
    Score,
    all_unscored,
    curve_of_terms,
    refusals,
    score_of_curves,
)
from .flow import Motion, around, blocks, warp

KINDS = ("luminance", "colour", "texture")


class TemporalFlicker(Reward):
    """Minus how much light, colour and texture jump and come back; 0 means no flicker.

    The value is -sum_k w_k f_k over three kinds k of jumps, in [-40, 0]; 0 is no flicker.
    For frame t, let c be an image of frame t, and p, n and m the same images of frames t-1,
    t+1 and t+2 after these frames are warped onto frame t along the motion. f_k is the
    mean, over pixels that are seen in all four frames, of |c - median(p, c, n)| plus the
    amount by which c and n together are above, or below, both p and m. The second part
    finds flicker that holds each level for two frames, as duplicated frames do. A steady
    rise or fall, a fade of any shape or a step, costs nothing; a change that comes back
    does. The images:

    - luminance: ln (y + floor) of the means of blocks (an eighth of the shorter side),
      where y is the mean of the channels.
    - colour: (rgb - y) / (y + floor) of the same means; the jump is a distance over the
      channels. 0 for clips of one channel.
    - texture: ln (y + floor) of pixels, smoothed by [1 2 1] / 4, less its mean over a
      quarter of the shorter side.

    All three are relative to the light, and `floor` is a part of the mean light of the four
    frames. f is an amplitude and not a rate: the same jump scores alike at any frame rate.
    `kind` is "all" or one of the three; `Score.parts` always holds all three. A term reads
    four frames and is credited to the middle two. Raises ValueError for another kind.

    >>> blink = torch.tensor([0.4, 0.6]).repeat(3)[:5].view(1, 5, 1, 1, 1).expand(1, 5, 3, 32, 32)
    >>> score = TemporalFlicker(floor=0.0)(Samples(blink, [""], 8.0))
    >>> {name: round(abs(part.value.item()), 3) for name, part in score.parts.items()}
    {'luminance': 0.405, 'colour': 0.0, 'texture': 0.0}

    0.405 is ln (0.6 / 0.4).
    """

    differentiable = True
    needs = ("cv2",)
    lowered_by = ("flicker", "noise")
    range = (-40.0, 0.0)
    time_support = "pair"
    lookahead = 3
    shrinks = True
    card = Card(
        sees="Jumps of light, of colour and of fine texture (boiling) that come back, measured "
        "separately, along the motion.",
        blind_to="Cuts, steps and fades, on purpose; flicker that holds each level for three "
        "frames or more; flicker that is smaller than a fade at the same time; places "
        "where the flow loses the picture.",
        hacks="Freezing, blurring (for texture), dimming the flickering part to the floor.",
        input="At least 4 frames of 8 pixels at any frame rate; pans of up to 0.4 widths a frame.",
        cost="3 ms a frame of 96 x 171, and 5 ms for the flow at that size.",
    )

    def __init__(
        self,
        kind: str = "all",
        luminance: float = 1.0,
        colour: float = 1.0,
        texture: float = 1.0,
        floor: float = 0.1,
        flow: str = "auto",
        flow_size: int = 96,
    ) -> None:
        super().__init__()
        if kind not in ("all", *KINDS):
            raise ValueError(f"expected kind to be one of all, {', '.join(KINDS)}, got {kind!r}")
        self.kind, self.floor = kind, floor
        self.flow, self.flow_size = flow, flow_size
        weights = dict(zip(KINDS, (luminance, colour, texture), strict=True))
        self.weights = weights if kind == "all" else {name: float(name == kind) for name in KINDS}

    def forward(self, samples: Samples) -> Score:
        """Return the score of whole clips; `Score.parts` holds that of each kind."""
        why = refusals(samples, self.needed, self.least_side)
        rows = [i for i, reason in enumerate(why) if reason is None]
        if not rows:
            return all_unscored(samples, self.time_support, why)
        chosen = samples.pick(rows)
        kinds = self.features(chosen)
        score = score_of_curves(
            curve_of_terms(self.terms_of_clip(kinds, chosen.about), self.lookahead),
            self.time_support,
            why,
            rows,
        )
        score.weights = dict(self.weights)
        score.slopes = {
            name: torch.full_like(score.value.detach(), w) for name, w in self.weights.items()
        }
        curves = [curve_of_terms(-kind, self.lookahead) for kind in kinds.unbind(-1)]
        score.parts = {
            k: score_of_curves(c, self.time_support, list(why), rows)
            for k, c in zip(KINDS, curves, strict=True)
        }
        return score

    def features(self, samples: Samples) -> Tensor:
        """Return the three amplitudes, in the order of KINDS, (B, F - 3, 3)."""
        windows = _Windows(motion_with_pans(self, samples), self.floor)
        return torch.stack([average(jump, seen) for jump, seen in windows.jumps().values()], -1)

    def terms_of_clip(self, features: Tensor, about: object) -> Tensor:
        """Return minus the weighted sum of the amplitudes, (B, F - 3)."""
        return -(features * features.new_tensor(list(self.weights.values()))).sum(-1)

    def maps(self, samples: Samples) -> dict[str, Tensor]:
        """Return each kind of jump at its place in the picture, at the size of the flow.

        The first frame, the last two frames and pixels that are out of sight have NaN.
        """
        if samples.video.shape[1] <= self.lookahead:
            return {}
        motion = motion_with_pans(self, samples)
        jumps = _Windows(motion, self.floor).jumps()
        return {name: _map(jump, seen, motion.frames) for name, (jump, seen) in jumps.items()}


class _Windows:
    """Frames t-1 to t+2, warped onto frame t, with a mask of pixels that are seen in all four.

    `images` are four tensors (B, F - 3, C, H, W), `seen` is (B, F - 3, 1, H, W), and `base` is the
    floor in units of light.
    """

    def __init__(self, motion: Motion, floor: float) -> None:
        onward = motion.forward[:, 1:-1]
        # the flow from t to t+2: the step to t+1, plus the next step found at the place there
        twice = onward + warp(motion.forward[:, 2:], onward, "bilinear")
        last = warp(motion.frames[:, 3:], twice)
        window = (motion.earlier[:, :-2], motion.frames[:, 1:-2], motion.later[:, 1:-1], last)
        self.images = [image.clamp(min=0) for image in window]
        seen_last = warp(motion.seen_later[:, 2:, None].to(onward), onward, "bilinear") > 0.99
        seen_near = motion.seen_later[:, 1:-1] & motion.seen_earlier[:, :-2]
        self.seen = (seen_last & seen_near.unsqueeze(2)).to(motion.frames)
        light = torch.stack([image.mean((2, 3, 4), keepdim=True) for image in self.images]).mean(0)
        self.base = floor * light + 1e-3

    def jumps(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return the jump of each kind and the share that is seen, in blocks or pixels.

        Both are (B, F - 3, 1, h, w).
        """
        side = max(2, round(min(self.seen.shape[-2:]) / 8))
        share = blocks(self.seen, side)
        means = [blocks(x * self.seen, side) / share.clamp(min=1e-6) for x in self.images]
        light = jump(*[(x.mean(2, keepdim=True) + self.base).log() for x in means])
        tint = jump(*[self._chroma(x) for x in means]).square().sum(2, keepdim=True)
        # pixels that are not seen in all four frames must not enter the local mean
        near = around(self.seen, 1 / 4).clamp(min=1e-6)
        grain = jump(*[self._texture(x, near) for x in self.images])
        # the root has no slope at 0: the square is replaced there before it and masked after it
        colour = torch.where(tint > 0, tint, torch.ones_like(tint)).sqrt() * (tint > 0)
        return dict(zip(KINDS, ((light, share), (colour, share), (grain, self.seen)), strict=True))

    def _chroma(self, image: Tensor) -> Tensor:
        """Return the chroma relative to the light."""
        grey = image.mean(2, keepdim=True)
        return (image - grey) / (grey + self.base)

    def _texture(self, image: Tensor, near: Tensor) -> Tensor:
        """Return the logarithm of the light less its local mean over the pixels seen."""
        tone = smooth((image.mean(2, keepdim=True) + self.base).log())
        return tone - around(tone * self.seen, 1 / 4) / near


def reversal(before: Tensor, middle: Tensor, after: Tensor) -> Tensor:
    """Return |c - median(p, c, n)|: how far the middle is above or below both others.

    >>> reversal(torch.tensor([0.0, 0.0]), torch.tensor([2.0, 3.0]), torch.tensor([5.0, 1.0]))
    tensor([0., 2.])
    """
    low, high = torch.minimum(before, after), torch.maximum(before, after)
    return (middle - high).clamp(min=0) + (low - middle).clamp(min=0)


def jump(before: Tensor, first: Tensor, second: Tensor, after: Tensor) -> Tensor:
    """Return how much the first image departs alone, and the first two together.

    The sum of two amounts: how far `first` is above or below both `before` and `second`,
    and how far `first` and `second` together are above or below both `before` and `after`.

    >>> row = [torch.tensor([x]) for x in (0.0, 3.0, 2.0, 0.0)]
    >>> jump(*row)  # 3 is 1 above 2, and both are 2 or more above 0
    tensor([3.])
    """
    low, high = torch.minimum(before, after), torch.maximum(before, after)
    together = (torch.minimum(first, second) - high).clamp(min=0) + (
        low - torch.maximum(first, second)
    ).clamp(min=0)
    return reversal(before, first, second) + together


def smooth(image: Tensor) -> Tensor:
    """Smooth (B, T, 1, H, W) by [1 2 1] / 4 along both axes.

    Warping resamples the picture, which changes the finest detail most; smoothing removes
    that detail.
    """
    flat = pad(image.flatten(0, 1), (1, 1, 1, 1), mode="replicate")
    row = (flat[..., 2:] + flat[..., :-2]) / 4 + flat[..., 1:-1] / 2
    return ((row[..., 2:, :] + row[..., :-2, :]) / 4 + row[..., 1:-1, :] / 2).unflatten(
        0, image.shape[:2]
    )


def average(amount: Tensor, seen: Tensor) -> Tensor:
    """Return the mean weighted by the share that is seen, 0 where nothing is, (B, T)."""
    return (amount * seen).sum((2, 3, 4)) / seen.sum((2, 3, 4)).clamp(min=1e-6)


def _map(jump: Tensor, seen: Tensor, frames: Tensor) -> Tensor:
    """Return a jump (B, F - 3, 1, h, w) enlarged to the frames, (B, F, H, W), NaN if not seen."""
    drawn = torch.where(seen > 0, jump, torch.full_like(jump, torch.nan))[:, :, 0]
    side = round(frames.shape[-2] / drawn.shape[-2]) if drawn.shape[-2:] != frames.shape[-2:] else 1
    if side > 1:  # blocks cut by the border are drawn cut
        drawn = interpolate(drawn, scale_factor=side, mode="nearest")[
            ..., : frames.shape[-2], : frames.shape[-1]
        ]
    return pad(drawn, (0, 0, 0, 0, 1, 2), value=torch.nan)
