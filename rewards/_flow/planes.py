"""Warping, window means and quantiles by OpenCV and numpy, several times faster than torch.

They are used for float32 on the CPU where no gradient is needed. Shapes: (..., C, H, W) and
(..., H, W), contiguous or not. Each plane is processed by itself, so that it stays in the
CPU's cache.
"""

from __future__ import annotations

import importlib
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor


def fits(*tensors: Tensor) -> bool:
    """Return whether these functions may be used: on the CPU, float32, without gradient."""
    return (
        all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)
        and not (torch.is_grad_enabled() and any(t.requires_grad for t in tensors))
        and _cv2() is not None
    )


def warp(image: Tensor, flow: Tensor, mode: str) -> Tensor:
    """Return images (..., C, H, W) warped by flows (..., 2, H, W), as `warping.warp` does.

    Images and flows have the same leading axes; `mode` is "bicubic" or "bilinear".
    """
    cv2, (height, width) = _cv2(), image.shape[-2:]
    kind = cv2.INTER_CUBIC if mode == "bicubic" else cv2.INTER_LINEAR
    out = torch.empty(image.shape)
    x, y = _places(height, width)
    pictures, flows, outs = (
        t.detach().contiguous().flatten(0, -4).numpy() for t in (image, flow, out)
    )
    for planes, (dx, dy), into in zip(pictures, flows, outs, strict=True):
        u, v = x + dx, y + dy
        # one channel at a time: for some numbers of channels OpenCV rounds places to 1/32 pixel
        for plane, target in zip(planes, into):
            cv2.remap(plane, u, v, kind, dst=target, borderMode=cv2.BORDER_REPLICATE)
    return out


def around(image: Tensor, radius: int, counts: Tensor) -> Tensor:
    """Return means over squares of 2 radius + 1 pixels of (..., H, W).

    `counts` (H, W) is how many pixels of each square are in the picture.
    """
    cv2 = _cv2()
    per_pixel, side = (1 / counts).numpy(), (2 * radius + 1, 2 * radius + 1)
    out = torch.empty(image.shape)
    planes, outs = (
        t.detach().contiguous().view(-1, *image.shape[-2:]).numpy() for t in (image, out)
    )
    for plane, into in zip(planes, outs):
        cv2.boxFilter(plane, -1, side, dst=into, normalize=False, borderType=cv2.BORDER_CONSTANT)
        np.multiply(into, per_pixel, out=into)
    return out


def quantile(values: Tensor, q: float) -> Tensor:
    """Return the quantile q of (B, T, N) along N, interpolated linearly."""
    at = q * (values.shape[2] - 1)
    # np.partition puts the two neighbours of the quantile at their places, and sorts no more
    both = [int(at), min(int(at) + 1, values.shape[2] - 1)]
    rows = [np.partition(row, both)[both] for row in values.detach().flatten(0, 1).numpy()]
    low, high = torch.from_numpy(np.array(rows, np.float32)).view(*values.shape[:2], 2).unbind(2)
    return low.lerp(high, at - int(at))


@lru_cache(maxsize=8)
def _places(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of pixels along x, (1, W), and along y, (H, 1)."""
    return np.arange(width, dtype=np.float32)[None], np.arange(height, dtype=np.float32)[:, None]


@lru_cache
def _cv2() -> Any:
    """Return OpenCV, or None where it is not installed."""
    try:
        return importlib.import_module("cv2")
    except ImportError:
        return None
