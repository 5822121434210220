"""The rewards against numbers worked out by hand and against slow references."""

import math

import pytest
import torch

from vidrl.rewards import Samples, flow
from vidrl.rewards._flow.things import less_camera
from vidrl.rewards.drift import Drift
from vidrl.rewards.dynamic_degree import DynamicDegree, band, speeds
from vidrl.rewards.flicker import Flicker, jump
from vidrl.rewards.frame_quality import FrameQuality, blockiness, clipped, noise_level
from vidrl.rewards.motion_consistency import MotionConsistency, steadiness
from vidrl.rewards.warp_error import WarpError, lai
from vidrl.synthetic import corruptions, world

STILL = torch.rand(1, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0)).expand(
    1, 9, 3, 32, 32
)


def score(reward, video, prompt="", fps=8.0):
    return reward(Samples(video, [prompt] * len(video), fps)).value


def uniform(motion: list[tuple[float, float]], size: int = 24) -> flow.Motion:
    """A Motion in which every pixel moves by motion[t] from frame t to t + 1, over a
    texture."""
    there = (
        torch.tensor(motion, dtype=torch.float)
        .view(1, -1, 2, 1, 1)
        .expand(1, len(motion), 2, size, size)
    )
    frames = torch.rand(
        1, len(motion) + 1, 3, size, size, generator=torch.Generator().manual_seed(0)
    )
    return flow.Motion(frames, there, -there)


# warp error


def test_warp_error_is_lais_by_a_loop():
    video = world.render(world.Scene("cross", "red", "left", "fast", "striped"), frames=4).video[
        None
    ]
    video = corruptions.corrupt(video[0], "noise", 0.5)[None]
    motion, total = flow.estimate(video), 0.0
    for t in range(3):
        warped = flow.warp(video[:, t + 1], motion.forward[:, t])[0]
        there, back = motion.forward[:, t], motion.backward[:, t]
        keep = (~flow.occluded(there, back) & ~flow.moving_edge(there))[0]
        places = [(c, y, x) for c in range(3) for y, x in keep.nonzero().tolist()]
        squares = [(warped[place] - video[0, t][place]).item() ** 2 for place in places]
        total += sum(squares) / len(squares)
    assert lai(motion).mean().item() == pytest.approx(total / 3, rel=1e-4)


