"""Lai's and EvalCrafter's warping errors against plain numpy loops of the published
arithmetic."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vidrl.rewards import Samples
from vidrl.rewards.evalcrafter_warping_error import EvalcrafterWarpingError
from vidrl.rewards.lai_warping_error import LaiWarpingError
from vidrl.synthetic import world


def sample(image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Resample2d: bilinear at x + flow, indices clamped, weights from the unclamped place;
    (H, W, C)."""
    height, width = image.shape[:2]
    out = np.zeros_like(image)
    for y in range(height):
        for x in range(width):
            px, py = x + float(flow[y, x, 0]), y + float(flow[y, x, 1])
            left, top = int(np.floor(px)), int(np.floor(py))
            a, b = px - left, py - top
            xs, ys = np.clip([left, left + 1], 0, width - 1), np.clip([top, top + 1], 0, height - 1)
            out[y, x] = (
                (1 - a) * (1 - b) * image[ys[0], xs[0]]
                + a * (1 - b) * image[ys[0], xs[1]]
                + (1 - a) * b * image[ys[1], xs[0]]
                + a * b * image[ys[1], xs[1]]
            )
    return out


def mask(forward: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """1 where trusted, (H, W)."""
    returned = sample(backward, forward)
    size = [(x**2).sum(2) for x in (returned + forward, returned, forward)]
    hidden = size[0] > 0.01 * (size[1] + size[2]) + 0.5
    edges = np.zeros(forward.shape[:2])
    for c in range(2):
        across, down = np.zeros(forward.shape[:2]), np.zeros(forward.shape[:2])
        across[:, :-1] = forward[:, :-1, c] - forward[:, 1:, c]
        down[:-1, :] = forward[:-1, :, c] - forward[1:, :, c]
        edges += across**2 + down**2
    return 1.0 - np.logical_or(hidden, edges > 0.01 * size[2] + 0.002)


def plain(x: torch.Tensor) -> np.ndarray:
    return x.permute(1, 2, 0).double().numpy()


def bent(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return a flow that is neither smooth nor consistent with its reverse.

    It is derived from the pictures' mean difference.
    """
    height, width = first.shape[-2:]
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    shift = (second - first).mean((1, 2, 3)).view(-1, 1, 1, 1) / 40
    field = torch.stack([0.8 * x + 2.0 * (x > 0.7), 0.6 * y - 0.9 * x * (y > 0.5)])[None]
    return (field * (1 + shift)) * torch.sign(shift)


def gradual(frames: int, height: int, width: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    picture = F.interpolate(
        torch.rand(1, 3, 6, 8, generator=draw), (height, width), mode="bilinear"
    )
    light = torch.linspace(0.5, 1, frames).view(-1, 1, 1, 1)
    return ((picture * light) * 255).round().to(torch.uint8)[None]


def lai_pair(first, second, forward, backward) -> float:
    trusted = mask(plain(forward), plain(backward))
    noc = np.stack([trusted] * 3, 2)  # the mask is read back from a PNG of three channels
    diff = (sample(plain(second), plain(forward)) - plain(first)) * noc
    return (diff**2).sum() / (noc.sum() if noc.sum() else diff.size)


def evalcrafter_pair(first, second, forward, backward) -> float:
    trusted = mask(plain(forward), plain(backward))
    diff = (sample(plain(second), plain(forward)) - plain(first)) * trusted[..., None]
    return (diff**2).sum() / (trusted.sum() if trusted.sum() else diff.size)


def test_lai_is_the_published_number():
    video = gradual(4, 64, 64)  # FlowNet2's multiple: nothing is resized
    images = video[0].float() / 255
    flow = [
        [bent(255 * a[None], 255 * b[None])[0] for a, b in ((x, y), (y, x))]
        for x, y in zip(images, images[1:])
    ]
    pairs = [lai_pair(a, b, *ways) for a, b, ways in zip(images, images[1:], flow)]
    got = LaiWarpingError(network=bent)(Samples(video, [""], 8.0))
    assert got.value.item() == pytest.approx(-np.mean(pairs), abs=1e-6)
    assert (
        0.1 < np.mean([mask(plain(a), plain(b)).mean() for a, b in flow]) < 0.99
        and np.mean(pairs) > 1e-3
    )


def test_lai_resizes_for_the_network_and_its_flow_back():
    """A constant flow at 64 x 128 of (4, 2) is (3, 1.5) at 48 x 96."""
    seen = []

    def network(first, second):
        seen.append(tuple(first.shape))
        sign = 1.0 if first.mean() < second.mean() else -1.0
        return sign * torch.tensor([4.0, 2.0]).view(1, 2, 1, 1).expand(
            len(first), 2, *first.shape[-2:]
        )

    video = gradual(2, 48, 96)
    images, flow = video[0].float() / 255, torch.tensor([3.0, 1.5]).view(2, 1, 1).expand(2, 48, 96)
    wanted = lai_pair(images[0], images[1], flow, -flow)
    got = LaiWarpingError(network=network)(Samples(video, [""], 8.0)).value.item()
    assert got == pytest.approx(-wanted, abs=1e-6) and seen == [(1, 3, 64, 128)] * 2


@pytest.mark.parametrize("as_fed", [1.0, 255.0])
def test_evalcrafter_is_the_published_number(as_fed):
    def network(first, second):
        fed.append(second.max().item())
        return bent(first * 255 / as_fed, second * 255 / as_fed)

    fed: list[float] = []
    video = gradual(3, 44, 60)  # 22 x 30 at half size, padded to 24 x 32
    half = F.interpolate(video[0] / 255.0, scale_factor=0.5, mode="bilinear", align_corners=False)
    images = F.pad(half, [1, 1, 1, 1], mode="replicate")
    assert images.shape[-2:] == (24, 32)
    flow = [
        [bent(255 * a[None], 255 * b[None])[0] for a, b in ((x, y), (y, x))]
        for x, y in zip(images, images[1:])
    ]
    pairs = [evalcrafter_pair(a, b, *ways) for a, b, ways in zip(images, images[1:], flow)]
    got = EvalcrafterWarpingError(network=network, as_fed=as_fed)(Samples(video, [""], 8.0))
    assert got.value.item() == pytest.approx(-np.mean(pairs), abs=1e-6)
    assert 0.5 * as_fed < max(fed) <= as_fed  # RAFT is given [0, 1] as published, 0..255 as meant


def test_evalcrafter_is_three_times_lai_on_what_both_see_alike():
    """With zero flow and constant colour, halving and padding change nothing."""

    def rest(first, second):
        return torch.zeros(len(first), 2, *first.shape[-2:])

    video = torch.tensor([0.2, 0.5]).view(1, 2, 1, 1, 1).expand(1, 2, 3, 64, 64)
    lai, other = (
        cls(network=rest)(Samples(video, [""], 8.0)).value.item()
        for cls in (LaiWarpingError, EvalcrafterWarpingError)
    )
    assert lai == pytest.approx(-0.09) and other == pytest.approx(-0.27)


@pytest.mark.parametrize("cls", [LaiWarpingError, EvalcrafterWarpingError])
def test_pairs_without_a_trusted_pixel_count_as_perfect(cls):
    def apart(first, second):
        # both ways the same way: never returns
        return torch.full((len(first), 2, *first.shape[-2:]), 9.0)

    video = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1, 1).expand(1, 2, 3, 64, 64)
    assert cls(network=apart)(Samples(video, [""], 8.0)).value.item() == 0.0


@pytest.mark.parametrize("cls", [LaiWarpingError, EvalcrafterWarpingError])
def test_a_clean_pan_is_better_than_flicker_by_the_classical_flow(cls):
    scene = world.Scene("circle", "red", "rest", "slow", "speckled", camera="left")
    pan = world.render(scene, 64, 9).video[None]
    light = torch.tensor([1.0, 0.85] * 4 + [1.0]).view(1, -1, 1, 1, 1)
    still = pan[:, :1].expand_as(pan)
    clean, flicker, frozen = (
        cls()(Samples(v, [""], 8.0)).value.item() for v in (pan, still * light, still)
    )
    assert flicker < clean < frozen + 1e-9
