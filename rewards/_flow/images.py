"""Functions of images that the measures of motion share: gradients, window means, sizes.

Shapes: B clips, F or T frames, C channels, H W pixels.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from . import kernels, planes

# Larger frames are measured at this shorter side, in pixels.
SIZE = 192


def gradient(image: Tensor) -> Tensor:
    """Return forward differences along x and y, zero in the last column and row.

    (..., C, H, W) becomes (..., 2, C, H, W).
    """
    pad = torch.nn.functional.pad
    return torch.stack([pad(image.diff(dim=-1), (0, 1)), pad(image.diff(dim=-2), (0, 0, 0, 1))], -4)


def energy(video: Tensor, floor: float = 1e-5) -> Tensor:
    """Return the mean squared slope of each frame plus `floor`, (B, F).

    Slopes are taken over two pixels, along x and along y, of the picture averaged over 2 x
    2 pixels. They are wide on purpose: an edge has about the same energy wherever between
    two pixels it lies, and fine grain has little.
    """
    if planes.fits(video):
        return kernels.energy(video, floor)
    # twice: together the weights along each axis are [1 2 1] / 4
    soft = _means_of_four(_means_of_four(video))
    across, down = soft[..., 2:] - soft[..., :-2], soft[..., 2:, :] - soft[..., :-2, :]
    return across.square().mean((2, 3, 4)) + down.square().mean((2, 3, 4)) + floor


def _means_of_four(image: Tensor) -> Tensor:
    """Return means of 2 x 2 pixels at every place, (..., H - 1, W - 1)."""
    rows = image[..., 1:, :] + image[..., :-1, :]
    return (rows[..., 1:] + rows[..., :-1]) / 4


def around(image: Tensor, window: float) -> Tensor:
    """Return means over a square about each pixel of (B, T, C, H, W).

    The side of the square is `window` times the shorter side of the picture. At the border
    only the pixels inside the picture count.
    """
    radius, counts = squares(image, window)
    if planes.fits(image):
        return planes.around(image, radius, counts)
    rows, columns = (_counted(side, radius, image) for side in image.shape[-2:])
    return _box(image, radius) / (rows[:, None] * columns)


def _counted(side: int, radius: int, like: Tensor) -> Tensor:
    """Return how many places within `radius` of each of `side` places exist, on `like`'s device.

    >>> _counted(4, 1, torch.zeros(()))
    tensor([2., 3., 3., 2.])
    """
    at = torch.arange(side, device=like.device)
    return ((at + radius).clamp(max=side - 1) - (at - radius).clamp(min=0) + 1).to(like.dtype)


def squares(image: Tensor, window: float) -> tuple[int, Tensor]:
    """Return the radius of the squares of `around`, and how many pixels each has, (H, W).

    Pixels beyond the border are not counted.
    """
    radius = max(1, round(min(image.shape[-2:]) * window / 2))
    return radius, _counts(image.shape[-2], image.shape[-1], radius)


@lru_cache(maxsize=64)
def _counts(height: int, width: int, radius: int) -> Tensor:
    """Return how many pixels of the square about each pixel are in the picture, (H, W)."""
    return _box(torch.ones(height, width), radius)


def _box(image: Tensor, radius: int) -> Tensor:
    """Return sums over squares of 2 radius + 1 pixels, with zeros beyond the border."""
    padded = torch.nn.functional.pad(image, (radius, radius, radius, radius))
    return _runs(_runs(padded, 2 * radius + 1, -1), 2 * radius + 1, -2)


def _runs(image: Tensor, length: int, dim: int) -> Tensor:
    """Return sums of `length` neighbours along `dim`.

    They are added up from sums of 1, 2, 4, ... neighbours, in log2(length) steps. A
    difference of cumulative sums would be as fast, but loses precision.
    """
    left = image.shape[dim] - length + 1
    total, start = image.new_zeros(()), 0
    width = 1  # `image` holds sums of `width` neighbours
    while width <= length:
        if length & width:
            total, start = total + image.narrow(dim, start, left), start + width
        rest = image.shape[dim] - width
        image, width = image.narrow(dim, 0, rest) + image.narrow(dim, width, rest), 2 * width
    return total


def quantile(values: Tensor, q: float) -> Tensor:
    """Return the quantile of (B, T, N) along N, interpolated linearly.

    The result is that of `torch.quantile`, which sorts all values and is slower.

    >>> quantile(torch.tensor([[[4.0, 1.0, 2.0, 3.0]]]), 0.5)
    tensor([[2.5000]])
    """
    if planes.fits(values):
        return planes.quantile(values, q)
    # the topk needs no full sort: the place of the quantile from above is known
    at = q * (values.shape[2] - 1)
    top = values.topk(values.shape[2] - int(at), dim=2).values
    above = top[..., -2] if top.shape[2] > 1 else top[..., -1]
    return top[..., -1].lerp(above, at - int(at))


def blocks(image: Tensor, side: int) -> Tensor:
    """Return means over square blocks of (B, T, C, H, W).

    Blocks that the border cuts are averaged over their pixels inside the picture.
    """
    pooled = avg_pool2d(image.flatten(0, 1), side, ceil_mode=True, count_include_pad=False)
    return pooled.unflatten(0, image.shape[:2])


def shrink(video: Tensor, size: int = SIZE) -> Tensor:
    """Return frames as float, their shorter side at most `size`, antialiased.

    Smaller frames keep their size. A uint8 clip is shrunk before it is converted to float,
    in two passes that round, because that is faster; the result is within 1/255 of the
    exact one.
    """
    small = shrunk(video, size)
    return small.float() / 255 if small.dtype == torch.uint8 else small


def shrunk(video: Tensor, size: int = SIZE) -> Tensor:
    """Return frames as `shrink` does, but bytes stay bytes where torch can shrink them.

    torch shrinks uint8 on the CPU only.
    """
    goal = [round(side * min(1.0, size / min(video.shape[-2:]))) for side in video.shape[-2:]]
    if goal == list(video.shape[-2:]):
        return video
    if video.dtype == torch.uint8 and video.device.type != "cpu":
        video = video.float() / 255
    flat = interpolate(
        video.flatten(0, 1), size=goal, mode="bilinear", antialias=True, align_corners=False
    )
    return flat.unflatten(0, video.shape[:2]).contiguous()
