"""Optical flow that needs torch alone: batched, differentiable, on any device.

It needs no weights. Shapes: N pairs, C channels, H W pixels; flow (N, 2, H, W) in pixels,
channel 0 is x (right), channel 1 is y (down).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate, pad


@dataclass(frozen=True)
class FlowSettings:
    """Settings of `torch_flow` say how long it minimises, and which energy.

    The defaults were chosen by benchmarks/studies/flow_epe.py.

    - `coarsest`: the shorter side of the smallest picture of the pyramid, pixels; each next
      picture is twice as large.
    - `warps`: how often the second frame is warped at each size.
    - `sweeps`: iterations of the linear solver for each warp.
    - `momentum`: of the solver; 0 gives Jacobi's method.
    - `smoothness`: weight of the smoothness term.
    - `gradient`: weight of the gradient of a channel; the channel itself has weight 1.
    - `least_residual`: residual below which the data term is quadratic, in units of the
      frames.
    - `least_step`: flow difference below which the smoothness term is quadratic, pixels.
    """

    coarsest: int = 10
    warps: int = 3
    sweeps: int = 15
    momentum: float = 0.8
    smoothness: float = 0.05
    gradient: float = 2.0
    least_residual: float = 0.01
    least_step: float = 0.05


def torch_flow(first: Tensor, second: Tensor, settings: FlowSettings | None = None) -> Tensor:
    """Return the flow (N, 2, H, W) from `first` to `second`, differentiable in both.

    The frames are (N, C, H, W) in [0, 1]. The flow f minimises sum |I2(x + f) - I1| + |grad
    I2(x + f) - grad I1| + smoothness |grad f|, with all norms smoothed near zero. It is
    found from coarse to fine: at each size the second frame is warped a few times, the
    residual is linearised, and the linear system is solved by Jacobi's method with momentum
    while the weights of the norms are held fixed. All operations are elementwise or a
    gather, so pairs do not influence each other, and a GPU processes all of them at once.
    The result is deterministic on the CPU.

    Source: Brox et al., ECCV 2004 (the energy, the warping).

    >>> y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    >>> frames = [0.5 + 0.2 * (torch.sin((x - s) / 3) + torch.cos(y / 4)) for s in (0, 1)]
    >>> first, second = (frame[None, None] for frame in frames)
    >>> torch_flow(first, second)[0].mean((1, 2)).round(decimals=1)
    tensor([1., 0.])
    """
    settings = settings or FlowSettings()
    _check(first, second)
    pictures = [_pyramid(image, settings) for image in (first, second)]
    flow = first.new_zeros(len(first), 2, 1, 1)
    for first_level, second_level in zip(*pictures):
        flow = _enlarged(flow, first_level.shape[-2:])
        for _ in range(settings.warps):
            flow = _refined(first_level, second_level, flow, settings)
    return flow


def _check(first: Tensor, second: Tensor) -> None:
    """Raise ValueError unless both batches have one shape (N, C, H, W), H, W >= 2."""
    if first.shape != second.shape or first.dim() != 4 or min(first.shape[-2:]) < 2:
        got = f"{tuple(first.shape)} and {tuple(second.shape)}"
        raise ValueError(
            f"expected two batches of frames of one shape (N, C, H, W), 2 pixels or more, got {got}"
        )


def _pyramid(image: Tensor, settings: FlowSettings) -> list[Tensor]:
    """Return the channels and their gradients at each size, the smallest first."""
    shape, levels = image.shape[-2:], 0
    while min(shape) >= settings.coarsest * 2 ** (levels + 1):
        levels += 1
    sizes = [tuple(max(2, round(side / 2**k)) for side in shape) for k in range(levels, -1, -1)]
    small = (interpolate(image, size=size, mode="bilinear", antialias=True) for size in sizes[:-1])
    return [_with_gradient(picture, settings.gradient) for picture in (*small, image)]


def _with_gradient(image: Tensor, weight: float) -> Tensor:
    """Return the channels, followed by their weighted gradients."""
    return torch.cat([image, *(weight * slope for slope in _slopes(image))], 1)


def _slopes(image: Tensor) -> tuple[Tensor, Tensor]:
    """Return central differences along x and y."""
    wide = pad(image, (1, 1, 1, 1), mode="replicate")
    across = (wide[..., 1:-1, 2:] - wide[..., 1:-1, :-2]) / 2
    return across, (wide[..., 2:, 1:-1] - wide[..., :-2, 1:-1]) / 2


def _enlarged(flow: Tensor, size: torch.Size) -> Tensor:
    """Return the flow at a larger size; its vectors grow with the picture."""
    scale = torch.tensor([size[1] / flow.shape[-1], size[0] / flow.shape[-2]]).to(flow)
    return interpolate(flow, size=size, mode="bilinear", align_corners=False) * scale[:, None, None]


def _sampled(image: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """Return the image at x + flow, and 1 where that place is inside, (N, 1, H, W)."""
    height, width = image.shape[-2:]
    x = (torch.arange(width).to(flow) + flow[:, 0]) * (2 / (width - 1)) - 1
    y = (torch.arange(height).to(flow)[:, None] + flow[:, 1]) * (2 / (height - 1)) - 1
    inside = ((x.abs() <= 1) & (y.abs() <= 1)).to(flow)[:, None]
    return grid_sample(
        image, torch.stack([x, y], -1), padding_mode="border", align_corners=True
    ), inside


def _refined(one: Tensor, two: Tensor, flow: Tensor, settings: FlowSettings) -> Tensor:
    """Return the flow after one warp: it minimises the energy for a linearised residual."""
    moved, inside = _sampled(two, flow)
    # slopes averaged over both frames, which makes the linearisation more accurate
    across, down = ((a + b) / 2 for a, b in zip(_slopes(one), _slopes(moved)))
    residual = moved - one
    weight = inside / (_grouped(residual.square()) + settings.least_residual**2).sqrt()
    products = (
        (across, across),
        (across, down),
        (down, down),
        (across, residual),
        (down, residual),
    )
    # the normal equations of the linearised residual, as in Horn and Schunck
    xx, xy, yy, xt, yt = ((weight * _grouped(a * b)).sum(1, keepdim=True) for a, b in products)
    u, v = flow[:, :1], flow[:, 1:]
    goal = torch.cat([xx * u + xy * v - xt, xy * u + yy * v - yt], 1)
    return _solved(flow, (xx, xy, yy), goal, _springs(flow, settings), settings)


def _grouped(channels: Tensor) -> Tensor:
    """Return sums over the channels, and over their gradients, (N, 2, H, W)."""
    own = channels.shape[1] // 3
    return torch.stack([channels[:, :own].sum(1), channels[:, own:].sum(1)], 1)


def _springs(flow: Tensor, settings: FlowSettings) -> tuple[Tensor, ...]:
    """Return how strongly each pixel is tied to its left, right, upper and lower neighbour.

    (N, 1, H, W) each, 0 at the border. The strength is the weight of the smoothness norm,
    which falls where the flow so far has an edge.
    """
    steps = (flow.diff(dim=dim).square().sum(1, keepdim=True) for dim in (-1, -2))
    x, y = (settings.smoothness / (step + settings.least_step**2).sqrt() for step in steps)
    return pad(x, (1, 0)), pad(x, (0, 1)), pad(y, (0, 0, 1, 0)), pad(y, (0, 0, 0, 1))


def _solved(
    flow: Tensor,
    data: tuple[Tensor, Tensor, Tensor],
    goal: Tensor,
    springs: tuple[Tensor, ...],
    settings: FlowSettings,
) -> Tensor:
    """Return the flow f that solves (data + springs) f = goal + springs * neighbours.

    The solver is Jacobi's method with momentum, in blocks of one pixel: each sweep solves
    the 2 x 2 system of the two components of the flow at a pixel exactly.
    """
    (xx, xy, yy), (left, right, above, below) = data, springs
    tied = left + right + above + below
    # the inverse of the 2 x 2 matrix [[xx, xy], [xy, yy]] of each pixel
    xx, yy = xx + tied, yy + tied
    determinant = xx * yy - xy * xy
    own, other = torch.cat([yy, xx], 1) / determinant, xy / determinant
    before = flow
    for _ in range(settings.sweeps):
        wide = pad(flow, (1, 1, 1, 1), mode="replicate")
        pull = goal + left * wide[..., 1:-1, :-2] + right * wide[..., 1:-1, 2:]
        pull = pull + above * wide[..., :-2, 1:-1] + below * wide[..., 2:, 1:-1]
        after = own * pull - other * pull.flip(1)
        before, flow = flow, after + settings.momentum * (after - before)
    return flow
