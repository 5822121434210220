"""Measures of one picture or one pair at a time, in numpy and OpenCV, for float32 on the CPU.

Each function does what its torch counterpart does for whole batches. A picture and its
temporary arrays fit the CPU's cache, and the temporary arrays are used again for the next
picture; a batch of tensors does not fit, and each new tensor costs the time of fresh memory.
Products of matrices are torch's: numpy's would take as many threads as there are cores,
whatever `torch.set_num_threads` says.
Shapes: (..., C, H, W) with any leading axes; flow (..., 2, H, W) in pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from math import hypot, prod

import numpy as np
import torch
from torch import Tensor

from . import planes

# Pairs of frames whose candidates for the camera's motion are compared at once: more pairs do
# not fit the cache.
FEW = 8


def rest(
    flow: Tensor, first: Tensor, second: Tensor, radius: int, counts: Tensor, favour: float
) -> tuple[Tensor, Tensor]:
    """Return the flow, 0 where no motion is the better guess, and `second` warped by it.

    See `flow.zero_where_still`.
    """
    kept, warped = torch.empty(flow.shape), torch.empty(second.shape)
    height, width = second.shape[-2:]
    per_pixel = (1 / counts).numpy()
    step = np.empty(second.shape[-3:], np.float32)
    plain, moved, places = (np.empty((n, height, width), np.float32) for n in (1, 1, 2))
    for f, a, b, zeroed, onto in _each(flow, first, second, kept, warped):
        planes.remap(b, f, "bicubic", onto, places)
        for there, change in ((b, plain), (onto, moved)):
            np.subtract(there, a, out=step)
            _mean_of_squares(step, change[0])
            planes.box(change[0], radius, per_pixel, change[0])
        moved *= favour
        moves = plain[0] >= moved[0]
        np.multiply(f, moves, out=zeroed)
        np.copyto(onto, b, where=~moves)
    return kept, warped


def hidden(
    flow: Tensor, back: Tensor, thresholds: tuple[float, float], returned: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return where a pixel is out of sight, bool (..., H, W), and the flow `back` warped.

    See `warping.occluded`. `returned` is `back` warped by `flow`, where it is known.
    """
    shape = flow.shape[:-3] + flow.shape[-2:]
    out, known = torch.empty(shape, dtype=torch.bool), returned is not None
    returned = torch.empty(flow.shape) if returned is None else returned
    both, places = (np.empty(flow.shape[-3:], np.float32) for _ in range(2))
    slack, error, spare = (np.empty(flow.shape[-2:], np.float32) for _ in range(3))
    for f, b, mask, w in _each(flow, back, out[..., None, :, :], returned):
        if not known:
            planes.remap(b, f, "bilinear", w, places)
        _norm2(w, slack, spare)
        slack += _norm2(f, error, spare)
        slack *= thresholds[0]
        slack += thresholds[1]
        np.add(w, f, out=both)
        np.greater(_norm2(both, error, spare), slack, out=mask[0])
        mask[0] |= outside(f, places)
    return out, returned


