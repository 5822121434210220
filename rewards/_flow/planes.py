"""Warping, window means and quantiles by OpenCV and numpy, several times faster than torch.

They are used for float32 on the CPU where no gradient is needed. Shapes: (..., C, H, W) and
(..., H, W), contiguous or not. Each plane is processed by itself, so that it stays in the
CPU's cache; `kernels` does so for what is computed from several planes.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Above this many values, quantiles are searched between bounds that every 16th value gives: in a
# fifth of the time of sorting 65,472 values.
SORTED, SPARSE = 10_000, 16


def fits(*tensors: Tensor) -> bool:
    """Return whether these functions may be used: on the CPU, float32, without gradient.

    Pictures must lie in memory row after row, as OpenCV writes them; those of a permuted tensor,
    for example, do not.
    """
    return (
        all(t.device.type == "cpu" and t.dtype == torch.float32 and _in_rows(t) for t in tensors)
        and not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))
        and _cv2() is not None
    )


def _in_rows(tensor: Tensor) -> bool:
    """Return whether the last two axes lie in memory row after row.

    >>> pictures = torch.zeros(2, 5, 6, 3)
    >>> _in_rows(pictures[:, 1:]), _in_rows(pictures.permute(0, 3, 1, 2))
    (True, False)
    """
    return (
        tensor.dim() < 2 or tensor.numel() == 0 or tensor[(0,) * (tensor.dim() - 2)].is_contiguous()
    )


def remaps(image: Tensor) -> bool:
    """Return whether OpenCV can warp pictures of this size: its longest side is 2^15 pixels."""
    return max(image.shape[-2:]) < 1 << 15


def interleaves(image: Tensor) -> bool:
    """Return whether OpenCV can warp pictures (..., C, H, W) with interleaved channels."""
    return image.shape[-3] in (1, 3, 4) and remaps(image)


def warp(image: Tensor, flow: Tensor, mode: str) -> Tensor:
    """Return images (..., C, H, W) warped by flows (..., 2, H, W), as `warping.warp` does.

    Images and flows have the same leading axes; `mode` is "bicubic" or "bilinear".
    """
    out = torch.empty(image.shape)
    pictures, flows, outs = (t.detach().numpy() for t in (image, flow, out))
    warper = Warper(mode, *image.shape[-3:])
    for index in np.ndindex(*image.shape[:-3]):
        warper(pictures[index], flows[index], outs[index])
    return out


class Warper:
    """Warps pictures of one shape; its arrays are used again for the next picture."""

    def __init__(self, mode: str, channels: int, height: int, width: int) -> None:
        self.cv2 = _cv2()
        self.kind = self.cv2.INTER_CUBIC if mode == "bicubic" else self.cv2.INTER_LINEAR
        self.starts = np.stack(np.broadcast_arrays(*pixels(height, width)))
        self.places = np.empty_like(self.starts)
        # Interleaved channels take three quarters of the time of planes, but not three channels
        # with INTER_LINEAR. For other numbers of channels OpenCV rounds places to 1/32 pixel.
        together = channels == 4 or (channels == 3 and mode == "bicubic")
        shape = (channels, height, width)
        self.arrays = [empty(*shape) for _ in range(2)] if together else []

    def __call__(self, picture: np.ndarray, flow: np.ndarray, out: np.ndarray) -> None:
        """Write one picture (C, H, W) warped by the flow (2, H, W) to `out`."""
        if self.arrays:
            separate(self.interleaved(interleave(picture, self.arrays[0]), flow), out)
            return
        np.add(self.starts, flow, out=self.places)
        for plane, target in zip(picture, out, strict=True):
            self._remap(plane, target)

    def interleaved(self, picture: np.ndarray, flow: np.ndarray) -> np.ndarray:
        """Return an interleaved picture warped by the flow (2, H, W).

        The next call overwrites the result. The channels are four, one, or, for "bicubic", three.
        """
        np.add(self.starts, flow, out=self.places)
        return self._remap(picture, self.arrays[1] if self.arrays else None)

    def _remap(self, picture: np.ndarray, out: np.ndarray | None) -> np.ndarray:
        """Return a picture (H, W) or (H, W, C) read at `places`, written to `out`."""
        border = self.cv2.BORDER_REPLICATE
        warped = self.cv2.remap(picture, *self.places, self.kind, dst=out, borderMode=border)
        return np.asarray(warped)


def interleave(picture: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Return a picture (C, H, W) with interleaved channels, (H, W, C), written to `out`.

    The result for one channel is its plane, (H, W). OpenCV warps and filters all channels of an
    interleaved picture in one call.
    """
    return picture[0] if len(picture) == 1 else np.asarray(_cv2().merge(list(picture), out))


def empty(channels: int, height: int, width: int) -> np.ndarray:
    """Return an empty array for an interleaved picture; see `interleave`."""
    return np.empty((height, width, channels) if channels > 1 else (height, width), np.float32)


def separate(picture: np.ndarray, out: np.ndarray) -> None:
    """Write the channels of an interleaved picture to `out`, (C, H, W)."""
    _cv2().split(picture, list(out))


def squared_difference(
    one: np.ndarray, other: np.ndarray, step: np.ndarray, out: np.ndarray
) -> None:
    """Write the squared difference of two interleaved pictures, summed over channels, to `out`.

    `step`, of the shape of the pictures, is overwritten with the squares.
    """
    np.subtract(one, other, out=step)
    np.multiply(step, step, out=step)
    sum_of_channels(step, out)