def test_warp_error_of_known_noise():
    """Two independent grains of variance s^2 differ by 2 s^2, on any still background."""
    grain = torch.randn(1, 9, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 0.03
    held = flow.Motion(0.5 + grain, torch.zeros(1, 8, 2, 32, 32), torch.zeros(1, 8, 2, 32, 32))
    assert lai(held).mean().item() == pytest.approx(2 * 0.03**2, rel=0.05)


def test_warp_error_takes_motion_out_in_the_right_direction():
    clip = world.render(world.Scene("circle", "blue", "right", "fast", "speckled"), frames=9).video[
        None
    ]
    plain = clip.diff(dim=1).square().mean().item()
    assert -score(WarpError(), clip).item() < 0.1 * plain


def test_everything_masked_counts_everything():
    motion = uniform([(100.0, 0.0)])
    assert not motion.seen_later.any()
    assert lai(motion).item() == pytest.approx(
        (motion.later - motion.frames[:, :1]).square().mean().item(), rel=1e-5
    )


def test_relative_warp_error_of_stillness_is_nothing_and_at_rest_everything():
    assert score(WarpError(relative=True), STILL).item() == pytest.approx(0, abs=1e-4)
    assert score(WarpError(relative=True), STILL, "a circle stays still").item() == 1


def test_a_pan_over_a_still_explains_little_until_the_camera_is_asked_for():
    texture = world.render(world.Scene("circle", "red", "left", "slow", "speckled")).video
    pan = corruptions.corrupt(texture, "pan")[None]
    plain, asked = (
        score(WarpError(relative=True), pan, p).item()
        for p in ("a red circle", "the camera pans left")
    )
    assert plain < asked - 0.1


# flicker


def test_flicker_of_a_known_gain():
    """Grey 0.4 with one frame 1.2 times as bright: that frame and its neighbours depart by
    2, 1 and 1 log gains."""
    video = torch.full((1, 7, 3, 32, 32), 0.4)
    video[:, 3] *= 1.2
    curve = Flicker(floor=0.0)(Samples(video, [""], 8.0)).frames
    gain = math.log((0.4 * 1.2 + 1e-3) / (0.4 + 1e-3))
    assert (-curve[0]).tolist()[2:5] == pytest.approx([gain, 2 * gain, gain], rel=1e-3)


def test_a_steady_fade_is_no_flicker():
    fade = torch.full((1, 9, 3, 32, 32), 0.8) * (0.9 ** torch.arange(9)).view(1, 9, 1, 1, 1)
    assert score(Flicker(floor=0.0), fade).item() == pytest.approx(0, abs=2e-3)


def test_jump_weighs_by_what_is_seen():
    frame = torch.ones(1, 1, 1, 4, 4)
    after = frame.clone()
    after[..., 2:] = 2.0
    left, right = (
        torch.zeros(1, 1, 1, 4, 4, dtype=torch.bool),
        torch.zeros(1, 1, 1, 4, 4, dtype=torch.bool),
    )
    left[..., :2], right[..., 2:] = True, True
    assert jump(frame, frame, after, left, 2, 0.0).item() == pytest.approx(0, abs=1e-6)
    assert jump(frame, frame, after, right, 2, 0.0).item() == pytest.approx(
        math.log(2.001 / 1.001), rel=1e-4
    )


# motion consistency


def test_steadiness_of_known_motion():
    assert steadiness(uniform([(1, 0)] * 5), 0.0).tolist()[0] == pytest.approx([1, 1, 1])
    assert steadiness(uniform([(0, 0)] * 5), 0.1).tolist()[0] == [0, 0, 0]
    speeding = uniform([(v, 0) for v in (1, 2, 3, 4, 5)])
    assert steadiness(speeding, 0.0).tolist()[0] == pytest.approx([1, 1, 1])
    # 2, 0, 2: S = 4, accelerations -2 and 2, so (4 - 4) / 4; 0, 2, 0: S = 2, so (2 - 4) /
    # 2, which is the floor
    assert steadiness(uniform([(2, 0), (0, 0), (2, 0), (0, 0)]), 0.0).tolist()[0] == pytest.approx(
        [0, -1]
    )


def test_stillness_is_steady_only_where_it_is_asked_for():
    assert score(MotionConsistency(), STILL).item() == 0
    assert score(MotionConsistency(), STILL, "a ball lies motionless").item() == pytest.approx(1)


def test_turning_and_falling_cost_little():
    for motion in ("circle", "bounce"):
        clip = world.render(world.Scene("circle", "red", motion, "slow"), size=64).video[None]
        assert score(MotionConsistency(), clip).item() > 0.7


# dynamic degree


@pytest.mark.parametrize("speed", [0.05, 0.11, 0.2])
def test_speed_is_measured_in_diagonals_a_second(speed):
    """A disc with known motion has the same speed at two frame rates and sizes."""
    for size, fps in ((32, 8.0), (64, 16.0)):
        path = speed * math.sqrt(2) / fps * torch.arange(9)
        centre = torch.stack([0.3 + path, 0.5 + 0 * path], 1)
        mask = world.coverage("circle", centre, torch.full((9,), 0.18), size)
        motion = flow.estimate((0.15 + 0.7 * mask)[None, :, None])
        found = speeds(less_camera(motion, [""]), motion.hold).mean().item() * fps / motion.diagonal
        assert found == pytest.approx(speed, rel=0.2)


def test_standing_still_and_shaking_both_lose():
    clip = world.render(world.Scene("square", "green", "left", "slow", "speckled")).video
    moving, shaken, frozen = (
        score(DynamicDegree(), v[None]).item()
        for v in (
            clip,
            corruptions.corrupt(clip[:1].expand_as(clip), "shake"),
            corruptions.corrupt(clip, "freeze"),
        )
    )
    assert moving > 0.95 and shaken < 0.5 and frozen == 0


def test_too_fast_loses_and_the_pace_asked_for_moves_the_band():
    speed = torch.tensor([0.4, 1.0, 2.0])
    assert band(speed, 0.1, 1.0).tolist() == pytest.approx([1, 1, 0.5])
    reward = DynamicDegree()
    assert reward._wanted(torch.tensor([0.02]), torch.zeros(1), "it moves slowly").item() == 1
    assert reward._wanted(torch.tensor([0.02]), torch.zeros(1), "it moves").item() < 1
    assert reward._wanted(torch.tensor([1.5]), torch.zeros(1), "it moves quickly").item() == 1
    assert reward._wanted(torch.tensor([1.5]), torch.zeros(1), "it moves").item() == pytest.approx(
        1 / 1.5
    )


def test_rest_is_wanted_where_it_is_asked_for():
    assert score(DynamicDegree(), STILL, "a cup at rest").item() == 1
    moving = world.render(world.Scene("circle", "red", "left", "fast")).video[None]
    assert score(DynamicDegree(), moving, "a red circle stays still").item() < 0.3


def test_a_band_upside_down_is_refused():
    with pytest.raises(ValueError, match="0 < low < high"):
        DynamicDegree(low=1.0, high=0.5)


# drift


def test_drift_of_a_known_fade():
    """Each frame 0.9 times the first: |ln 0.9| of light, and as much of detail at its
    weight."""
    first = 0.3 + 0.3 * torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    first = torch.nn.functional.interpolate(first, 32, mode="nearest")
    video = torch.stack([first, 0.9 * first, 0.9 * first], 1)
    curve = -Drift(weight=0.0, floor=0.0)(Samples(video, [""], 8.0)).frames[0]
    assert curve[0] == 0 and curve[1:].tolist() == pytest.approx([-math.log(0.9)] * 2, rel=5e-3)


def test_drift_follows_what_moves():
    clip = world.render(world.Scene("square", "red", "left", "fast", "striped"), size=64).video[
        None
    ]
    assert score(Drift(), clip).item() > -0.1
    assert score(Drift(), corruptions.corrupt(clip[0], "fade")[None]).item() < -0.3


# frame quality


@pytest.mark.parametrize("sigma", [0.02, 0.05])
def test_noise_is_measured(sigma):
    grain = torch.randn(1, 4, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * sigma
    assert noise_level(0.5 + grain).mean().item() == pytest.approx(sigma, rel=0.05)
    assert noise_level(torch.full((1, 1, 3, 16, 16), 0.5)).item() == 0


def test_blocks_are_seen_and_a_slope_has_none():
    slope = torch.linspace(0, 1, 64).expand(1, 1, 3, 64, 64)
    blocky = torch.nn.functional.interpolate(torch.rand(1, 3, 8, 8), 64)[None]
    assert blockiness(slope).item() == 0 and blockiness(blocky).item() > 1


def test_clipping_is_a_share():
    video = torch.full((1, 1, 3, 8, 8), 0.5)
    video[..., :2] = 1.0
    assert clipped(video).item() == pytest.approx(0.25)
    assert clipped(torch.zeros(1, 1, 3, 8, 8)).item() == 0  # black bars are no fault


def test_quality_is_a_product_with_nothing_at_its_bottom():
    assert score(FrameQuality(), torch.full((1, 2, 3, 32, 32), 0.5)).item() == 0
    assert (
        0
        < score(FrameQuality(), world.render(world.Scene("cross", "cyan", "up")).video[None]).item()
        < 1
    )


def test_frame_quality_is_the_product_of_its_parts():
    clip = Samples(
        torch.rand(2, 3, 3, 32, 32, generator=torch.Generator().manual_seed(0)), [""] * 2, 8.0
    )
    score = FrameQuality()(clip)
    assert set(score.parts) == {
        "sharp",
        "detail",
        "contrast",
        "noise",
        "lit",
        "clipped",
        "colour",
        "blocks",
    }
    product = torch.stack([part.frames for part in score.parts.values()]).prod(0)
    torch.testing.assert_close(product, score.frames)


def test_the_maps_of_a_warp_show_what_moves_and_what_it_leaves():
    scene = world.render(world.Scene("square", "red", "right", "fast", "speckled"), 64, 6, seed=1)
    score = WarpError()(Samples(scene.video[None], [""], 8.0), maps=True)
    inside = scene.mask[2] > 0.9
    flow = score.maps["flow"][0, 2]
    assert flow[inside].mean() > 5 * flow[scene.mask[2] < 0.01].mean()
    assert score.maps["residual"][0, :-1].max() < 1 and score.maps["residual"][0, -1].isnan().all()
    hidden = score.maps["occlusion"][0, 2] > 0
    assert (scene.occluded[2] & hidden).sum() > 0.3 * scene.occluded[2].sum()
