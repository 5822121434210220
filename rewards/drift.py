"""A reward that measures how far colour, light and detail drift from the first frame."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ._flow.in_cache import in_cache
from .base import Card, Reward, Samples
from .flow import Motion, blocks, outside, warp


@dataclass(frozen=True)
class _Track:
    """The state that follows the pixels of the first frame through the clip."""

    # (B, 2, H, W), pixels: where each pixel of the first frame is now, minus its first place
    path: Tensor
    seen: Tensor  # (B, H, W) bool: whether the pixel is still in sight
    first: Tensor  # (B, C, H, W): the first frame
    detail: Tensor  # (B,): the strength of edges of the first frame


class Drift(Reward):
    """Minus how far colour, light and detail have drifted from those of the first frame.

    The pixels of frame 0 are followed along the flow. The term of frame t is -(the mean of
    |ln c_t - ln c_0| over channels and blocks that are still in sight + weight |ln (d_t /
    d_0)|), where c is the mean of a block (an eighth of the shorter side) and d the mean
    strength of edges of a frame. The part of the first frame that is out of sight is
    compared by the mean colour of the whole frame. Frame 0 itself has 0. The range is [-12,
    0]; 0 is no drift.

    >>> Drift()(Samples(torch.full((1, 5, 3, 32, 32), 0.5), [""], 8.0)).value
    tensor([0.])
    """

    needs = ("cv2",)
    differentiable = True
    lowered_by = ("fade", "drift", "cut")
    range = (-12.0, 0.0)
    time_support = "prefix"
    lookahead = 0
    least_frames = 2
    shrinks = True
    rate = 8.0
    card = Card(
        sees="Colour, light and detail that depart from those of the first frame.",
        blind_to="Whether the change is intended: a sunset or a cut lowers the score too. Compare "
        "clips of equal prompts.",
        hacks="Freezing.",
        input="At least 2 frames of 8 pixels.",
    )

    def __init__(
        self, weight: float = 0.1, floor: float = 0.1, flow: str = "auto", flow_size: int = 192
    ) -> None:
        super().__init__()
        self.weight, self.floor = weight, floor
        self.flow, self.flow_size = flow, flow_size

    @property
    def context(self) -> int:
        """Return 1: the flow of a new piece starts at the last scored frame."""
        return 1

    def terms(self, samples: Samples) -> Tensor:
        """Return the term of each frame, (B, F)."""
        return self.resume(samples, None, 0)[0]

    def resume(self, samples: Samples, state: _Track | None, old: int) -> tuple[Tensor, _Track]:
        """Return the terms after the `old` frames already scored, and the track."""
        motion = self.motion(samples)
        start = max(old, 1)
        tracks = [_begin(motion) if state is None else state]
        for t in range(start, motion.frames.shape[1]):
            tracks.append(_follow(tracks[-1], motion, t - 1))
        # a new clip begins with the term of its first frame
        shown = tracks[1:] if old else tracks
        frames = motion.frames[:, start if old else 0 :]
        path, seen = (
            torch.stack([getattr(x, name) for x in shown], 1) for name in ("path", "seen")
        )
        first, track = tracks[-1].first[:, None], tracks[-1]
        light = in_cache(partial(colour_change, floor=self.floor), frames, first, path, seen)
        change = in_cache(detail, frames) / track.detail[:, None]
        return -light - self.weight * change.log().abs(), track


def colour_change(
    frames: Tensor, first: Tensor, path: Tensor, seen: Tensor, floor: float
) -> Tensor:
    """Return the mean |ln c_t - ln c_0| of frames (B, T, C, H, W) along `path`, (B, T).

    `first` is (B, 1, C, H, W). For the share of the picture that is no longer seen, the mean
    colours of the two frames are compared. `floor` times the mean light is added before the
    logarithm, so that noise in dark places does not count.
    """
    side = max(2, round(min(frames.shape[-2:]) / 8))
    weight = blocks(seen.unsqueeze(2).to(frames), side)
    base = floor * first.mean((2, 3, 4), keepdim=True) + 1e-3
    now, then = (_tone(x, seen, weight, side, base) for x in (warp(frames, path), first))
    share = weight.mean((2, 3, 4))
    followed = ((now - then).abs() * weight).mean((2, 3, 4)) / share.clamp(min=1e-6)
    means = [(x.mean((3, 4)) + base[..., 0, 0]).log() for x in (frames, first)]
    return share * followed + (1 - share) * (means[0] - means[1]).abs().mean(2)


def detail(frames: Tensor) -> Tensor:
    """Return the mean step between neighbouring pixels, (B, T), smooth near zero."""
    across, down = (frames.diff(dim=axis).square().mean((2, 3, 4)) for axis in (-1, -2))
    return (
        across + down + 1e-4
    ).sqrt()  # 1e-4: a step below 0.01 is grain, and the root stays smooth


def _tone(image: Tensor, seen: Tensor, weight: Tensor, side: int, base: Tensor) -> Tensor:
    """Return the logarithm of the block means over the pixels that are seen."""
    means = blocks(image.clamp(min=0) * seen.unsqueeze(2), side) / weight.clamp(min=1e-6)
    return (means + base).log()


def _begin(motion: Motion) -> _Track:
    """Return the track at the first frame: nothing has moved and everything is seen."""
    first = motion.frames[:, 0]
    path = first.new_zeros(len(first), 2, *first.shape[-2:])
    return _Track(
        path, torch.ones_like(path[:, 0], dtype=torch.bool), first, detail(first[:, None])[:, 0]
    )


def _follow(track: _Track, motion: Motion, t: int) -> _Track:
    """Advance the track from frame t to t + 1 along the flow."""
    both = torch.cat([motion.forward[:, t], motion.seen_later[:, t, None].to(track.path)], 1)
    # The flow and the mask lie on the pixels of frame t: read them where the pixels are now.
    here = warp(both, track.path, "bilinear")
    # 0.5: the interpolated mask is above it where most of the neighbours are in sight
    path, visible = track.path + here[:, :2], here[:, 2] > 0.5
    return _Track(path, track.seen & visible & ~outside(path), track.first, track.detail)
