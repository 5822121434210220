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

# Pixels of the pictures that are computed at once: more pictures do not fit the cache.
SMALL = 32_768
# Pairs of frames whose candidates for the camera's motion are compared at once: more pairs do
# not fit the cache.
FEW = 8


def rest(
    flow: Tensor, first: Tensor, second: Tensor, radius: int, favour: float
) -> tuple[Tensor, Tensor]:
    """Return the flow, 0 where no motion is the better guess, and `second` warped by it.

    See `flow.zero_where_still`.
    """
    kept, warped = torch.empty(flow.shape), torch.empty(second.shape)
    channels, height, width = second.shape[-3:]
    warper = planes.Warper("bicubic", channels, height, width)
    interleaved = [planes.empty(channels, height, width) for _ in range(3)]
    sums = [np.empty((height, width), np.float32) for _ in range(2)]
    for f, a, b, zeroed, onto in _each(flow, first, second, kept, warped):
        here, there = planes.interleave(a, interleaved[0]), planes.interleave(b, interleaved[1])
        moved = warper.interleaved(there, f)
        for picture, change in zip((there, moved), sums, strict=True):
            planes.squared_difference(picture, here, interleaved[2], change)
            planes.box_sums(change, radius, change)
        sums[1] *= favour
        moves = sums[0] >= sums[1]
        np.multiply(f, moves, out=zeroed)
        planes.separate(moved, onto)
        np.copyto(onto, b, where=~moves)
    return kept, warped


