"""TransNetV2, a network that finds the cuts between the shots of a video.

Source: Soucek and Lokoc 2020, arXiv:2008.04838, github.com/soCzech/TransNetV2; weights under
MIT. The modules have the names of the published weights (`SDDCNN`, `DDCNN`, `Conv3D_1`, ...).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool3d, normalize, pad

SIZE = (27, 48)  # height and width of the thumbnails that the network reads
# The network reads 100 frames at a time, moves on by 50, and the outer 25 of each side count
# only as context.
WINDOW, STRIDE = 100, 50
PADDING = 25
NEIGHBOURS = 50  # a frame is compared with so many frames before and after


class TransNet(nn.Module):
    """TransNetV2, which gives each frame the logit that a shot ends there.

    The input is (N, T, 27, 48, 3), uint8, the output (N, T); its sigmoid is a probability.
    Three kinds of features meet in the last layers: those of 3D convolutions, and how
    similar a frame is to its neighbours in learned features and in colour histograms.
    """

    def __init__(self, width: int = 16, hidden: int = 1024, features: int = 128) -> None:
        super().__init__()
        before = [3, 4 * width, 8 * width]  # each stack returns 4 times its width
        self.SDDCNN = nn.ModuleList([_Stack(n, width * 2**i) for i, n in enumerate(before)])
        # 28 width = 4 width + 8 width + 16 width, the pooled features of the three stacks
        self.frame_sim_layer = _FrameSimilarity(28 * width, features)
        self.color_hist_layer = nn.ModuleDict({"fc": nn.Linear(2 * NEIGHBOURS + 1, features)})
        # 3 x 6 is what three halvings leave of 27 x 48
        self.fc1 = nn.Linear(16 * width * 3 * 6 + 2 * features, hidden)
        self.cls_layer1 = nn.Linear(hidden, 1)
        # The second head marks all frames of a gradual transition. No score uses it, but its
        # weights are in the file.
        self.cls_layer2 = nn.Linear(hidden, 1)

    def forward(self, thumbnails: Tensor) -> Tensor:
        """Return the logits (N, T) of thumbnails (N, T, 27, 48, 3)."""
        x = thumbnails.permute(0, 4, 1, 2, 3).to(self.fc1.weight) / 255
        pooled = []
        for stack in self.SDDCNN:
            x = stack(x)
            pooled.append(x.mean((3, 4)))
        similarity = self.frame_sim_layer(torch.cat(pooled, 1).mT)
        colours = neighbour_products(histograms(thumbnails).to(x))
        colours = self.color_hist_layer["fc"](colours).relu()
        # Channels last before flattening, as in TensorFlow, where the weights were trained.
        maps = x.permute(0, 2, 3, 4, 1).flatten(2)
        x = torch.cat([colours, similarity, maps], 2)
        return self.cls_layer1(self.fc1(x).relu())[..., 0]


class _Stack(nn.Module):
    """Two layers of dilated convolutions with a shortcut, followed by a halving of the size."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.DDCNN = nn.ModuleList([_Dilated(before, width), _Dilated(4 * width, width)])

    def forward(self, x: Tensor) -> Tensor:
        # the shortcut starts after the first layer, whose channels already fit
        shortcut = self.DDCNN[0](x).relu()
        return avg_pool3d(self.DDCNN[1](shortcut).relu() + shortcut, (1, 2, 2))


class _Dilated(nn.Module):
    """Four parallel convolutions with time steps of 1, 2, 4 and 8 frames, then a batch norm."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        for step in (1, 2, 4, 8):
            self.add_module(
                f"Conv3D_{step}", nn.ModuleDict({"layers": _spatial_temporal(before, width, step)})
            )
        self.bn = nn.BatchNorm3d(4 * width, eps=1e-3)  # TensorFlow's epsilon

    def forward(self, x: Tensor) -> Tensor:
        branches = [self.get_submodule(f"Conv3D_{step}.layers") for step in (1, 2, 4, 8)]
        return self.bn(torch.cat([branch(x) for branch in branches], 1))


def _spatial_temporal(before: int, width: int, step: int) -> nn.Sequential:
    """Return a (2+1)D convolution: 3 x 3 pixels, then 3 frames that are `step` apart."""
    space = nn.Conv3d(before, 2 * width, (1, 3, 3), padding=(0, 1, 1), bias=False)
    time = nn.Conv3d(
        2 * width, width, (3, 1, 1), dilation=(step, 1, 1), padding=(step, 0, 0), bias=False
    )
    return nn.Sequential(space, time)


class _FrameSimilarity(nn.Module):
    """A layer that compares the features of a frame with those of its neighbours."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.projection = nn.Linear(inputs, outputs)
        self.fc = nn.Linear(2 * NEIGHBOURS + 1, outputs)

    def forward(self, features: Tensor) -> Tensor:
        cosines = neighbour_products(normalize(self.projection(features), dim=2))
        return self.fc(cosines).relu()


def neighbour_products(vectors: Tensor) -> Tensor:
    """Return the products of each vector with its neighbours in time, (N, T, 2 NEIGHBOURS + 1).

    `vectors` is (N, T, D). The products reach from `NEIGHBOURS` frames before to `NEIGHBOURS`
    frames after; beyond the ends of the clip they are 0.

    >>> neighbour_products(torch.ones(1, 3, 2))[0, :, NEIGHBOURS - 1 : NEIGHBOURS + 2]
    tensor([[0., 2., 2.],
            [2., 2., 2.],
            [2., 2., 0.]])
    """
    frames = vectors.shape[1]
    products = pad(vectors @ vectors.mT, (NEIGHBOURS, NEIGHBOURS))
    # row t of the padded products has frame t in column t + NEIGHBOURS
    at = torch.arange(frames, device=vectors.device)[:, None] + torch.arange(
        2 * NEIGHBOURS + 1, device=vectors.device
    )
    return products.gather(2, at.expand(len(vectors), -1, -1))


def histograms(thumbnails: Tensor) -> Tensor:
    """Return how often each of 8 x 8 x 8 colours occurs in a frame, (N, T, 512).

    Each histogram is divided by its Euclidean length.
    """
    # >> 5 keeps the three highest of the eight bits of a channel
    red, green, blue = (thumbnails.long() >> 5).flatten(2, 3).unbind(-1)
    colours = (red << 6) + (green << 3) + blue
    counts = torch.zeros(*colours.shape[:2], 512, device=colours.device)
    return normalize(
        counts.scatter_add_(2, colours, torch.ones_like(colours, dtype=counts.dtype)), dim=2
    )


def windows(thumbnails: Tensor) -> Tensor:
    """Return a clip (T, ...) cut into windows of 100 frames as published, (W, 100, ...).

    Windows begin every 50 frames. The first and the last frame are repeated around the
    clip, so that the middle 50 frames of all windows together are the clip.

    >>> windows(torch.arange(60)).shape, windows(torch.arange(60))[1, 25:37].tolist()
    (torch.Size([2, 100]), [50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 59, 59])
    """
    # 25 frames of context, and what a last window of less than 50 frames lacks
    behind = PADDING + STRIDE - (len(thumbnails) % STRIDE or STRIDE)
    at = torch.arange(-PADDING, len(thumbnails) + behind, device=thumbnails.device)
    padded = thumbnails[at.clamp(0, len(thumbnails) - 1)]
    return padded.unfold(0, WINDOW, STRIDE).movedim(-1, 1)
