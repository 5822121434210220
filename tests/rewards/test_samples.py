"""Samples, Score and the import guard refuse wrong inputs with clear messages."""

import importlib.util
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from vidrl import rewards
from vidrl.rewards import Reward, Samples, Score
from vidrl.rewards._scoring.plain import as_reward
from vidrl.rewards.base import curve_of_terms
from vidrl.rewards.flicker import Flicker
from vidrl.rewards.frame_quality import FrameQuality

VIDEO = torch.rand(2, 5, 3, 16, 16)


@pytest.mark.parametrize(
    ("video", "words"),
    [
        (VIDEO[0], r"got shape \(5, 3, 16, 16\): add the batch with video\[None\]"),
        (VIDEO[0, 0], r"got shape \(3, 16, 16\): rearrange"),
        (
            VIDEO.permute(0, 1, 3, 4, 2),
            r"got shape \(2, 5, 16, 16, 3\): channels come third, permute\(0, 1, 4, 2, 3\)",
        ),
        (
            VIDEO.transpose(1, 2),
            r"got shape \(2, 3, 5, 16, 16\): channels come third, transpose\(1, 2\)",
        ),
        (VIDEO[:, :, :2], r"\(2, 5, 2, 16, 16\): pass 1 or 3 channels"),
        (VIDEO[:0], "nothing empty"),
        (VIDEO[:, :0], "nothing empty.*leave out clips without frames"),
        ((VIDEO * 255).int(), r"got torch.int32: use \.to\(torch\.uint8\) or \.float\(\) / 255"),
        ((VIDEO * 255).long(), r"got torch.int64: use \.to\(torch\.uint8\)"),
        ((VIDEO * 65535).int().to(torch.uint16), r"got torch.uint16: use \.float\(\) / 65535"),
        (VIDEO > 0.5, r"got torch.bool: use \.float\(\)"),
        (VIDEO.to(torch.complex64), r"got torch.complex64: use \.real"),
        (VIDEO * 255, "values from .* to 2[45][0-9]: divide by 255"),
        (VIDEO * 2 - 1, r"values from -.*: map \[-1, 1\] by \(x \+ 1\) / 2"),
        (
            VIDEO - 0.2,
            r"values from -0\.[12].*: map \[-1, 1\] by \(x \+ 1\) / 2, or clamp\(0, 1\) what "
            r"overshoots",
        ),
        (VIDEO * 1.1 - 0.1, r"values from -0\.(09|1).* to .*clamp\(0, 1\)"),
        (VIDEO + 0.2, r"to 1\.2: clamp\(0, 1\) what overshoots"),
        (VIDEO.half() - 0.2, r"values from -0\.[12]"),
        (torch.cat([VIDEO * 255, torch.full_like(VIDEO, torch.nan)]), "divide by 255"),
        (VIDEO.numpy(), "got ndarray: use torch.as_tensor"),
        (list(VIDEO), "got list: use torch.stack"),
        (
            [VIDEO[0], VIDEO[1, :, :, :8]],
            r"got list: score clips of one shape at a time, .*\(5, 3, 8, 16\)",
        ),
        ((VIDEO[0].numpy(),), "got tuple: use torch.stack"),
        (None, "got NoneType"),
        ("clip.mp4", "got str"),
    ],
)
def test_a_wrong_video_is_refused_with_its_cure(video, words):
    prompts = [""] * (len(video) if hasattr(video, "__len__") else 2)
    with pytest.raises(
        ValueError,
        match=rf"(?s)expected video as \(batch, frames, channels, height, width\).*{words}",
    ):
        Samples(video, prompts, 8.0)


def test_what_resizing_and_half_precision_leave_beyond_the_range_is_taken():
    for video in (VIDEO - 0.04, VIDEO + 0.04, VIDEO.clamp(0.5) * 2.04 - 1.02):
        assert Samples(video, ["", ""], 8.0).video is video


