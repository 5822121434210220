"""Samples, Score and the import guard: what is refused, and how it is said."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vidrl import rewards
from vidrl.rewards import Reward, Samples, Score
from vidrl.rewards.base import spread

VIDEO = torch.rand(2, 5, 3, 16, 16)


@pytest.mark.parametrize(
    ("video", "words"),
    [
        (VIDEO[0], "add the batch"),
        (VIDEO.permute(0, 1, 3, 4, 2), "channels come third"),
        (VIDEO[:, :, :2], "1 or 3 channels"),
        (VIDEO[:0], "nothing empty"),
        ((VIDEO * 255).int(), "torch.int32"),
        (VIDEO * 255, "divide by 255"),
        (VIDEO * 2 - 1, r"\(x \+ 1\) / 2"),
        (VIDEO.numpy(), "got ndarray"),
    ],
)
def test_a_wrong_video_is_refused_with_its_cure(video, words):
    with pytest.raises(ValueError, match=words):
        Samples(video, ["", ""], 8.0)


@pytest.mark.parametrize(("prompts", "words"), [(["one"], "1 prompts"), ("ab", "one string")])
def test_prompts_are_one_a_clip(prompts, words):
    with pytest.raises(ValueError, match=words):
        Samples(VIDEO, prompts, 8.0)


@pytest.mark.parametrize("fps", [0, -1.0, float("nan"), float("inf"), "8"])
def test_fps_is_a_positive_number(fps):
    with pytest.raises(ValueError, match="positive number"):
        Samples(VIDEO, ["", ""], fps)


def test_what_is_memoised_is_made_once_and_shared_by_picks():
    samples, calls = Samples(VIDEO, ["", ""], 8.0), []
    for _ in range(2):
        samples.memo("key", lambda: calls.append(1))
        samples.pick([1]).memo("key", lambda: calls.append(1))
    assert len(calls) == 2 and samples.pick([0, 1]) is samples
    assert samples.pick([1]).prompts == [""] and torch.equal(samples.pick([1]).video, VIDEO[1:])


def test_the_curve_keeps_the_mean_and_a_pair_gives_half_to_each():
    terms = torch.tensor([[0.0, 0.0, 1.0, 0.0]])
    assert spread(terms, 0).tolist() == [[0, 0, 1, 0]]
    assert (spread(terms, 1) - 0.25).tolist() == [[-0.125, -0.25, 0.25, 0.25, -0.125]]
    assert spread(terms, 2).tolist() == [[0.25, 0, 0, 1, 0, 0.25]]
    assert (spread(terms, 3) - 0.25).tolist() == [[0, -0.125, -0.25, 0.25, 0.25, -0.125, 0]]


def test_score_knows_its_supports():
    with pytest.raises(ValueError, match="frame, pair, prefix, clip"):
        Score(torch.zeros(1), support="triple")


def test_a_reward_without_terms_cannot_be_scored_in_pieces():
    class Whole(Reward):
        def forward(self, samples):
            return Score(samples.frames.mean((1, 2, 3, 4)))

    assert Whole()(Samples(VIDEO, ["", ""], 8.0)).value.shape == (2,)
    with pytest.raises(NotImplementedError, match="pass it whole"):
        Whole().stream(8.0)


def test_the_folder_refuses_any_other_name():
    spec = importlib.util.spec_from_file_location("rewards", Path(rewards.__file__))
    with pytest.raises(ImportError, match=r"vidrl\.rewards.*core\.symlinks"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_importing_is_light():
    heavy = ["diffusers", "transformers", "accelerate", "peft", "cv2", "decord", "av"]
    code = f"import sys, vidrl.rewards; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_prompts_are_read_for_rest_pace_and_camera():
    from vidrl import world
    from vidrl.rewards._prompts import camera, pace, rests

    for scene in world.all_scenes():
        assert rests(scene.caption) == (scene.motion == "rest")
        assert pace(scene.caption) == (1.0 if scene.motion == "rest" else {"slow": 0.5, "fast": 2.0}[scene.speed])
        assert not camera(scene.caption)
    assert camera(world.Scene("cross", "red", "left", camera="up").caption)
    assert rests("a vase, motionless on a table") and not rests("a man stands up; distilled water boils")
