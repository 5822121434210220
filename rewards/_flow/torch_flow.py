"""Optical flow in torch alone: batched, on any device, differentiable in the frames,
without weights.

Shapes: N pairs, C channels, H W pixels; flow (N, 2, H, W) in pixels, channel 0 is x
(right), 1 is y (down).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate, pad


@dataclass(frozen=True)
class FlowSettings:
    """How `torch_flow` minimises, and what; the defaults were chosen by
    benchmarks/studies/flow_epe.py."""

    # shorter side of the smallest picture of the pyramid, pixels; each next is twice as
    # large
    coarsest: int = 10
    warps: int = 3  # times that the second frame is warped at each size
    sweeps: int = 15  # of the linear solver for each warp
    momentum: float = 0.8  # of the solver; 0 is Jacobi's
    smoothness: float = 0.05
    gradient: float = 2.0  # how much the gradient of a channel counts, the channel itself counts 1
    least_residual: float = 0.01  # below it the data term is quadratic, in the range of the frames
    least_step: float = 0.05  # below it the smoothness is quadratic, pixels


def torch_flow(first: Tensor, second: Tensor, effort: FlowSettings | None = None) -> Tensor:
    """The flow (N, 2, H, W) from `first` to `second`, (N, C, H, W) in [0, 1];
    differentiable in both.

    Minimises sum |I2(x + f) - I1| + |grad I2(x + f) - grad I1| + smoothness |grad f|, all
    norms smoothed near zero, from coarse to fine: at each size the second frame is warped a
    few times, the residual taken as linear, and the system solved by Jacobi's method with
    momentum, the weights of the norms held. Everything is elementwise or a gather, so that
    pairs do not meet and a GPU has all of them at once. Deterministic on the CPU.

    Source: Brox et al., ECCV 2004 (the energy, the warping).

    >>> y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    >>> first, second = (0.5 + 0.2 * (torch.sin((x - s) / 3) + torch.cos(y / 4)).expand(1, 1, 32, 32) for s in (0, 1))
    >>> torch_flow(first, second)[0].mean((1, 2)).round(decimals=1)
    tensor([1., 0.])
    """
    effort = effort or FlowSettings()
    _check(first, second)
    pictures = [_pyramid(image, effort) for image in (first, second)]
    flow = first.new_zeros(len(first), 2, 1, 1)
    for one, two in zip(*pictures):
        flow = _enlarged(flow, one.shape[-2:])
        for _ in range(effort.warps):
            flow = _refined(one, two, flow, effort)
    return flow


def _check(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape or first.dim() != 4 or min(first.shape[-2:]) < 2:
        got = f"{tuple(first.shape)} and {tuple(second.shape)}"
        raise ValueError(
            f"expected two batches of frames of one shape (N, C, H, W), 2 pixels or more, got {got}"
        )


def _pyramid(image: Tensor, effort: FlowSettings) -> list[Tensor]:
    """The channels and their gradients, coarsest first, each twice as large as the one
    before."""
    shape, levels = image.shape[-2:], 0
    while min(shape) >= effort.coarsest * 2 ** (levels + 1):
        levels += 1
    sizes = [tuple(max(2, round(side / 2**k)) for side in shape) for k in range(levels, -1, -1)]
    small = (interpolate(image, size=size, mode="bilinear", antialias=True) for size in sizes[:-1])
    return [_with_gradient(picture, effort.gradient) for picture in (*small, image)]


def _with_gradient(image: Tensor, weight: float) -> Tensor:
    return torch.cat([image, *(weight * slope for slope in _slopes(image))], 1)


def _slopes(image: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences along x and y."""
    wide = pad(image, (1, 1, 1, 1), mode="replicate")
    across = (wide[..., 1:-1, 2:] - wide[..., 1:-1, :-2]) / 2
    return across, (wide[..., 2:, 1:-1] - wide[..., :-2, 1:-1]) / 2


def _enlarged(flow: Tensor, size: torch.Size) -> Tensor:
    scale = torch.tensor([size[1] / flow.shape[-1], size[0] / flow.shape[-2]]).to(flow)
    return interpolate(flow, size=size, mode="bilinear", align_corners=False) * scale[:, None, None]


def _sampled(image: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """The image at x + flow, and 1 where that is inside, (N, 1, H, W)."""
    height, width = image.shape[-2:]
    x = (torch.arange(width).to(flow) + flow[:, 0]) * (2 / (width - 1)) - 1
    y = (torch.arange(height).to(flow)[:, None] + flow[:, 1]) * (2 / (height - 1)) - 1
    inside = ((x.abs() <= 1) & (y.abs() <= 1)).to(flow)[:, None]
    return grid_sample(
        image, torch.stack([x, y], -1), padding_mode="border", align_corners=True
    ), inside


def _refined(one: Tensor, two: Tensor, flow: Tensor, effort: FlowSettings) -> Tensor:
    """The flow after one warp: the energy's minimum where the residual is linear in the
    flow."""
    moved, inside = _sampled(two, flow)
    across, down = ((a + b) / 2 for a, b in zip(_slopes(one), _slopes(moved)))
    residual = moved - one
    weight = inside / (_grouped(residual.square()) + effort.least_residual**2).sqrt()
    products = (
        (across, across),
        (across, down),
        (down, down),
        (across, residual),
        (down, residual),
    )
    xx, xy, yy, xt, yt = ((weight * _grouped(a * b)).sum(1, keepdim=True) for a, b in products)
    u, v = flow[:, :1], flow[:, 1:]
    goal = torch.cat([xx * u + xy * v - xt, xy * u + yy * v - yt], 1)
    return _solved(flow, (xx, xy, yy), goal, _springs(flow, effort), effort)


def _grouped(channels: Tensor) -> Tensor:
    """Sums over the channels themselves, and over their gradients, (N, 2, H, W)."""
    own = channels.shape[1] // 3
    return torch.stack([channels[:, :own].sum(1), channels[:, own:].sum(1)], 1)


def _springs(flow: Tensor, effort: FlowSettings) -> tuple[Tensor, ...]:
    """How strongly each pixel is tied to the one left, right, above and below, (N, 1, H, W)
    each, 0 at the border."""
    steps = (flow.diff(dim=dim).square().sum(1, keepdim=True) for dim in (-1, -2))
    x, y = (effort.smoothness / (step + effort.least_step**2).sqrt() for step in steps)
    return pad(x, (1, 0)), pad(x, (0, 1)), pad(y, (0, 0, 1, 0)), pad(y, (0, 0, 0, 1))


def _solved(
    flow: Tensor,
    data: tuple[Tensor, Tensor, Tensor],
    goal: Tensor,
    springs: tuple[Tensor, ...],
    effort: FlowSettings,
) -> Tensor:
    """(data + springs) f = goal + springs * neighbours, by Jacobi's method in blocks of one
    pixel, with momentum."""
    (xx, xy, yy), (left, right, above, below) = data, springs
    tied = left + right + above + below
    xx, yy = xx + tied, yy + tied
    determinant = xx * yy - xy * xy
    own, other = torch.cat([yy, xx], 1) / determinant, xy / determinant
    before = flow
    for _ in range(effort.sweeps):
        wide = pad(flow, (1, 1, 1, 1), mode="replicate")
        pull = goal + left * wide[..., 1:-1, :-2] + right * wide[..., 1:-1, 2:]
        pull = pull + above * wide[..., :-2, 1:-1] + below * wide[..., 2:, 1:-1]
        after = own * pull - other * pull.flip(1)
        before, flow = flow, after + effort.momentum * (after - before)
    return flow
