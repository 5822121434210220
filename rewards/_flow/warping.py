"""Functions that use optical flow: they warp pictures, find occlusions and motion edges.

Shapes: flow (..., 2, H, W) in pixels; channel 0 is x (right), channel 1 is y (down).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from . import kernels, planes
from .images import gradient

# Thresholds of Lai et al. 2018, arXiv:1808.00449: see `occluded` and `moving_edge`.
LAI = (0.01, 0.5)
LAI_EDGE = (0.01, 0.002)


def warp(image: Tensor, flow: Tensor, mode: str = "bicubic") -> Tensor:
    """Sample `image` (..., C, H, W) at x + flow(x), with edges repeated.

    The result is differentiable in `image`.

    >>> image = torch.arange(6.0).expand(1, 1, 6, 6)
    >>> warp(image, torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 6, 6))[0, 0, 0, :4]
    tensor([1., 2., 3., 4.])
    """
    if planes.fits(image, flow) and planes.remaps(image):
        return planes.warp(image, flow, mode)
    height, width = image.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(height).to(flow), torch.arange(width).to(flow), indexing="ij"
    )
    at = torch.stack([x, y]) + flow
    # grid_sample wants places from -1 to 1, with the centres of the corner pixels at the ends
    scale = torch.tensor([2 / max(width - 1, 1), 2 / max(height - 1, 1)]).to(flow)
    grid = at.movedim(-3, -1) * scale - 1
    flat = grid_sample(
        image.flatten(0, -4),
        grid.flatten(0, -4).to(image),
        mode=mode,
        padding_mode="border",
        align_corners=True,
    )
    return flat.view(image.shape)


def occluded(
    flow: Tensor,
    back: Tensor,
    thresholds: tuple[float, float] = LAI,
    returned: Tensor | None = None,
) -> Tensor:
    """Return where a pixel is out of sight in the other frame, bool (..., H, W).

    A pixel is out of sight if it leaves the picture, or if the flow back does not return to
    it: |w + f|^2 > a (|w|^2 + |f|^2) + b, with f the flow, w the flow back at x + f(x), and
    (a, b) = `thresholds`. Flows are (..., 2, H, W), pixels. `returned` is w, where it was
    computed before.

    Source: Lai et al. 2018, arXiv:1808.00449.
    """
    if planes.fits(flow, back) and planes.remaps(back):
        return kernels.hidden(flow, back, thresholds, returned)[0]
    returned = warp(back, flow, "bilinear") if returned is None else returned
    slack = thresholds[0] * (norm2(returned) + norm2(flow)) + thresholds[1]
    return (norm2(returned + flow) > slack) | outside(flow)


def outside(flow: Tensor) -> Tensor:
    """Return where x + flow(x) is out of the picture by more than half a pixel.

    bool (..., H, W).
    """
    height, width = flow.shape[-2:]
    x = torch.arange(width).to(flow) + flow[..., 0, :, :]
    y = torch.arange(height).to(flow)[:, None] + flow[..., 1, :, :]
    return (x < -0.5) | (x > width - 0.5) | (y < -0.5) | (y > height - 0.5)


def moving_edge(flow: Tensor, thresholds: tuple[float, float] = LAI_EDGE) -> Tensor:
    """Return where the flow has an edge, bool (..., H, W).

    |grad f|^2 > a |f|^2 + b with (a, b) = `thresholds`, as in Lai et al. 2018.
    """
    return gradient(flow).square().sum((-4, -3)) > thresholds[0] * norm2(flow) + thresholds[1]


def norm2(flow: Tensor) -> Tensor:
    """Return the squared length of a flow (..., 2, H, W), (..., H, W)."""
    x, y = flow.unbind(-3)
    return x * x + y * y


def length(flow: Tensor) -> Tensor:
    """Return the length of a flow (..., 2, H, W), (..., H, W)."""
    return norm2(flow).sqrt()
