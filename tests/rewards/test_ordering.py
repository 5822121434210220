"""A clean pan, at any speed, is better than a still of the same picture, and than any fault
of either."""

import pytest
import torch

from vidrl.rewards import Samples, default
from vidrl.synthetic import corruptions

SIDE, WIDTH, FRAMES = 96, 144, 17
SPEEDS = (0.5, 1, 2, 4, 6)  # pixels a frame; a diagonal is 173


def picture() -> torch.Tensor:
    """A picture like those of cameras, all sizes of detail and hard edges, at twice the
    size: (1, 3, height, width)."""
    draw = torch.Generator().manual_seed(3)
    height, width = 2 * SIDE, 4 * WIDTH
    made = torch.zeros(1, 3, height, width)
    for cells in (3, 6, 12, 24, 48):
        layer = torch.rand(1, 3, cells, 3 * cells, generator=draw) - 0.5
        made = (
            made
            + torch.nn.functional.interpolate(layer, (height, width), mode="bicubic") / cells**0.5
        )
    for _ in range(24):
        x, y, w, h = (
            int(torch.randint(low, high, (1,), generator=draw))
            for low, high in ((0, width - 80), (0, height - 60), (12, 80), (12, 60))
        )
        made[..., y : y + h, x : x + w] += 0.4 * (torch.rand(1, 3, 1, 1, generator=draw) - 0.5)
    return (0.5 + 0.4 * made).clamp(0.02, 0.98)


def pan(speed: float) -> torch.Tensor:
    """A window sliding over the picture, each frame the mean of two by two, (FRAMES, 3,
    SIDE, WIDTH)."""
    whole = picture()
    starts = [16 + round(2 * speed * i) for i in range(FRAMES)]
    return torch.nn.functional.avg_pool2d(
        torch.cat([whole[..., x : x + 2 * WIDTH] for x in starts]), 2
    )


def value(video: torch.Tensor, fps: float) -> float:
    return default()(Samples(video[None], [""], fps)).value.item()


@pytest.fixture(scope="module", params=[8.0, 24.0])
def fps(request):
    return request.param


@pytest.fixture(scope="module")
def worst_pan(fps):
    return min(value(pan(speed), fps) for speed in SPEEDS)


@pytest.mark.parametrize("fault", ["none", "noise", "flicker", "cut"])
def test_any_clean_pan_beats_a_still_with_or_without_a_fault(worst_pan, fps, fault):
    still = pan(0.0)
    other = still if fault == "none" else corruptions.corrupt(still, fault, 0.5)
    assert worst_pan > value(other, fps)


@pytest.mark.parametrize("fault", ["noise", "flicker", "cut", "freeze", "shake", "stutter"])
@pytest.mark.parametrize("speed", [1, 4])
def test_a_clean_pan_beats_the_same_pan_with_a_fault(fps, speed, fault):
    clean = pan(speed)
    assert value(clean, fps) > value(corruptions.corrupt(clean, fault, 0.5), fps)
