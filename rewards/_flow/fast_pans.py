"""Flow where the whole picture moves too fast for the estimator: a whip pan is found by
phase correlation first."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d

from .. import flow
from ..base import Reward, Samples
from ..flow import SIZE, Motion, outside, warp

# the shorter side, in pixels, above which the shift of a whole picture is sought at half
# the size
FINE = 96
THUMB = 16  # cells a side of a thumbnail


def thumbnails(samples: Samples, size: int = SIZE) -> Tensor:
    """Means over a 16 x 16 grid of the frames of a shorter side of at most `size`, (B, F,
    C, 16, 16), no gradient."""
    return samples.memo(("thumbnails", size), lambda: _means(samples.small(size).detach()))


def _means(frames: Tensor) -> Tensor:
    if frames.is_floating_point():
        return adaptive_avg_pool2d(frames.flatten(0, 1), THUMB).unflatten(0, frames.shape[:2])
    # one frame fits the cache
    means = [adaptive_avg_pool2d(frame.float(), THUMB) for frame in frames.flatten(0, 1)]
    return torch.stack(means).unflatten(0, frames.shape[:2]) / 255


def motion_with_pans(
    reward: Reward, samples: Samples, gain: float = 0.5, least: float = 0.04
) -> Motion:
    """The motion of the samples, with pairs whose flow lost a fast pan followed anew from
    the shift of the picture.

    A pair is followed anew where a shift of the whole picture by more than `least` of the
    diagonal leaves less than `gain` times the error that the flow leaves.
    """
    key = ("swift", reward.flow, reward.flow_size, gain, least)
    return samples.memo(key, lambda: refit_pans(reward.motion(samples), reward.flow, gain, least))


def shifts(frames: Tensor) -> Tensor:
    """By how many pixels (x, y) each frame moves as a whole to the next, by phase
    correlation; (B, F - 1, 2).

    Source: Kuglin and Hines, The phase correlation image alignment method, 1975.

    >>> picture = torch.rand(1, 1, 1, 32, 40, generator=torch.Generator().manual_seed(0))
    >>> shifts(torch.cat([picture, picture.roll((3, -9), (-2, -1))], 1))
    tensor([[[-9.,  3.]]])
    """
    grey = frames.detach().float().mean(2)
    height, width = grey.shape[-2:]
    window = torch.hann_window(height).to(grey)[:, None] * torch.hann_window(width).to(grey)
    spectrum = torch.fft.rfft2((grey - grey.mean((-2, -1), keepdim=True)) * window)
    cross = spectrum[:, 1:] * spectrum[:, :-1].conj()
    peaks = (
        torch.fft.irfft2(cross / cross.abs().clamp(min=1e-9), s=(height, width))
        .flatten(2)
        .argmax(2)
    )
    y, x = peaks // width, peaks % width
    signed = torch.stack(
        [(x + width // 2) % width - width // 2, (y + height // 2) % height - height // 2], -1
    )
    return signed.to(frames)


def warp_difference(first: Tensor, second: Tensor, there: Tensor) -> Tensor:
    """Mean |second moved onto first - first| over what stays in the picture, (B, T);
    infinite where nothing does."""
    keep = (~outside(there)).unsqueeze(2).to(first)
    error = (warp(second, there, "bilinear") - first).abs() * keep
    share = keep.mean((2, 3, 4))
    return torch.where(share > 0.1, error.mean((2, 3, 4)) / share.clamp(min=1e-6), torch.inf)


def refit_pans(motion: Motion, method: str, gain: float = 0.5, least: float = 0.04) -> Motion:
    """The motion with its lost pans followed anew."""
    frames = motion.frames.detach()
    if frames.shape[1] < 2:
        return motion
    moved = _coarse_shifts(frames)
    far = (moved.norm(dim=-1) > least * motion.diagonal).nonzero(as_tuple=True)
    panned = moved[..., None, None].expand_as(motion.forward)
    rows = _lost(frames, motion.forward, panned, far, gain)
    if not len(rows[0]):
        return motion
    first, second = frames[:, :-1][rows], frames[:, 1:][rows]
    forward, backward = motion.forward.clone(), motion.backward.clone()
    rest = flow.estimate(
        torch.stack([first, warp(second, panned[rows], "bilinear")], 1), method, _side(frames)
    )
    forward[rows], backward[rows] = (
        panned[rows] + rest.forward[:, 0],
        rest.backward[:, 0] - panned[rows],
    )
    return Motion(motion.frames, forward, backward)


Rows = tuple[Tensor, ...]


def _lost(frames: Tensor, there: Tensor, panned: Tensor, rows: Rows, gain: float) -> Rows:
    """Those of the pairs `rows` that the shift explains much better than the flow."""
    if not len(rows[0]):
        return rows
    first, second = frames[:, :-1][rows][:, None], frames[:, 1:][rows][:, None]
    errors = [
        warp_difference(first, second, flows[rows][:, None])[:, 0] for flows in (panned, there)
    ]
    better = errors[0] < gain * errors[1]
    return tuple(axis[better] for axis in rows)


def _coarse_shifts(frames: Tensor) -> Tensor:
    if _side(frames) <= FINE:
        return shifts(frames)
    return 2 * shifts(avg_pool2d(frames.flatten(0, 1), 2).unflatten(0, frames.shape[:2]))


def _side(frames: Tensor) -> int:
    return min(frames.shape[-2:])
