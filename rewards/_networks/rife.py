"""RIFE: the frame between two frames, by the network of its version 4.

Source: Huang et al., arXiv:2011.06294; weights MIT. Names as in the published weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, leaky_relu, pad, pixel_shuffle

from ..flow import warp

WIDTHS = (192, 128, 96, 64)
SCALES = (8, 4, 2, 1)  # what each stage sees the frames reduced by
MULTIPLE = 32  # of the sides


class Rife(nn.Module):
    """Two batches of frames (N, 3, H, W) in [0, 1] to those halfway between them; any H and
    W."""

    def __init__(self, widths: tuple[int, int, int, int] = WIDTHS) -> None:
        super().__init__()
        for i, width in enumerate(widths):
            self.add_module(f"block{i}", _Stage(12 if i else 7, width))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """The frames halfway, (N, 3, H, W)."""
        height, width = first.shape[-2:]
        first, second = (_padded(x) for x in (first, second))
        halfway = torch.full_like(first[:, :1], 0.5)
        state = self.get_submodule("block0")(
            torch.cat([first, second, halfway], 1), None, SCALES[0]
        )
        for i in range(1, 4):
            near = [
                warp(x, state[:, at : at + 2], "bilinear") for x, at in ((first, 0), (second, 2))
            ]
            seen = torch.cat([*near, halfway, state[:, 4:]], 1)
            state = state + self.get_submodule(f"block{i}")(seen, state[:, :4], SCALES[i])
        share = state[:, 4:].sigmoid()
        made = warp(first, state[:, :2], "bilinear") * share + warp(
            second, state[:, 2:4], "bilinear"
        ) * (1 - share)
        return made[..., :height, :width]


class _Stage(nn.Module):
    """One stage: a change of the flow from halfway to both frames, pixels, and of the
    first's share, (N, 5, H, W)."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.conv0 = nn.Sequential(_conv(before, width // 2), _conv(width // 2, width))
        self.convblock = nn.Sequential(*(_Residual(width) for _ in range(8)))
        self.lastconv = nn.Sequential(nn.ConvTranspose2d(width, 24, 4, 2, 1))

    def forward(self, seen: Tensor, flow: Tensor | None, scale: int) -> Tensor:
        x = _by(seen, 1 / scale)
        if flow is not None:
            x = torch.cat([x, _by(flow, 1 / scale) / scale], 1)
        x = pixel_shuffle(self.lastconv(self.convblock(self.conv0(x))), 2)
        x = _by(x, scale)
        return torch.cat([x[:, :4] * scale, x[:, 4:5]], 1)


class _Residual(nn.Module):
    """A convolution beside a shortcut, each channel with its own weight."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, 1, 1)
        self.beta = nn.Parameter(torch.ones(1, width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return leaky_relu(self.conv(x) * self.beta + x, 0.2)


def _conv(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, 2, 1), nn.LeakyReLU(0.2))


def _by(x: Tensor, factor: float) -> Tensor:
    if factor == 1:
        return x
    goal = [round(side * factor) for side in x.shape[-2:]]
    return interpolate(x, size=goal, mode="bilinear", align_corners=False)


def _padded(frames: Tensor) -> Tensor:
    height, width = frames.shape[-2:]
    return pad(frames, (0, -width % MULTIPLE, 0, -height % MULTIPLE), mode="replicate")
