"""RIFE predicts the frame between two frames; this is the network (IFNet) of its version 4.

Source: Huang et al. 2022, arXiv:2011.06294, github.com/hzwer/Practical-RIFE; weights under
MIT.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, leaky_relu, pad, pixel_shuffle

from ..flow import warp

WIDTHS = (192, 128, 96, 64)
SCALES = (8, 4, 2, 1)  # each stage reads the frames at 1 / SCALE of their size
MULTIPLE = 32  # the sides must be multiples: a stage halves twice more after the scale of 8


class Rife(nn.Module):
    """RIFE's network, which maps frames (N, 3, H, W) in [0, 1] to those halfway between.

    Four stages, from coarse to fine, refine the optical flow from the middle frame to both
    given frames, and a mask that says which of the two frames is visible. The middle frame
    is the blend of the two warped frames. H and W may be any sizes. The modules have the
    names of the published weights (`block0` ... `block3`, `conv0`, `convblock`, `lastconv`).
    """

    def __init__(self, widths: tuple[int, int, int, int] = WIDTHS) -> None:
        super().__init__()
        # Inputs of the first stage: two frames and the time, 3 + 3 + 1 channels. The others
        # read the warped frames, the time, the mask and the flow, 3 + 3 + 1 + 1 + 4.
        for i, width in enumerate(widths):
            self.add_module(f"block{i}", _Stage(12 if i else 7, width))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the frames halfway between `first` and `second`, (N, 3, H, W)."""
        height, width = first.shape[-2:]
        first, second = (_pad_to_multiple(x) for x in (first, second))
        # Version 4 can predict any time between the frames; this code always asks for 0.5.
        time = torch.full_like(first[:, :1], 0.5)
        # channels of the state: flow to the first frame (2), to the second (2), mask (1)
        state = self.get_submodule("block0")(torch.cat([first, second, time], 1), None, SCALES[0])
        for i in range(1, 4):
            warped = _warp_both(first, second, state)
            inputs = torch.cat([*warped, time, state[:, 4:]], 1)
            state = state + self.get_submodule(f"block{i}")(inputs, state[:, :4], SCALES[i])
        weight = state[:, 4:].sigmoid()
        from_first, from_second = _warp_both(first, second, state)
        middle = from_first * weight + from_second * (1 - weight)
        return middle[..., :height, :width]


class _Stage(nn.Module):
    """One stage of RIFE, which predicts a change of the flows and of the mask, (N, 5, H, W).

    The flows are in pixels; the mask is the logit of the first frame's weight.
    """

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.conv0 = nn.Sequential(_conv(before, width // 2), _conv(width // 2, width))
        self.convblock = nn.Sequential(*(_Residual(width) for _ in range(8)))
        # 24 channels become 6 in twice the size; the published network ignores the sixth
        self.lastconv = nn.Sequential(nn.ConvTranspose2d(width, 24, 4, 2, 1))

    def forward(self, inputs: Tensor, flow: Tensor | None, scale: int) -> Tensor:
        x = _resize(inputs, 1 / scale)
        if flow is not None:
            # a flow in pixels shrinks with the picture
            x = torch.cat([x, _resize(flow, 1 / scale) / scale], 1)
        x = pixel_shuffle(self.lastconv(self.convblock(self.conv0(x))), 2)
        x = _resize(x, scale)
        return torch.cat([x[:, :4] * scale, x[:, 4:5]], 1)


class _Residual(nn.Module):
    """A convolution with a shortcut; `beta` weighs each channel of the convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, 1, 1)
        self.beta = nn.Parameter(torch.ones(1, width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return leaky_relu(self.conv(x) * self.beta + x, 0.2)


def _conv(before: int, after: int) -> nn.Sequential:
    """Return a convolution that halves the size, with a leaky ReLU."""
    return nn.Sequential(nn.Conv2d(before, after, 3, 2, 1), nn.LeakyReLU(0.2))


def _warp_both(first: Tensor, second: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Return both frames warped to the middle by the flows in the state's first channels."""
    return warp(first, state[:, :2], "bilinear"), warp(second, state[:, 2:4], "bilinear")


def _resize(x: Tensor, factor: float) -> Tensor:
    """Return `x` with its sides multiplied by `factor`."""
    if factor == 1:
        return x
    size = [round(side * factor) for side in x.shape[-2:]]
    return interpolate(x, size=size, mode="bilinear", align_corners=False)


def _pad_to_multiple(frames: Tensor) -> Tensor:
    """Return frames whose sides are multiples of 32; the last row and column are repeated."""
    height, width = frames.shape[-2:]
    return pad(frames, (0, -width % MULTIPLE, 0, -height % MULTIPLE), mode="replicate")