def hidden(
    flow: Tensor, back: Tensor, thresholds: tuple[float, float], returned: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return where a pixel is out of sight, bool (..., H, W), and the flow `back` warped.

    See `warping.occluded`. `returned` is `back` warped by `flow`, where it is known.
    """
    shape, known = flow.shape[:-3] + flow.shape[-2:], returned is not None
    out = torch.empty(shape, dtype=torch.bool)
    returned = torch.empty(flow.shape) if returned is None else returned
    for f, b, mask, w in _some(flow, back, out[..., None, :, :], returned):
        if not known:
            planes.remaps_of(b, f, "bilinear", w)
        slack = _norm2(w)
        slack += _norm2(f)
        slack *= thresholds[0]
        slack += thresholds[1]
        both = w + f
        np.greater(_norm2(both), slack, out=mask[:, 0])
        mask[:, 0] |= outside(f, both)
    return out, returned


def outside(flow: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return where flows (..., 2, H, W) lead out of the picture, bool (..., H, W).

    See `warping.outside`. `places`, of the shape of the flows, is overwritten.
    """
    height, width = flow.shape[-2:]
    x, y = places[..., 0, :, :], places[..., 1, :, :]
    for place, start, move in zip((x, y), planes.pixels(height, width), (0, 1), strict=True):
        np.add(start, flow[..., move, :, :], out=place)
    left = x < -0.5
    for mask in (x > width - 0.5, y < -0.5, y > height - 0.5):
        left |= mask
    return left


def contrast(frames: Tensor, radius: int, counts: Tensor, floor: float, least: float) -> Tensor:
    """Return local contrast from 0 to 1, (..., H, W); see `camera.contrast`."""
    out = torch.empty(frames.shape[:-3] + frames.shape[-2:])
    arrays = [planes.empty(*frames.shape[-3:]) for _ in range(4)]
    interleaved, squares, means, per_pixel = arrays
    per_pixel.T[...] = (1 / counts).T.numpy()
    for picture, target in _each(frames, out[..., None, :, :]):
        one = planes.interleave(picture, interleaved)
        np.multiply(one, one, out=squares)
        planes.box(squares, radius, per_pixel, squares)
        planes.box(one, radius, per_pixel, means)
        means *= means
        squares -= means
        variance = planes.largest_channel(squares, target[0])
        np.maximum(variance, 0, out=variance)
        spread = planes.deviation(one) ** 2 * counts.numel() / (counts.numel() - 1)
        variance /= variance + np.float32(max(floor**2 * spread, least**2))
    return out


def edges(frames: Tensor) -> Tensor:
    """Return the squared gradient of brightness, mean over channels, (..., H, W)."""
    out = torch.zeros(frames.shape[:-3] + frames.shape[-2:])
    for picture, target in _some(frames, out[..., None, :, :]):
        strength = target[:, 0]
        strength[..., :-1] = _mean_of_squares(picture[..., 1:] - picture[..., :-1])
        strength[..., :-1, :] += _mean_of_squares(picture[..., 1:, :] - picture[..., :-1, :])
    return out


def energy(frames: Tensor, floor: float) -> Tensor:
    """Return the mean squared slope of each frame plus `floor`, (...); see `images.energy`."""
    out = torch.empty(frames.shape[:-3])
    for picture, total in _some(frames, out[..., None, None, None]):
        soft = _means_of_four(_means_of_four(picture))
        across, down = soft[..., 2:] - soft[..., :-2], soft[..., 2:, :] - soft[..., :-2, :]
        pairs = zip(across, down, strict=True)
        total[:, 0, 0, 0] = [sum(planes.mean_square(slope) for slope in both) for both in pairs]
    return out + floor


def _means_of_four(picture: np.ndarray) -> np.ndarray:
    """Return means of 2 x 2 pixels at every place, (..., H - 1, W - 1)."""
    rows = picture[..., 1:, :] + picture[..., :-1, :]
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


def lasting(onward: Tensor, back: Tensor, ink: Tensor, radius: int, counts: Tensor) -> Tensor:
    """Return the speed that lasts over three frames along edges nearby, (B, T, H, W).

    `onward` and `back` are the flows (B, T, 2, H, W) to the next frame and to the one before.
    See `dynamic_degree.speeds`.
    """
    out, per_pixel = torch.empty(ink.shape), (1 / counts).numpy()
    for f, b, edge, speed in _some(onward, back, ink[..., None, :, :], out[..., None, :, :]):
        near = edge[:, 0].copy()
        both = np.stack([f - b, f + b], 1)
        both *= edge[:, :, None]
        for plane in (*near, *both.reshape(-1, *near.shape[1:])):
            planes.box(plane, radius, per_pixel, plane)
        lengths = planes.length(both[:, :, 0], both[:, :, 1])
        np.subtract(lengths[:, 0], lengths[:, 1], out=speed[:, 0])
        np.maximum(speed, 0, out=speed)
        speed[:, 0] /= np.maximum(near, 1e-12, out=near)
        speed *= 0.5
    return out


def lasting_means(onward: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean change of flows (B, T, 2, H, W), and the mean speed that lasts, (B, T)."""
    out = torch.zeros(*onward.shape[:2], 2)
    for f, b, means in _some(onward, back, out[..., None, None, :]):
        if f.any() or b.any():
            for one, two, both in zip(f, b, means[:, 0, 0], strict=True):
                change, turn = planes.length(*(one + two)), planes.length(*(one - two))
                both[0] = planes.mean(change)
                np.maximum(np.subtract(turn, change, out=turn), 0, out=turn)
                both[1] = planes.mean(turn) / 2
    return out[..., 0], out[..., 1]


@torch.autocast("cpu", enabled=False)
def cells(flow: Tensor, structure: Tensor, shows: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Return means over `number` x `number` cells, and the cells' contrast.

    (B, T, 5, number^2) of x ink, y ink, flow along x times ink, along y times ink, and ink,
    with x and y from the centre, diagonals; and (B, T, number^2). `ink` is the squared
    structure, 0 where the flow leaves the picture. See `camera._cells`.
    """
    height, width = flow.shape[-2:]
    y, x = (_centred(side, hypot(height, width)) for side in (height, width))
    down, across = _pooling(height, number), _pooling(width, number)
    rows, columns = torch.cat([down, down * y]), torch.cat([across, across * x]).mT.contiguous()
    out = flow.new_empty(*flow.shape[:2], 5, number, number)
    seen = flow.new_empty(*flow.shape[:2], number, number)
    for f, edge, light, means, shown in _some(flow, structure, shows, out, seen):
        layers = np.empty((len(f), 4, height, width), np.float32)
        ink = np.multiply(edge, edge, out=layers[:, 0])
        ink *= ~outside(f, layers[:, 1:3])
        np.multiply(f, ink[:, None], out=layers[:, 1:3])
        layers[:, 3] = light
        # means over cells, those times x to their right, and those times y below them
        pooled = (rows @ (torch.from_numpy(layers) @ columns)).numpy()
        means[:, 0], means[:, 1] = pooled[:, 0, :number, number:], pooled[:, 0, number:, :number]
        means[:, 2:4], means[:, 4] = (
            pooled[:, 1:3, :number, :number],
            pooled[:, 0, :number, :number],
        )
        shown[...] = pooled[:, 3, :number, :number]
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


@torch.autocast("cpu", enabled=False)
def pooled(image: Tensor, cells: tuple[int, int]) -> Tensor:
    """Return means over cells as adaptive pooling gives, (..., h, w) of (..., H, W).

    `cells` are the numbers (h, w) of cells. For few cells, products of matrices are several
    times faster than torch's pooling.
    """
    down, across = (_pooling(*both) for both in zip(image.shape[-2:], cells, strict=True))
    return down @ (image.detach() @ across.mT)


def _each(*tensors: Tensor) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield the last three axes of tensors that share their leading axes, without a copy."""
    arrays = [tensor.detach().numpy() for tensor in tensors]
    lead = tensors[0].shape[:-3]
    if not prod(lead):
        return
    for index in np.ndindex(*lead):
        yield tuple(array[index] for array in arrays)


def _some(*tensors: Tensor) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield tensors (B, T, ...) a few entries of T of one clip at a time, without a copy.

    Tensors (T, ...) are one clip. One call of numpy for several small pictures costs less than
    one call for each, as long as they fit the cache.
    """
    lead = tensors[0].dim() - 3
    arrays = [(t if lead > 1 else t[None]).detach().numpy() for t in tensors]
    clips, count = arrays[0].shape[:2]
    few = max(1, SMALL // max(1, *(prod(array.shape[2:]) for array in arrays)))
    for b in range(clips):
        for start in range(0, count, few):
            yield tuple(array[b, start : start + few] for array in arrays)


def _mean_of_squares(values: np.ndarray) -> np.ndarray:
    """Return the mean over channels of the squares of (..., C, H, W), (..., H, W).

    `values` is overwritten.
    """
    np.multiply(values, values, out=values)
    channels = values.shape[-3]
    total = values[..., 0, :, :].copy()
    for channel in range(1, channels):
        total += values[..., channel, :, :]
    total /= np.float32(channels)
    return total


def _norm2(flow: np.ndarray) -> np.ndarray:
    """Return the squared length of flows (..., 2, H, W), (..., H, W)."""
    x, y = flow[..., 0, :, :], flow[..., 1, :, :]
    total = x * x
    total += y * y
    return total


@lru_cache(maxsize=32)
def _pooling(side: int, cells: int) -> Tensor:
    """Return the matrix (cells, side) that averages over cells as adaptive pooling does."""
    unit = torch.eye(side)[:, None]
    return torch.nn.functional.adaptive_avg_pool1d(unit, cells)[:, 0].T.contiguous()


@lru_cache(maxsize=32)
def _centred(side: int, diagonal: float) -> Tensor:
    """Return the positions along an axis from the centre of the picture, in diagonals."""
    return (torch.arange(side) - (side - 1) / 2) / diagonal
