"""TransNetV2, a network that finds cuts between shots.

Source: Soucek and Lokoc, arXiv:2008.04838. Names as in the published weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool3d, normalize, pad

SIZE = (27, 48)  # of the thumbnails
WINDOW, STRIDE, PADDING = 100, 50, 25
REACH = 50  # frames to each side whose likeness a frame is told


class TransNet(nn.Module):
    """Thumbnails (N, T, 27, 48, 3) uint8 to what, through a sigmoid, is the chance that a
    shot ends there, (N, T)."""

    def __init__(self, width: int = 16, hidden: int = 1024, features: int = 128) -> None:
        super().__init__()
        before = [3, 4 * width, 8 * width]
        self.SDDCNN = nn.ModuleList([_Stack(n, width * 2**i) for i, n in enumerate(before)])
        self.frame_sim_layer = _Likeness(28 * width, features)
        self.color_hist_layer = nn.ModuleDict({"fc": nn.Linear(2 * REACH + 1, features)})
        self.fc1 = nn.Linear(16 * width * 3 * 6 + 2 * features, hidden)
        self.cls_layer1 = nn.Linear(hidden, 1)
        self.cls_layer2 = nn.Linear(hidden, 1)  # the frames of a whole transition, unused here

    def forward(self, thumbnails: Tensor) -> Tensor:
        """Logits, (N, T)."""
        x = thumbnails.permute(0, 4, 1, 2, 3).to(self.fc1.weight) / 255
        pooled = []
        for stack in self.SDDCNN:
            x = stack(x)
            pooled.append(x.mean((3, 4)))
        like = self.frame_sim_layer(torch.cat(pooled, 1).mT)
        toned = self.color_hist_layer["fc"](near(histograms(thumbnails).to(x))).relu()
        x = torch.cat([toned, like, x.permute(0, 2, 3, 4, 1).flatten(2)], 2)
        return self.cls_layer1(self.fc1(x).relu())[..., 0]


class _Stack(nn.Module):
    """Two layers of convolutions with a shortcut, then half the size."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.DDCNN = nn.ModuleList([_Dilated(before, width), _Dilated(4 * width, width)])

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.DDCNN[0](x).relu()
        return avg_pool3d(self.DDCNN[1](shortcut).relu() + shortcut, (1, 2, 2))


class _Dilated(nn.Module):
    """Four (2+1)D convolutions side by side that look 1, 2, 4 and 8 frames about,
    normalised."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        for step in (1, 2, 4, 8):
            self.add_module(
                f"Conv3D_{step}", nn.ModuleDict({"layers": _spatial_temporal(before, width, step)})
            )
        self.bn = nn.BatchNorm3d(4 * width, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        ways = [self.get_submodule(f"Conv3D_{step}.layers") for step in (1, 2, 4, 8)]
        return self.bn(torch.cat([way(x) for way in ways], 1))


def _spatial_temporal(before: int, width: int, step: int) -> nn.Sequential:
    space = nn.Conv3d(before, 2 * width, (1, 3, 3), padding=(0, 1, 1), bias=False)
    time = nn.Conv3d(
        2 * width, width, (3, 1, 1), dilation=(step, 1, 1), padding=(step, 0, 0), bias=False
    )
    return nn.Sequential(space, time)


class _Likeness(nn.Module):
    """How alike a frame's features and those of its neighbours are."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.projection = nn.Linear(inputs, outputs)
        self.fc = nn.Linear(2 * REACH + 1, outputs)

    def forward(self, features: Tensor) -> Tensor:
        return self.fc(near(normalize(self.projection(features), dim=2))).relu()


def near(vectors: Tensor) -> Tensor:
    """Products of each vector with those up to `REACH` before and behind, (N, T, D) to (N,
    T, 2 REACH + 1).

    >>> near(torch.ones(1, 3, 2))[0, :, REACH - 1 : REACH + 2]
    tensor([[0., 2., 2.],
            [2., 2., 2.],
            [2., 2., 0.]])
    """
    frames = vectors.shape[1]
    products = pad(vectors @ vectors.mT, (REACH, REACH))
    at = torch.arange(frames, device=vectors.device)[:, None] + torch.arange(
        2 * REACH + 1, device=vectors.device
    )
    return products.gather(2, at.expand(len(vectors), -1, -1))


def histograms(thumbnails: Tensor) -> Tensor:
    """How often each of 8 x 8 x 8 colours occurs, at length one, (N, T, 512)."""
    red, green, blue = (thumbnails.long() >> 5).flatten(2, 3).unbind(-1)
    colours = (red << 6) + (green << 3) + blue
    counts = torch.zeros(*colours.shape[:2], 512, device=colours.device)
    return normalize(
        counts.scatter_add_(2, colours, torch.ones_like(colours, dtype=counts.dtype)), dim=2
    )


def windows(thumbnails: Tensor) -> Tensor:
    """A clip (T, ...) as the published code sees it: 100 frames at a time, 50 on, its ends
    held, (W, 100, ...).

    The middle 50 of each window are the clip, one after the other.

    >>> windows(torch.arange(60)).shape, windows(torch.arange(60))[1, 25:37].tolist()
    (torch.Size([2, 100]), [50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 59, 59])
    """
    behind = PADDING + STRIDE - (len(thumbnails) % STRIDE or STRIDE)
    at = torch.arange(-PADDING, len(thumbnails) + behind, device=thumbnails.device)
    held = thumbnails[at.clamp(0, len(thumbnails) - 1)]
    return held.unfold(0, WINDOW, STRIDE).movedim(-1, 1)
