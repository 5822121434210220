"""XFeat's matches equal the reference network's points, and follow known warps."""

import importlib.util

import pytest
import torch
from _real import clip

from vidrl.rewards._networks import xfeat
from vidrl.rewards._networks.xfeat import XFeat, detect_points, match_points

needs_weights = pytest.mark.skipif(
    importlib.util.find_spec(xfeat.PACKAGE) is None, reason=xfeat.CURE
)


def affine(image: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """`image` (3, H, W) whose pixel x lands at matrix (2, 3) times (x, 1)."""
    height, width = image.shape[-2:]
    back = torch.linalg.inv(torch.cat([matrix, torch.tensor([[0.0, 0.0, 1.0]])]))
    y, x = torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")
    at = torch.stack([x, y, torch.ones_like(x)], -1) @ back[:2].T
    grid = at * 2 / torch.tensor([width - 1.0, height - 1.0]) - 1
    return torch.nn.functional.grid_sample(
        image[None], grid[None], mode="bicubic", align_corners=True
    )[0].clamp(0, 1)


@needs_weights
@pytest.mark.parametrize(
    "matrix",
    [
        [[1.0, 0.0, 12.0], [0.0, 1.0, -7.0]],
        [[0.97, -0.17, 20.0], [0.17, 0.97, -10.0]],
        [[1.15, 0.0, -20.0], [0.05, 1.1, -10.0]],
    ],
)
def test_a_known_warp_is_found(matrix):
    image = clip("bikes", 160, 161)[0][0]
    matrix = torch.tensor(matrix)
    first, second = match_points(image, affine(image, matrix))
    error = (first @ matrix[:, :2].T + matrix[:, 2] - second).norm(dim=1)
    assert first.shape == second.shape and len(first) > 150
    assert (error < 3).float().mean() > 0.7 and error.median() < 1.3


@needs_weights
def test_the_points_are_those_of_the_reference_network():
    path = xfeat.package_file(xfeat.PACKAGE, "model.py", "")
    spec = importlib.util.spec_from_file_location("xfeat_reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    reference = module.XFeatModel().eval()
    reference.load_state_dict(xfeat.read_tensors(xfeat.package_file(xfeat.PACKAGE, xfeat.FILE, "")))
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        ours, theirs = xfeat._loaded()(image), reference(image)
    for mine, yours in zip(ours, theirs):
        torch.testing.assert_close(mine, yours, atol=1e-5, rtol=1e-4)


@needs_weights
def test_points_lie_in_the_picture_and_top_bounds_them():
    points, looks = detect_points(clip("bikes", 100, 101)[0][0, :, :250, :333], top=50)
    assert points.shape == (50, 2) and looks.shape == (50, 64)
    assert (points >= -0.5).all() and (points[:, 0] < 333).all() and (points[:, 1] < 250).all()
    torch.testing.assert_close(looks.norm(dim=1), torch.ones(50))


@needs_weights
def test_plain_pictures_have_no_matches():
    first, second = match_points(torch.full((3, 64, 64), 0.5), torch.full((3, 64, 64), 0.5))
    assert first.shape == second.shape == (0, 2)


def test_small_pictures_are_refused_and_the_size_is_known():
    with pytest.raises(ValueError, match="32 x 32.*16 x 64"):
        detect_points(torch.rand(3, 16, 64))
    assert sum(p.numel() for p in XFeat().parameters()) == 657_910
