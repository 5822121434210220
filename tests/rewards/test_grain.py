"""Fine grain, coding and halos that nobody sees change the rewards little.

None of them raises the composite.
"""

import math

import cv2
import numpy as np
import pytest
import torch

from vidrl.rewards import Samples, default
from vidrl.rewards.flow import energy
from vidrl.rewards.frame_quality import FrameQuality, ratio, sharp, squared_steps
from vidrl.rewards.freeze import Freeze, above_grain
from vidrl.rewards.pumping import Pumping
from vidrl.rewards.warp_error import squared
from vidrl.synthetic import corruptions, world

KINDS = ("white", "blue", "pink", "grey")


def grain(shape: tuple[int, ...], level: float, kind: str = "white", seed: int = 0) -> torch.Tensor:
    """Noise of a standard deviation of `level` / 255: fine (blue), two pixels wide (pink),
    or alike in all channels."""
    made = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    if kind == "grey":
        made = made[:, :1].expand(shape)
    smooth = corruptions._blurred(made, 1.0)
    made = {"blue": made - smooth, "pink": smooth}.get(kind, made)
    return level / 255 * made / made.std()


def scene(i: int, size: int = 64) -> world.Clip:
    motions, backgrounds = (
        ("left", "up", "circle", "grow"),
        ("striped", "speckled", "light", "dark"),
    )
    shape, colour = ("triangle", "square")[i % 2], ("blue", "green", "yellow")[i % 3]
    made = world.Scene(
        shape, colour, motions[i % 4], ("slow", "fast")[i // 4 % 2], backgrounds[i % 4]
    )
    return world.render(made, size, 17, 8.0, seed=700 + i)


def value(reward, clip: torch.Tensor, prompt: str = "", fps: float = 8.0) -> float:
    return reward(Samples(clip.clamp(0, 1)[None], [prompt], fps)).value.item()


# frame quality


@pytest.mark.parametrize("radius", [0.01, 0.02, 0.03])
def test_edges_that_are_overdrawn_do_not_pay(radius):
    """An unsharp mask of 150 % at several radii: over scenes with soft stripes and with
    hard edges alike."""
    reward, gains = FrameQuality(log=True), []
    for i in range(8):
        clip = scene(i).video[::4]
        sharpened = clip + 1.5 * (clip - corruptions._blurred(clip, radius * clip.shape[-1]))
        gains.append(value(reward, sharpened) - value(reward, clip))
    assert max(gains) < 0.15 and sum(gains) / len(gains) < -0.2, gains


def test_a_step_and_its_halo_by_hand():
    """Columns 0 0 0 0 1 1 1 1: steps over one pixel 1 of 7, halved 1 of 3; over two 2 of 6,
    halved 2 of 2."""
    row = torch.tensor([0.0] * 4 + [1.0] * 4).expand(1, 1, 1, 8, 8)
    half = row[..., ::2, ::2]
    still = torch.zeros(1, 1)
    assert (
        squared_steps(row, still)[0].sum().item() == 8
        and squared_steps(row, still)[1].sum().item() == 0
    )

    def compared(fine, coarse, apart):
        return ratio(*(squared_steps(x, still, apart) for x in (fine, coarse))).item()

    near, far = (compared(row, half, apart) for apart in (1, 2))
    assert near == pytest.approx(math.sqrt(1 / 7) / math.sqrt(1 / 3), rel=1e-3)
    assert far == pytest.approx(math.sqrt(2 / 6) / math.sqrt(2 / 2), rel=1e-3)
    assert sharp(torch.tensor(near), torch.tensor(far)).item() == 1
    smooth = torch.linspace(0, 1, 64).expand(1, 1, 1, 64, 64)
    halved = torch.nn.functional.avg_pool2d(smooth[0], 2)[None]
    assert compared(smooth, halved, 1) == pytest.approx(0.25, rel=0.05)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", [2, 5, 10])
def test_grain_makes_no_picture_better(kind, level):
    """A crisp picture, and a blurred one, which grain must not pass off as crisp."""
    reward = FrameQuality(log=True)
    for i in range(4):
        soft = [] if kind == "pink" else [corruptions.corrupt(scene(i).video[:2], "blur", 0.3)]
        for clip in (scene(i).video[:2], *soft):
            gain = value(reward, clip + grain(tuple(clip.shape), level, kind)) - value(reward, clip)
            # two pixels wide: in part it passes for detail
            assert gain < (0.1 if kind == "pink" else 0.03)


# freeze


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("level", [2, 5, 10])
def test_fresh_grain_over_a_held_picture_is_a_held_picture(kind, level):
    clip = scene(1, size=96).video[:1].expand(17, -1, -1, -1)
    noisy = clip + grain(tuple(clip.shape), level, kind)
    assert value(Freeze(), noisy) < (-0.4 if kind == "pink" else -0.95)  # two pixels wide: in part


def test_a_pan_over_texture_that_fills_the_picture_is_no_grain():
    texture = torch.nn.functional.interpolate(
        torch.rand(1, 3, 24, 60, generator=torch.Generator().manual_seed(1)),
        (96, 240),
        mode="bicubic",
    )[0].clamp(0, 1)
    pan = torch.stack([texture[..., 2 * t : 2 * t + 144] for t in range(17)])
    assert value(Freeze(), pan) > -0.05


def test_what_grain_changes_by_hand():
    """In cells of 64 pixels a change counts from 1 + 3.75 / 8 times the plain cells' on.

    From 1 + 4.75 / 8 times on it counts fully.
    """
    found = above_grain(torch.tensor([1.46, 1.53125, 1.6]), torch.ones(3), pixels=64.0)
    assert found.tolist() == pytest.approx([0, 0.5, 1], abs=1e-4)


# pumping and warp error


@pytest.mark.parametrize("kind", KINDS)
def test_grain_is_no_pumping(kind):
    clip = scene(0, size=96).video
    moved = abs(value(Pumping(), clip + grain(tuple(clip.shape), 5, kind)) - value(Pumping(), clip))
    assert moved < (0.25 if kind == "pink" else 0.1)


def test_the_energy_of_edges_does_not_depend_on_where_between_two_pixels_they_fall():
    edges = [
        world.coverage("square", torch.tensor([[0.5 + s / 64, 0.5]]), torch.tensor([0.2]), 64)[
            None, :, None
        ]
        for s in (0.0, 0.25, 0.5, 0.75)
    ]
    found = torch.stack([energy(edge, 0.0)[0, 0] for edge in edges])
    assert (found.max() / found.min()).item() < 1.1


def test_grain_counts_a_ninth_in_what_a_warp_leaves():
    made = grain((40, 3, 64, 64), 10)[None]
    assert squared(made)[..., 1:-1, 1:-1].mean().item() == pytest.approx(
        (10 / 255) ** 2 / 9, rel=0.02
    )
    ghost = torch.zeros(1, 1, 1, 32, 32)
    ghost[..., 8:24, 8:24] = 0.5
    # a ghost keeps its own
    assert squared(ghost).sum().item() == pytest.approx(0.25 * 256, rel=0.12)


# the composite


@pytest.mark.parametrize("level", [2, 5, 10])
@pytest.mark.parametrize("kind", KINDS)
def test_grain_over_repeated_frames_does_not_pay(kind, level):
    """Fresh grain does not hide that two frames in three are repeated, as in telecined film."""
    clip = corruptions.corrupt(scene(1, size=96).video, "duplicate", 2.0)
    reward = default()
    assert value(reward, clip + grain(tuple(clip.shape), level, kind)) < value(reward, clip) + 0.1


def jpeg(clip: torch.Tensor, quality: int) -> torch.Tensor:
    saved = []
    for frame in clip:
        image = (frame.permute(1, 2, 0).numpy()[..., ::-1] * 255 + 0.5).astype(np.uint8)
        data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        saved.append(torch.from_numpy(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].copy()))
    return torch.stack(saved).permute(0, 3, 1, 2).float() / 255
