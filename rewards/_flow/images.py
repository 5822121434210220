"""Functions of images that the measures of motion share: gradients, means over windows, sizes.

Shapes: B clips, F or T frames, C channels, H W pixels.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from . import planes

SIZE = 192  # the shorter side, in pixels, above which frames are measured at this size


def gradient(image: Tensor) -> Tensor:
    """Forward differences along x and y, zero in the last column and row: (..., C, H, W) to
    (..., 2, C, H, W)."""
    pad = torch.nn.functional.pad
    return torch.stack([pad(image.diff(dim=-1), (0, 1)), pad(image.diff(dim=-2), (0, 0, 0, 1))], -4)


def energy(video: Tensor, floor: float = 1e-5) -> Tensor:
    """Mean squared slope over two pixels, along x plus along y, and `floor`, (B, F); of the
    picture by [1 2 1] / 4.

    Wide enough that an edge has about the same wherever between two pixels it falls, and
    that fine grain has little.
    """
    soft = _pairs(_pairs(video))
    across, down = soft[..., 2:] - soft[..., :-2], soft[..., 2:, :] - soft[..., :-2, :]
    return across.square().mean((2, 3, 4)) + down.square().mean((2, 3, 4)) + floor


def _pairs(image: Tensor) -> Tensor:
    """Means of two by two pixels, at every place: one row and one column less."""
    rows = image[..., 1:, :] + image[..., :-1, :]
    return (rows[..., 1:] + rows[..., :-1]) / 4


def around(image: Tensor, window: float) -> Tensor:
    """Means over a square of `window` times the shorter side about each pixel of (B, T, C,
    H, W)."""
    reach = max(1, round(min(image.shape[-2:]) * window / 2))
    counts = _counts(image.shape[-2], image.shape[-1], reach)
    if planes.fits(image):
        return planes.around(image, reach, counts)
    return _box(image, reach) / counts.to(image)


@lru_cache(maxsize=64)
def _counts(height: int, width: int, reach: int) -> Tensor:
    """How many pixels of the square about each are in the picture, (H, W)."""
    return _box(torch.ones(height, width), reach)


def _box(image: Tensor, reach: int) -> Tensor:
    """Sums over squares of 2 reach + 1 pixels, nothing beyond the border."""
    padded = torch.nn.functional.pad(image, (reach, reach, reach, reach))
    return _runs(_runs(padded, 2 * reach + 1, -1), 2 * reach + 1, -2)


def _runs(image: Tensor, length: int, dim: int) -> Tensor:
    """Sums of `length` neighbours along `dim`, from sums of 1, 2, 4, ...: as exact as
    adding them up, in less time."""
    left = image.shape[dim] - length + 1
    total, start, width = image.new_zeros(()), 0, 1
    while width <= length:
        if length & width:
            total, start = total + image.narrow(dim, start, left), start + width
        rest = image.shape[dim] - width
        image, width = image.narrow(dim, 0, rest) + image.narrow(dim, width, rest), 2 * width
    return total


def quantile(values: Tensor, q: float) -> Tensor:
    """The quantile of (B, T, N) along N, linear between its neighbours: `torch.quantile`
    sorts, this does not.

    >>> quantile(torch.tensor([[[4.0, 1.0, 2.0, 3.0]]]), 0.5)
    tensor([[2.5000]])
    """
    if planes.fits(values):
        return planes.quantile(values, q)
    at = q * (values.shape[2] - 1)
    top = values.topk(values.shape[2] - int(at), dim=2).values
    above = top[..., -2] if top.shape[2] > 1 else top[..., -1]
    return top[..., -1].lerp(above, at - int(at))


def blocks(image: Tensor, side: int) -> Tensor:
    """Means of square blocks of (B, T, C, H, W); those cut by the border too."""
    pooled = avg_pool2d(image.flatten(0, 1), side, ceil_mode=True, count_include_pad=False)
    return pooled.unflatten(0, image.shape[:2])


def shrink(video: Tensor, size: int = SIZE) -> Tensor:
    """Frames as float, their shorter side at most `size`, antialiased; small ones as they
    are.

    A uint8 clip is shrunk before it is made float, in two passes that round: within 1/255
    of the same as float.
    """
    small = shrunk(video, size)
    return small.float() / 255 if small.dtype == torch.uint8 else small


def shrunk(video: Tensor, size: int = SIZE) -> Tensor:
    """`shrink`, but bytes stay bytes where torch can shrink such: on the CPU."""
    goal = [round(side * min(1.0, size / min(video.shape[-2:]))) for side in video.shape[-2:]]
    if goal == list(video.shape[-2:]):
        return video
    if video.dtype == torch.uint8 and video.device.type != "cpu":
        video = video.float() / 255
    flat = interpolate(
        video.flatten(0, 1), size=goal, mode="bilinear", antialias=True, align_corners=False
    )
    return flat.unflatten(0, video.shape[:2]).contiguous()