def largest_channel(picture: np.ndarray, out: np.ndarray) -> np.ndarray:
    """Return the largest channel of each pixel of an interleaved picture, (H, W), in `out`."""
    first, *others = _cv2().split(picture)
    np.copyto(out, first)
    for plane in others:
        np.maximum(out, plane, out=out)
    return out


def sum_of_channels(picture: np.ndarray, out: np.ndarray) -> None:
    """Write the sum over channels of an interleaved picture to `out`, (H, W)."""
    _cv2().transform(picture, np.ones((1, picture.size // out.size), np.float32), dst=out)


def remaps_of(pictures: np.ndarray, flows: np.ndarray, mode: str, out: np.ndarray) -> None:
    """Write pictures (N, C, H, W) warped by flows (N, 2, H, W) to `out`."""
    warper = Warper(mode, *pictures.shape[1:])
    for picture, flow, target in zip(pictures, flows, out, strict=True):
        warper(picture, flow, target)


def around(image: Tensor, radius: int, counts: Tensor) -> Tensor:
    """Return means over squares of 2 radius + 1 pixels of (..., H, W).

    `counts` (H, W) is how many pixels of each square are in the picture.
    """
    per_pixel, out = (1 / counts).numpy(), torch.empty(image.shape)
    pictures, outs = image.detach().numpy(), out.numpy()
    for index in np.ndindex(*image.shape[:-2]):
        box(pictures[index], radius, per_pixel, outs[index])
    return out


def box(plane: np.ndarray, radius: int, per_pixel: np.ndarray, out: np.ndarray) -> None:
    """Write the means over squares of a plane (H, W), or of an interleaved picture, to `out`.

    `per_pixel`, of the same shape, is 1 / the number of pixels of each square in the picture.
    """
    box_sums(plane, radius, out)
    np.multiply(out, per_pixel, out=out)


def box_sums(plane: np.ndarray, radius: int, out: np.ndarray) -> None:
    """Write the sums over squares to `out`, with zeros beyond the border; see `box`."""
    cv2, side = _cv2(), (2 * radius + 1, 2 * radius + 1)
    cv2.boxFilter(plane, -1, side, dst=out, normalize=False, borderType=cv2.BORDER_CONSTANT)


def quantile(values: Tensor, q: float) -> Tensor:
    """Return the quantile q of (B, T, N) along N, interpolated linearly."""
    rows = values.detach().flatten(0, 1).numpy()
    found = np.array([quantiles(row, (q,)) for row in rows], np.float32)
    return torch.from_numpy(found.reshape(values.shape[:2]))


def quantiles(values: np.ndarray, shares: Sequence[float]) -> list[np.float32]:
    """Return several quantiles of (N,), interpolated linearly."""
    places = [q * (values.size - 1) for q in shares]
    ends = [(int(at), min(int(at) + 1, values.size - 1)) for at in places]
    if values.size > SORTED:
        pairs = [_ranked(values, low, high) for low, high in ends]
    else:  # np.partition puts the neighbours of the quantiles at their places, and sorts no more
        row = np.partition(values, sorted({end for both in ends for end in both}))
        pairs = [(row[low], row[high]) for low, high in ends]
    return [
        below + np.float32(at - int(at)) * (above - below)
        for at, (below, above) in zip(places, pairs, strict=True)
    ]


def _ranked(values: np.ndarray, low: int, high: int) -> tuple[np.float32, np.float32]:
    """Return the values at the places `low` and `high` in the order of size, which are neighbours.

    A sorted sample tells between which bounds they lie, so that only the few values there are
    sorted.
    """
    sample = np.sort(values[::SPARSE])
    at, slack = low // SPARSE, 4 + int(2 * len(sample) ** 0.5)
    least, most = sample[max(0, at - slack)], sample[min(len(sample) - 1, at + slack)]
    below = int(np.count_nonzero(values < least))
    inside = np.sort(values[(values >= least) & (values <= most)])
    if below <= low and high < below + len(inside):
        return inside[low - below], inside[high - below]
    row = np.sort(values)  # the sample misled, as it may in a regular pattern
    return row[low], row[high]


def deviation(picture: np.ndarray) -> float:
    """Return the standard deviation of a plane (H, W), or the largest of the channels (H, W, C)."""
    return float(_cv2().meanStdDev(picture)[1].max())


def mean(plane: np.ndarray) -> float:
    """Return the mean of a plane (H, W)."""
    return float(_cv2().mean(plane)[0])


def length(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the length of vectors (x, y) of arrays (..., W)."""
    total = x * x
    total += y * y
    return np.sqrt(total, out=total)


def mean_square(values: np.ndarray) -> float:
    """Return the mean square of a contiguous array (..., W)."""
    cv2, lines = _cv2(), values.reshape(-1, values.shape[-1])
    return float(cv2.norm(lines, cv2.NORM_L2SQR)) / max(1, values.size)


@lru_cache(maxsize=8)
def pixels(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of pixels along x, (1, W), and along y, (H, 1)."""
    return np.arange(width, dtype=np.float32)[None], np.arange(height, dtype=np.float32)[:, None]


@lru_cache
def _cv2() -> Any:
    """Return OpenCV, or None where it is not installed."""
    try:
        return importlib.import_module("cv2")
    except ImportError:
        return None
