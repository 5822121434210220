"""Jerk is computed by hand from a given flow, and measured on clips of known motion."""

import math

import pytest
import torch

from vidrl.rewards import Samples, flow
from vidrl.rewards.jerk import Jerk, points, tracks
from vidrl.synthetic import corruptions, world


def uniform(steps: list[float], size: int = 24) -> flow.Motion:
    """Return a picture that moves by steps[t] pixels to the right from frame t to t + 1."""
    there = (
        torch.tensor([[x, 0.0] for x in steps])
        .view(1, -1, 2, 1, 1)
        .expand(1, len(steps), 2, size, size)
    )
    frames = torch.rand(
        1, len(steps) + 1, 3, size, size, generator=torch.Generator().manual_seed(0)
    )
    return flow.Motion(frames, there, -there)


def by_flow(motion: flow.Motion, fps: float = 8.0, **options) -> float:
    samples = Samples(motion.frames, [""], fps)
    samples.memo(("motion", "dis", 192), lambda: motion)
    return Jerk(**options)(samples).value.item()


def score(clip: torch.Tensor, fps: float = 8.0) -> float:
    return Jerk()(Samples(clip[None], [""], fps)).value.item()


@pytest.mark.parametrize(
    "steps", [[0.0] * 5, [2.0] * 5, [0.0, 0.5, 1.0, 1.5, 2.0], [2.0, 1.0, 0.0, -1.0, -2.0]]
)
def test_rest_constant_speed_and_constant_acceleration_are_smooth(steps):
    assert by_flow(uniform(steps)) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("fps", [6.0, 8.0, 10.0])
def test_a_third_difference_by_hand(fps):
    """Steps 1, 2, 4: positions 0, 1, 3, 7, third difference 7 - 9 + 3 - 0 = 1 pixel, less
    0.1 for the flow."""
    hand = -math.log1p(0.9 * fps**3 / math.hypot(24, 24) / 5.0)
    assert by_flow(uniform([1.0, 2.0, 4.0]), fps) == pytest.approx(hand, rel=1e-3)
    whole = -math.log1p(fps**3 / math.hypot(24, 24) / 2.0)
    assert by_flow(uniform([1.0, 2.0, 4.0]), fps, noise=0.0, scale=2.0) == pytest.approx(
        whole, rel=1e-3
    )


def test_points_are_followed_where_they_go():
    """A flow that depends on the place: x moves by 0.1 x, so a point goes x, 1.1 x, 1.21 x
    and came from x / 1.1."""
    x = torch.arange(40.0).expand(40, 40)
    there = torch.stack([0.1 * x, 0 * x]).expand(1, 3, 2, 40, 40)
    back = torch.stack([x / 1.1 - x, 0 * x]).expand(1, 3, 2, 40, 40)
    motion = flow.Motion(torch.full((1, 4, 1, 40, 40), 0.5), there, back)
    third, way, seen = tracks(motion, motion, 10)
    start = points(10, torch.zeros(1, 1, 1, 40, 40))[0, 0, :, 0]
    inside = (start > 4) & (start < 26)
    hand = start * (1.21 - 3 * 1.1 + 3 - 1 / 1.1)
    torch.testing.assert_close(third[0, 0, inside, 0], hand[inside], atol=2e-3, rtol=1e-3)
    assert seen[0, 0, inside].all() and not seen[0, 0, start > 38].any()


def test_a_small_thing_that_jerks_counts_as_much_as_a_large_one():
    """Points count by the distance they move: half a picture at rest changes nothing."""
    whole = uniform([1.0, 3.0, 0.0, 2.0])
    half = whole.forward.clone()
    half[..., 12:, :] = 0
    part = flow.Motion(torch.full_like(whole.frames, 0.5), half, -half)
    assert by_flow(part) == pytest.approx(by_flow(whole), rel=0.1)


def test_a_frozen_clip_scores_best_as_the_card_says():
    assert score(torch.rand(1, 3, 32, 32).expand(8, 3, 32, 32)) == 0
    assert "frozen" in Jerk.card.blind_to


def test_circling_has_the_jerk_of_a_circle():
    """r (2 sin(w / 2 fps) fps)^3, the third difference on a circle; 25 % for the flow at
    its rim."""
    scene = world.Scene("circle", "yellow", "circle", "fast", "speckled")
    turn = 2 * math.pi / 1.3
    hand = 0.24 / math.sqrt(2) * (2 * math.sin(turn / 16) * 8) ** 3
    found = 5 * math.expm1(-score(world.render(scene, 96, 17).video))
    assert found == pytest.approx(hand, rel=0.25)


@pytest.mark.parametrize(("fps", "size"), [(24.0, 32), (8.0, 96), (24.0, 64)])
def test_frame_rate_and_size_hardly_count(fps, size):
    """Of a thing going round: within 0.15 of the value at 8 frames a second and 32
    pixels."""
    scene = world.Scene("cross", "yellow", "circle", "fast", "striped")
    base = score(world.render(scene, 32, 17, 8.0, seed=3).video)
    assert score(
        world.render(scene, size, round(2 * fps) + 1, fps, seed=3).video, fps
    ) == pytest.approx(base, abs=0.15)


def test_smooth_motion_is_far_from_shaken():
    clip = world.render(world.Scene("square", "blue", "down", "fast", "light"), 32, 17).video
    assert score(clip) > -0.3
    assert score(corruptions.corrupt(clip, "shake")) < -2


def test_mirrored_and_reversed_nearly_tie():
    clip = world.render(world.Scene("cross", "red", "circle", "slow", "striped")).video
    clip = corruptions.corrupt(clip, "stutter", seed=1)
    assert score(clip.flip(0)) == pytest.approx(score(clip), abs=0.15)
    assert score(clip.flip(-1)) == pytest.approx(score(clip), abs=0.15)


def test_maps_show_which_points_jerk():
    clip = world.render(world.Scene("circle", "red", "left", "fast", "dark"), 32, 9).video
    shaken = clip.clone()
    shaken[4, :, :, 2:] = clip[4, :, :, :-2]
    maps = Jerk()(Samples(shaken[None], [""], 8.0), maps=True).maps
    assert maps["jerk"].shape == (1, 9, 24, 24) and maps["jerk"][0, [0, 7, 8]].isnan().all()
    assert maps["jerk"][0, 4].nanmean() > 0


def test_scale_must_be_positive():
    with pytest.raises(ValueError, match="got 0"):
        Jerk(scale=0)
