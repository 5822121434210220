"""Flow where the whole picture moves too fast for the estimator, as in a whip pan.

Phase correlation finds the shift of the whole picture, and the flow is estimated again from
there.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d

from .. import flow
from ..base import Reward, Samples
from ..flow import SIZE, Motion, outside, warp

# Pixels: in frames whose shorter side is longer, the shift is searched at half the size,
# which is faster.
FINE = 96
THUMB = 16  # cells a side of a thumbnail


def thumbnails(samples: Samples, size: int = SIZE) -> Tensor:
    """Return means of the frames over a 16 x 16 grid, (B, F, C, 16, 16), without gradient.

    They are computed once for all rewards of the same samples, from frames of a shorter
    side of at most `size`.
    """
    return samples.memo(("thumbnails", size), lambda: _means(samples.small(size).detach()))


def _means(frames: Tensor) -> Tensor:
    """Return the means over a grid, in [0, 1] also for frames of bytes."""
    if frames.is_floating_point():
        return adaptive_avg_pool2d(frames.flatten(0, 1), THUMB).unflatten(0, frames.shape[:2])
    if frames.device.type != "cpu":
        return _means(frames.float() / 255)
    # frame by frame, because one frame as float fits the CPU's cache
    means = [adaptive_avg_pool2d(frame.float(), THUMB) for frame in frames.flatten(0, 1)]
    return torch.stack(means).unflatten(0, frames.shape[:2]) / 255


def motion_with_pans(
    reward: Reward, samples: Samples, gain: float = 0.5, least: float = 0.04
) -> Motion:
    """Return the motion of the samples, with fast pans estimated again.

    The options are those of `refit_pans`; the result is computed once for the same options.
    """
    method = reward.flow_method(samples)
    key = ("fast_pans", method, reward.flow_size, gain, least)
    return samples.memo(key, lambda: refit_pans(reward.motion(samples), method, gain, least))


def shifts(frames: Tensor) -> Tensor:
    """Return by how many pixels (x, y) each frame moves as a whole to the next.

    (B, F - 1, 2), by phase correlation.

    Source: Kuglin and Hines, The phase correlation image alignment method, 1975.

    >>> picture = torch.rand(1, 1, 1, 32, 40, generator=torch.Generator().manual_seed(0))
    >>> shifts(torch.cat([picture, picture.roll((3, -9), (-2, -1))], 1))
    tensor([[[-9.,  3.]]])
    """
    grey = frames.detach().float().mean(2)
    height, width = grey.shape[-2:]
    window = torch.hann_window(height).to(grey)[:, None] * torch.hann_window(width).to(grey)
    # the window hides the seam between the opposite borders of the picture
    spectrum = torch.fft.rfft2((grey - grey.mean((-2, -1), keepdim=True)) * window)
    cross = spectrum[:, 1:] * spectrum[:, :-1].conj()
    peaks = (
        torch.fft.irfft2(cross / cross.abs().clamp(min=1e-9), s=(height, width))
        .flatten(2)
        .argmax(2)
    )
    y, x = peaks // width, peaks % width
    # the Fourier transform is periodic: a place beyond the middle is a negative shift
    signed = torch.stack(
        [(x + width // 2) % width - width // 2, (y + height // 2) % height - height // 2], -1
    )
    return signed.to(frames)


def warp_difference(first: Tensor, second: Tensor, flow_to_second: Tensor) -> Tensor:
    """Return the mean difference of `second` warped onto `first`, (B, T).

    The mean is over what stays in the picture; it is infinite for a pair where less than a
    tenth of the picture stays.
    """
    keep = (~outside(flow_to_second)).unsqueeze(2).to(first)
    error = (warp(second, flow_to_second, "bilinear") - first).abs() * keep
    kept = keep.mean((2, 3, 4))
    return torch.where(kept > 0.1, error.mean((2, 3, 4)) / kept.clamp(min=1e-6), torch.inf)


def refit_pans(motion: Motion, method: str, gain: float = 0.5, least: float = 0.04) -> Motion:
    """Return the motion, with the flow of fast pans estimated again.

    A pair of frames is estimated again if a shift of the whole picture, longer than `least`
    of the diagonal, leaves an error of less than `gain` times the error that the flow
    leaves. The new flow is the shift plus the flow of what the shift leaves over.
    """
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
    forward[rows] = panned[rows] + rest.forward[:, 0]
    backward[rows] = rest.backward[:, 0] - panned[rows]
    return Motion(motion.frames, forward, backward)


Rows = tuple[Tensor, ...]


def _lost(frames: Tensor, there: Tensor, panned: Tensor, rows: Rows, gain: float) -> Rows:
    """Return those of the pairs `rows` that the shift explains better than the flow."""
    if not len(rows[0]):
        return rows
    first, second = frames[:, :-1][rows][:, None], frames[:, 1:][rows][:, None]
    errors = [
        warp_difference(first, second, flows[rows][:, None])[:, 0] for flows in (panned, there)
    ]
    better = errors[0] < gain * errors[1]
    return tuple(axis[better] for axis in rows)


def _coarse_shifts(frames: Tensor) -> Tensor:
    """Return the `shifts`, found at half the size in large frames."""
    if _side(frames) <= FINE:
        return shifts(frames)
    return 2 * shifts(avg_pool2d(frames.flatten(0, 1), 2).unflatten(0, frames.shape[:2]))


def _side(frames: Tensor) -> int:
    """Return the shorter side of the frames, pixels."""
    return min(frames.shape[-2:])
