"""The geometry of a flow: warping by a flow, occlusion, edges of motion, lengths.

Shapes: flow (..., 2, H, W) in pixels, channel 0 is x (right), 1 is y (down).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from . import planes
from .images import gradient

# occluded where |w + f|^2 > 0.01 (|w|^2 + |f|^2) + 0.5, Lai et al. 2018, arXiv:1808.00449
LAI = (0.01, 0.5)
LAI_EDGE = (0.01, 0.002)  # moving edge where |grad f|^2 > 0.01 |f|^2 + 0.002


def warp(image: Tensor, flow: Tensor, mode: str = "bicubic") -> Tensor:
    """`image` (..., C, H, W) sampled at x + flow(x), edges repeated; differentiable in
    `image`.

    >>> image = torch.arange(6.0).expand(1, 1, 6, 6)
    >>> warp(image, torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 6, 6))[0, 0, 0, :4]
    tensor([1., 2., 3., 4.])
    """
    if planes.fits(image, flow) and max(image.shape[-2:]) < 1 << 15:  # OpenCV's limits
        return planes.warp(image, flow, mode)
    height, width = image.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(height).to(flow), torch.arange(width).to(flow), indexing="ij"
    )
    at = torch.stack([x, y]) + flow
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
    """Where a pixel is out of sight in the other frame: the flow back does not return, or
    it left the picture.

    |w + f|^2 > a (|w|^2 + |f|^2) + b with w the flow back at x + f(x); Lai et al. 2018, arXiv:1808.00449.
    Flows (..., 2, H, W), pixels; bool (..., H, W).
    """
    returned = warp(back, flow, "bilinear") if returned is None else returned
    slack = thresholds[0] * (norm2(returned) + norm2(flow)) + thresholds[1]
    return (norm2(returned + flow) > slack) | outside(flow)


def outside(flow: Tensor) -> Tensor:
    """Where x + flow(x) is more than half a pixel out of the picture, bool (..., H, W)."""
    height, width = flow.shape[-2:]
    x = torch.arange(width).to(flow) + flow[..., 0, :, :]
    y = torch.arange(height).to(flow)[:, None] + flow[..., 1, :, :]
    return (x < -0.5) | (x > width - 0.5) | (y < -0.5) | (y > height - 0.5)


def moving_edge(flow: Tensor, thresholds: tuple[float, float] = LAI_EDGE) -> Tensor:
    """Where the flow tears: |grad f|^2 > a |f|^2 + b (Lai et al. 2018), bool (..., H,
    W)."""
    return gradient(flow).square().sum((-4, -3)) > thresholds[0] * norm2(flow) + thresholds[1]


def norm2(flow: Tensor) -> Tensor:
    """Squared length of a flow (..., 2, H, W)."""
    x, y = flow.unbind(-3)
    return x * x + y * y


def length(flow: Tensor) -> Tensor:
    """Length of a flow (..., 2, H, W)."""
    return norm2(flow).sqrt()
