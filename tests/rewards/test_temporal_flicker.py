"""Flicker of light, colour and texture is measured: numbers by hand for each kind.

Faultless clips have no flicker.
"""

import math

import pytest
import torch
from torch.nn.functional import interpolate

from vidrl.rewards import Samples
from vidrl.rewards._flow.fast_pans import shifts
from vidrl.rewards.temporal_flicker import KINDS, TemporalFlicker, reversal
from vidrl.synthetic import corruptions, world


def draw(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def parts(video: torch.Tensor, fps: float = 8.0, **options) -> dict[str, float]:
    score = TemporalFlicker(**options)(Samples(video[None], [""], fps))
    return {name: -part.value.item() for name, part in score.parts.items()}


STILL = 0.2 + 0.6 * interpolate(draw(1, 3, 8, 8), (48, 48), mode="bicubic").clamp(0, 1).expand(
    9, 3, 48, 48
)


def picture(frames: int, speed: int, side: int = 96) -> torch.Tensor:
    """A window that moves by `speed` pixels a frame over a wide textured still."""
    wide = interpolate(draw(1, 3, 12, 100), (side, 800), mode="bicubic").clamp(0, 1)[0]
    return torch.stack([wide[:, :, speed * t : speed * t + side] for t in range(frames)])


def test_reversal_is_the_distance_from_the_median():
    p, c, n = draw(3, 1000)
    median = torch.stack([p, c, n]).median(0).values
    torch.testing.assert_close(reversal(p, c, n), (c - median).abs())


def test_light_that_alternates_by_hand():
    """Levels a, b, a, b: each frame leaves its neighbours by |ln b/a|, in light alone."""
    gains = torch.tensor([1.0, 0.8] * 5)[:9].view(9, 1, 1, 1)
    found = parts(STILL * gains, floor=0.0)
    assert found["luminance"] == pytest.approx(-math.log(0.8), rel=0.02)
    assert found["colour"] < 0.01 and found["texture"] < 0.02


def test_levels_held_for_two_frames_count_half():
    """a a b b: every second window shows b b, or a a, between the others: half as many
    jumps, half the amplitude."""
    gains = torch.tensor([1.0, 1.0, 0.8, 0.8] * 4)[:15].view(15, 1, 1, 1)
    found = parts(STILL[:1].expand(15, -1, -1, -1) * gains, floor=0.0)
    assert found["luminance"] == pytest.approx(-math.log(0.8) / 2, rel=0.02)


def test_duplicates_do_not_hide_flicker():
    bad = corruptions.corrupt(STILL[:1].expand(17, -1, -1, -1), "flicker")
    assert parts(corruptions.corrupt(bad, "duplicate"))["luminance"] > 0.3 * parts(bad)["luminance"]


def test_colour_that_alternates_keeps_the_light():
    tint = torch.tensor([1.0, -0.5, -0.5]).view(1, 3, 1, 1) * torch.tensor([0.04, -0.04] * 5)[
        :9
    ].view(9, 1, 1, 1)
    found = parts(torch.full((9, 3, 48, 48), 0.5) + tint, floor=0.0)
    hand = 0.08 * math.sqrt(1.5) / 0.5  # the distance between the two tints over the light
    assert found["colour"] == pytest.approx(hand, rel=0.01)
    assert found["luminance"] < 1e-5 and found["texture"] < 1e-5


def test_boiling_texture_is_texture():
    boil = STILL + 0.05 * torch.randn(9, 1, 48, 48, generator=torch.Generator().manual_seed(1))
    found = parts(boil)
    assert found["texture"] > 0.01 and found["texture"] > 2 * max(
        found["luminance"], found["colour"]
    )


@pytest.mark.parametrize(
    "curve", [lambda t: 1 - 0.9 * t, lambda t: 0.1**t, lambda t: 1 - 0.9 * t**3]
)
def test_fades_of_any_shape_pass(curve):
    fade = STILL * torch.stack([torch.tensor(curve(t / 8)) for t in range(9)]).view(9, 1, 1, 1)
    assert sum(parts(fade).values()) < 2e-3


def test_a_step_is_no_flicker_and_a_flash_is():
    step, flash = STILL.clone(), STILL.clone()
    step[4:] *= 0.6
    flash[4] *= 0.6
    assert parts(step)["luminance"] < 1e-3
    assert parts(flash)["luminance"] > 0.05


@pytest.mark.parametrize("speed", [1, 4, 12, 30, 40])
def test_a_clean_pan_at_any_speed_passes(speed):
    assert sum(parts(picture(7, speed)).values()) < 4e-3


def test_a_pan_that_flickers_does_not_pass():
    gains = torch.tensor([1.0, 0.8] * 4)[:7].view(7, 1, 1, 1)
    assert parts(picture(7, 12) * gains)["luminance"] > 0.1


def test_phase_correlation_finds_known_shifts():
    torch.testing.assert_close(
        shifts(picture(3, 30)[None]), torch.tensor([[[-30.0, 0.0], [-30.0, 0.0]]])
    )


def test_weights_make_the_value():
    video = corruptions.corrupt(STILL, "noise")
    score = TemporalFlicker(luminance=1.0, colour=0.5, texture=2.0)(Samples(video[None], [""], 8.0))
    total = sum(score.weights[name] * score.parts[name].value for name in KINDS)
    torch.testing.assert_close(score.value, total)
    torch.testing.assert_close(score.frames.mean(1), score.value)


def test_one_kind_alone_is_its_part():
    video = Samples(corruptions.corrupt(STILL, "noise")[None], [""], 8.0)
    for kind in KINDS:
        torch.testing.assert_close(
            TemporalFlicker(kind)(video).value, TemporalFlicker()(video).parts[kind].value
        )
    with pytest.raises(ValueError, match="'hue'"):
        TemporalFlicker("hue")


def test_maps_show_where():
    video = STILL.clone()
    video[1::2, :, 12:36, :24] *= 0.7
    maps = TemporalFlicker()(Samples(video[None], [""], 8.0), maps=True).maps
    assert set(maps) == set(KINDS) and maps["luminance"].shape == (1, 9, 48, 48)
    light = maps["luminance"][0, 4]
    assert light[18:30, :18].nanmean() > 20 * light[:, 36:].nanmean()
    assert maps["texture"][0, 0].isnan().all()


@pytest.mark.parametrize("scale", [2, 3])
def test_frame_rate_and_size_hardly_count(scale):
    """The same scene, its light jumping by as much from frame to frame, at 8 and more
    frames a second: within 5 %."""
    scene = world.Scene("square", "red", "left", "slow", "striped")

    def value(size, fps, frames):
        video = world.render(scene, size, frames, fps).video
        gains = torch.tensor([1.0, 0.85]).repeat(frames)[:frames].view(-1, 1, 1, 1)
        return parts(video * gains, fps)["luminance"]

    base = value(32, 8.0, 9)
    assert value(32, 8.0 * scale, 9 * scale) == pytest.approx(base, rel=0.05)
    assert value(32 * scale, 8.0, 9) == pytest.approx(base, rel=0.05)