def outside(flow: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return where one flow (2, H, W) leads out of the picture, bool (H, W).

    See `warping.outside`. `places` (2, H, W) is overwritten.
    """
    height, width = flow.shape[-2:]
    for place, start, move in zip(places, planes.pixels(height, width), flow, strict=True):
        np.add(start, move, out=place)
    left = places[0] < -0.5
    for mask in (places[0] > width - 0.5, places[1] < -0.5, places[1] > height - 0.5):
        left |= mask
    return left


def contrast(frames: Tensor, radius: int, counts: Tensor, floor: float, least: float) -> Tensor:
    """Return local contrast from 0 to 1, (..., H, W); see `camera.contrast`."""
    out = torch.empty(frames.shape[:-3] + frames.shape[-2:])
    per_pixel, squares = (1 / counts).numpy(), np.empty(frames.shape[-3:], np.float32)
    means, spread = np.empty_like(squares), np.empty(len(squares), np.float32)
    for picture, target in _each(frames, out[..., None, :, :]):
        np.multiply(picture, picture, out=squares)
        for k, plane in enumerate(picture):
            planes.box(squares[k], radius, per_pixel, squares[k])
            planes.box(plane, radius, per_pixel, means[k])
            spread[k] = _variance(plane)
        np.multiply(means, means, out=means)
        squares -= means
        variance = np.maximum(squares.max(0, out=target[0]), 0, out=target[0])
        bound = max(np.float32(floor**2) * spread.max(), np.float32(least**2))
        np.divide(variance, variance + bound, out=target[0])
    return out


def edges(frames: Tensor) -> Tensor:
    """Return the squared gradient of brightness, mean over channels, (..., H, W)."""
    out = torch.zeros(frames.shape[:-3] + frames.shape[-2:])
    channels, height, width = frames.shape[-3:]
    across = np.empty((channels, height, width - 1), np.float32)
    down = np.empty((channels, height - 1, width), np.float32)
    change = np.empty((height - 1, width), np.float32)
    for picture, target in _each(frames, out[..., None, :, :]):
        np.subtract(picture[:, :, 1:], picture[:, :, :-1], out=across)
        np.subtract(picture[:, 1:], picture[:, :-1], out=down)
        _mean_of_squares(across, target[0, :, :-1])
        target[0, :-1] += _mean_of_squares(down, change)
    return out


def energy(frames: Tensor, floor: float) -> Tensor:
    """Return the mean squared slope of each frame plus `floor`, (...); see `images.energy`."""
    out = torch.empty(frames.shape[:-3])
    sums = out[..., None, None, None]
    for picture, total in _each(frames, sums):
        soft = _means_of_four(_means_of_four(picture))
        slopes = soft[..., 2:] - soft[..., :-2], soft[:, 2:] - soft[:, :-2]
        total[...] = sum(_mean_square(slope) for slope in slopes)
    return out + floor


def _mean_square(slope: np.ndarray) -> float:
    """Return the mean square of an array, added up in the order of torch's `mean`."""
    return torch.from_numpy(slope).square_().mean().item()


def _means_of_four(picture: np.ndarray) -> np.ndarray:
    """Return means of 2 x 2 pixels at every place, (C, H - 1, W - 1)."""
    rows = picture[:, 1:] + picture[:, :-1]
    four = rows[..., 1:] + rows[..., :-1]
    four *= np.float32(0.25)
    return four


def hold(ink: Tensor, radius: int, counts: Tensor) -> Tensor:
    """Return where edges hold the flow, from 0 to 1, (..., H, W); see `flow.Motion.hold`."""
    out, per_pixel = torch.empty(ink.shape), (1 / counts).numpy()
    bound = np.empty(ink.shape[-2:], np.float32)
    lines = (ink[..., None, :, :], out[..., None, :, :])
    for strength, target in _each(*lines):
        near = target[0]
        planes.box(strength[0], radius, per_pixel, near)
        plain, strong = planes.quantiles(near.ravel(), (0.25, 0.95))
        near -= plain
        np.maximum(near, 0, out=near)
        np.add(near, (strong - plain) / 16, out=bound)
        bound += np.float32(1e-8)
        near /= bound
    return out


@torch.autocast("cpu", enabled=False)
def cells(flow: Tensor, structure: Tensor, shows: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Return means over `number` x `number` cells, and the cells' contrast.

    (B, T, 5, number^2) of x ink, y ink, flow along x times ink, along y times ink, and ink,
    with x and y from the centre, diagonals; and (B, T, number^2). `ink` is the squared
    structure, 0 where the flow leaves the picture. See `camera._cells`.
    """
    height, width = flow.shape[-2:]
    down, across = _pooling(height, number), _pooling(width, number)
    y, x = (_centred(side, hypot(height, width)) for side in (height, width))
    columns = torch.cat([across, across * x]).mT.contiguous()
    out = flow.new_empty(*flow.shape[:2], 5, number, number)
    seen = flow.new_empty(*flow.shape[:2], number, number)
    layers, places = torch.empty(4, height, width), np.empty((2, height, width), np.float32)
    ink, light = layers[0].numpy(), layers[3].numpy()
    weighted = layers[1:3].numpy()
    for at in np.ndindex(*flow.shape[:2]):
        f, edge = flow[at].detach().numpy(), structure[at].detach().numpy()
        np.multiply(edge, edge, out=ink)
        ink *= ~outside(f, places)
        np.multiply(f, ink, out=weighted)
        light[...] = shows[at].detach().numpy()
        means = (down @ layers) @ columns  # (4, number, 2 number): means, and those times x
        out[at][4], out[at][0] = means[0, :, :number], means[0, :, number:]
        out[at][1] = ((down * y) @ layers[0]) @ columns[:, :number]
        out[at][2:4], seen[at] = means[1:3, :, :number], means[3, :, :number]
    return out.flatten(-2), seen.flatten(-2)


@torch.autocast("cpu", enabled=False)
def costs(
    shift: Tensor, turn: Tensor, at: Tensor, moved: Tensor, weight: Tensor, most: float
) -> Tensor:
    """Return sum_k w_k min(|moved_k - shift - turn at_k|, most)^2 of each candidate, (B, T, G).

    `shift` and `turn` are (B, T, G), complex; `at`, `moved` (B, T, K), complex, and `weight`
    (B, T, K). Both parts of the residuals of all candidates are one product of matrices.
    """
    none, one = torch.zeros_like(shift.real), torch.ones_like(shift.real)
    x = torch.stack([-shift.real, -turn.real, turn.imag, one, none], -1)
    y = torch.stack([-shift.imag, -turn.imag, -turn.real, none, one], -1)
    facts = [torch.ones_like(weight), at.real, at.imag, moved.real, moved.imag]
    lines = torch.cat([x, y], -2), torch.stack(facts, -2), weight.unsqueeze(-1)
    found = []
    for left, right, share in zip(*(t.flatten(0, 1).split(FEW) for t in lines), strict=True):
        across, upright = torch.bmm(left, right).square_().chunk(2, 1)
        found.append(torch.bmm((across + upright).clamp_(max=most**2), share))
    return torch.cat(found).view(shift.shape) if found else shift.real.clone()


def _each(*tensors: Tensor) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield the last three axes of tensors that share their leading axes, without a copy."""
    arrays = [tensor.detach().numpy() for tensor in tensors]
    lead = tensors[0].shape[:-3]
    if not prod(lead):
        return
    for index in np.ndindex(*lead):
        yield tuple(array[index] for array in arrays)


def _mean_of_squares(values: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Write the mean over channels of the squares of (C, H, W) to `out`, (H, W).

    `values` is overwritten.
    """
    np.multiply(values, values, out=values)
    if len(values) == 1:
        out[...] = values[0]
        return out
    np.add(values[0], values[1], out=out)
    for plane in values[2:]:
        out += plane
    out /= np.float32(len(values))
    return out


def _norm2(flow: np.ndarray, out: np.ndarray, spare: np.ndarray) -> np.ndarray:
    """Write the squared length of a flow (2, H, W) to `out`, (H, W)."""
    np.multiply(flow[0], flow[0], out=out)
    out += np.multiply(flow[1], flow[1], out=spare)
    return out


def _variance(plane: np.ndarray) -> float:
    """Return the variance of a plane, with one less than the number of pixels."""
    deviation = planes.deviation(plane)
    return deviation**2 * plane.size / (plane.size - 1)


@lru_cache(maxsize=32)
def _pooling(side: int, cells: int) -> Tensor:
    """Return the matrix (cells, side) that averages over cells as adaptive pooling does."""
    unit = torch.eye(side)[:, None]
    return torch.nn.functional.adaptive_avg_pool1d(unit, cells)[:, 0].T.contiguous()


@lru_cache(maxsize=32)
def _centred(side: int, diagonal: float) -> Tensor:
    """Return the positions along an axis from the centre of the picture, in diagonals."""
    return (torch.arange(side) - (side - 1) / 2) / diagonal