def test_each_pixel_is_checked_once(monkeypatch):
    """The check of the range finds the finite frames, and later steps do not repeat it.

    Phases, picks and pieces are such steps.
    """
    video = VIDEO.repeat(2, 3, 1, 1, 1)
    video[1, 7, 0, 3, 3] = torch.nan
    video[3, 2] = torch.inf
    made = Samples(video, [""] * 4, 24.0)
    monkeypatch.setattr("vidrl.rewards._scoring.samples.check_video", None)
    monkeypatch.setattr(torch, "isfinite", None)
    assert made.broken() == [None, 7, None, 2] and made.broken(first=10) == [None, 17, None, 12]
    assert made.pick([3, 1]).broken() == [2, 7]
    assert [piece.broken() for piece in made.pieces(3)] == [[None, 7, None], [2]]
    assert [part.broken() for part in made.phases(3)] == [
        [None] * 4,
        [None, 2, None, None],
        [None, None, None, 0],
    ]
    assert made.phases(3)[1].pick([1]).to("cpu").broken() == [2]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            VIDEO,
            r"got a tensor of shape \(2, 5, 3, 16, 16\): pass Samples\(video, \[\"\"\] \* "
            r"len\(video\), fps=16.0\)",
        ),
        (VIDEO.numpy(), r"got ndarray: pass Samples\(video, prompts, fps=16.0\)"),
        (list(VIDEO), "got list: pass Samples"),
        ("clip.mp4", r"got str: vidrl.rewards.score\(paths, reward\) reads files"),
        ([Path("a.mp4"), Path("b.mp4")], "got list: vidrl.rewards.score"),
        (None, "got NoneType: pass Samples"),
    ],
)
def test_a_reward_says_what_to_pass(given, words):
    for reward in (rewards.default(), Flicker(), as_reward(lambda samples: 0)):
        with pytest.raises(
            ValueError, match=f"expected Samples, which hold the clips, .* frame rate, {words}"
        ):
            reward(given)


@pytest.mark.parametrize("fault", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_the_clips_own_fault(fault):
    video = VIDEO.clone()
    video[1, 2, 0, 3, 3] = fault
    score = FrameQuality()(Samples(video, ["", ""], 8.0))
    assert score.why == [None, "unscored: NaN or infinity in frame 2; the generator diverged"]
    assert torch.isfinite(score.value[0]) and torch.isnan(score.value[1])


def test_one_frame_is_no_clip_to_what_needs_two():
    score = Flicker()(Samples(VIDEO[:, :1], ["", ""], 8.0))
    assert score.why == ["inapplicable to an image: needs a clip of at least 3 frames, got 1"] * 2
    assert Flicker()(Samples(VIDEO[:, :2], ["", ""], 8.0)).why[0] == (
        "inapplicable: needs a clip of at least 3 frames, got 2"
    )
    assert torch.isnan(score.value).all()


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        (["one"], "got 1 prompts: repeat each"),
        (["a", "b", "c"], "got 3 prompts"),
        ("ab", r"one string: use \[prompt\] \* 2"),
        (None, "got NoneType"),
        ({"a": 1, "b": 2}, "got dict"),
        (["a", None], 'NoneType among them: use ""'),
        (["a", 3], "int among them"),
    ],
)
def test_prompts_are_one_a_clip(prompts, words):
    with pytest.raises(ValueError, match=f"expected a list of 2 prompts, one a clip.*{words}"):
        Samples(VIDEO, prompts, 8.0)


@pytest.mark.parametrize(
    "fps", [0, -1.0, float("nan"), float("inf"), "8", None, True, [8.0], torch.tensor([8.0, 8.0])]
)
def test_fps_is_a_positive_number(fps):
    with pytest.raises(
        ValueError, match=r"(?s)expected fps, frames a second, to be a positive number.*fps=16\.0"
    ):
        Samples(VIDEO, ["", ""], fps)


def test_fps_must_be_given_and_may_be_any_kind_of_number():
    with pytest.raises(TypeError, match="fps"):
        Samples(VIDEO, ["", ""])
    kinds = [24, 24.0, np.float32(24), np.int64(24), Fraction(24)]
    assert all(type(Samples(VIDEO, ["", ""], fps).fps) is float for fps in kinds)


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        (VIDEO[:, 0], r"got shape \(2, 3, 16, 16\): an image has one frame, reference\[:, None\]"),
        (VIDEO[:1], "a reference for each of 2 clips, got 1"),
        (VIDEO[:, :1].permute(0, 1, 3, 4, 2), "expected reference .*channels come third"),
        (VIDEO[:, :1] * 255, "expected reference .*divide by 255"),
        (VIDEO[:, :1].numpy(), "expected reference .*got ndarray"),
        (
            VIDEO[:, :1].to(torch.uint8).to("meta"),
            r"got cpu and meta: move one with \.to\(device\)",
        ),
    ],
)
def test_a_wrong_reference_is_refused_with_its_cure(reference, words):
    with pytest.raises(ValueError, match=f"(?s){words}"):
        Samples(VIDEO, ["", ""], 8.0, reference)


@pytest.mark.parametrize(
    ("meta", "words"),
    [
        ([{}], "got 1"),
        ([{}, {}, {}], "got 3"),
        ({"a": 1}, "got one dict"),
        (None, "got one NoneType"),
    ],
)
def test_meta_is_one_a_clip(meta, words):
    with pytest.raises(
        ValueError, match=f"(?s)expected meta as a list of 2 mappings.*{words}.*leave it out"
    ):
        Samples(VIDEO, ["", ""], 8.0, meta=meta)


def test_what_is_right_is_taken():
    meta = [{"seed": 1}, {"seed": 2}]
    for video in (
        VIDEO,
        VIDEO.half(),
        VIDEO.double(),
        (VIDEO * 255).to(torch.uint8),
        VIDEO[:, :, :1],
        VIDEO[:, :1],
    ):
        samples = Samples(video, ("a", "b"), 8, VIDEO[:, :1, :, :8], meta)
        assert samples.frames.is_floating_point() and samples.pick([1]).meta == [{"seed": 2}]


@pytest.mark.gpu
def test_a_reference_on_another_device_is_told():
    with pytest.raises(ValueError, match="got cuda:0 and cpu"):
        Samples(VIDEO.cuda(), ["", ""], 8.0, VIDEO[:, :1])
    assert Samples(VIDEO, ["", ""], 8.0, VIDEO[:, :1]).to("cuda").reference.is_cuda


def test_what_is_memoised_is_made_once_and_shared_by_picks():
    samples, calls = Samples(VIDEO, ["", ""], 8.0), []
    for _ in range(2):
        samples.memo("key", lambda: calls.append(1))
        samples.pick([1]).memo("key", lambda: calls.append(1))
    assert len(calls) == 2 and samples.pick([0, 1]) is samples
    assert samples.pick([1]).prompts == [""] and torch.equal(samples.pick([1]).video, VIDEO[1:])


def test_the_curve_keeps_the_mean_and_a_pair_gives_half_to_each():
    terms = torch.tensor([[0.0, 0.0, 1.0, 0.0]])
    assert curve_of_terms(terms, 0).tolist() == [[0, 0, 1, 0]]
    assert (curve_of_terms(terms, 1) - 0.25).tolist() == [[-0.125, -0.25, 0.25, 0.25, -0.125]]
    assert curve_of_terms(terms, 2).tolist() == [[0.25, 0, 0, 1, 0, 0.25]]
    assert (curve_of_terms(terms, 3) - 0.25).tolist() == [[0, -0.125, -0.25, 0.25, 0.25, -0.125, 0]]


class Brightness(Reward):
    time_support, lookahead = "frame", 1

    def features(self, samples):
        return samples.frames.mean((2, 3, 4))[:, 1:]

    def terms_of_clip(self, features, about):
        return 2 * features


def former():
    """A class of a user that was written with the former names."""

    class Former(Brightness):
        support, reach = "prefix", 2

        def features(self, samples):
            return super().features(samples)[:, 1:]

        def conclude(self, features, about):
            return super().conclude(features, about) + 1

    return Former


def test_former_names_of_a_reward_class_are_read_with_one_warning():
    with pytest.warns(DeprecationWarning, match="support -> time_support") as warnings:
        reward = former()()
    assert len(warnings) == 1 and "conclude -> terms_of_clip" in str(warnings[0].message)
    score = reward(Samples(VIDEO, [""] * 2, 8.0))
    assert score.support == reward.time_support == reward.support == "prefix"
    assert reward.lookahead == reward.reach == 2
    assert torch.allclose(score.value, 1 + 2 * VIDEO[:, 2:].mean((1, 2, 3, 4)))
    reward.support = "clip"
    assert reward.time_support == "clip"


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
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip()
        == "[]"
    )


def test_prompts_are_read_for_rest_pace_and_camera():
    from vidrl.rewards._prompts.motion_words import (
        asked_pace,
        asks_for_camera_motion,
        asks_for_rest,
    )
    from vidrl.synthetic import world

    for scene in world.all_scenes():
        assert asks_for_rest(scene.caption) == (scene.motion == "rest")
        assert asked_pace(scene.caption) == (
            1.0 if scene.motion == "rest" else {"slow": 0.5, "fast": 2.0}[scene.speed]
        )
        assert not asks_for_camera_motion(scene.caption)
    assert asks_for_camera_motion(world.Scene("cross", "red", "left", camera="up").caption)
    assert asks_for_rest("a vase, motionless on a table") and not asks_for_rest(
        "a man stands up; distilled water boils"
    )
