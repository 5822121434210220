"""A plain function fn(samples) serves as a reward in every command and class.

The tests list what it may return and what is refused.
"""

import json
import math
import re
import sys

import numpy as np
import pytest
import torch

from vidrl import audit, plugin
from vidrl.bench.dims import Dim
from vidrl.config import RewardSection
from vidrl.rewards import Composite, Reward, Samples, Score, adapt, load, score
from vidrl.rewards._scoring.plain import as_reward
from vidrl.rewards._serving.serve import RewardHandler
from vidrl.rewards._serving.wire import pack_samples, unpack_score
from vidrl.rewards.frame_quality import FrameQuality
from vidrl.training.evaluate import build_reward

STARTS, RISES = (
    torch.linspace(0, 0.75, 4).view(4, 1, 1, 1, 1),
    torch.linspace(0, 0.2, 5).view(5, 1, 1, 1),
)
VIDEO = STARTS.expand(4, 5, 3, 8, 8) + RISES
SAMPLES = Samples(VIDEO, ["a", "b", "c", "d"], 8.0)
LIGHT = [0.1, 0.35, 0.6, 0.85]  # of each clip
MINE = '''
import torch
from vidrl.rewards import Reward, Score

def light(samples):
    """Mean light."""
    return samples.frames.mean((1, 2, 3, 4))

def old(video, prompts, fps):
    return video.mean((1, 2, 3, 4))

def two(video, prompts):
    return video.mean((1, 2, 3, 4))

class Gain:
    def __init__(self, gain: float = 1.0):
        self.gain = gain
    def __call__(self, samples):
        return self.gain * light(samples)

class OneNumber(Reward):
    def forward(self, samples):
        return Score(light(samples))

class Numbers(Reward):
    def forward(self, samples):
        return light(samples)

made = OneNumber()
number = 3
'''


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module of the user's in the working folder; its name."""
    name = f"mine_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    yield name
    sys.modules.pop(name, None)


def light(samples: Samples) -> torch.Tensor:
    return samples.frames.mean((1, 2, 3, 4))


@pytest.mark.parametrize(
    "give",
    [
        light,
        lambda s: light(s).double(),
        lambda s: light(s).numpy(),
        lambda s: light(s).double().numpy(),
        lambda s: light(s).tolist(),
        lambda s: tuple(light(s).tolist()),
        lambda s: list(light(s)),
        lambda s: [np.float64(x) for x in light(s).tolist()],
        lambda s: Score(light(s)),
        lambda s: s.frames.mean((2, 3, 4)),
        lambda s: s.frames.mean((2, 3, 4)).numpy(),
        lambda s: s.frames.mean((2, 3, 4)).tolist(),
        lambda video, prompts, fps: video.mean((1, 2, 3, 4)),
        lambda video, prompts=(), fps=8.0: video.mean((1, 2, 3, 4)),
        lambda *given: light(given[0]),
        lambda samples, gain=1.0, bias=0.0: gain * light(samples) + bias,
    ],
)
def test_one_number_a_clip_or_a_frame_is_taken(give):
    made = as_reward(give)(SAMPLES)
    assert made.value.tolist() == pytest.approx(LIGHT, abs=1e-6) and made.why == [None] * 4
    if made.frames is not None:
        assert made.support == "frame" and made.frames.shape == (4, 5)
        torch.testing.assert_close(made.frames.mean(1), made.value)
        assert made.frames[0].tolist() == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2], abs=1e-6)


@pytest.mark.parametrize(
    "give",
    [
        lambda s: light(s) > 0.5,
        lambda s: (light(s) > 0.5).long(),
        lambda s: [False, False, True, True],
        lambda s: [0, 0, 1, 1],
        lambda s: light(s).gt(0.5).half(),
    ],
)
def test_truths_and_integers_become_numbers(give):
    made = as_reward(give)(SAMPLES)
    assert made.value.tolist() == [0, 0, 1, 1] and made.value.dtype == torch.float32


@pytest.mark.parametrize(
    ("give", "words"),
    [
        (lambda s: None, "got None: the function has no return"),
        (lambda s: 0.5, "got 0.5 (float)"),
        (lambda s: "0.5", "got '0.5' (str)"),
        (lambda s: {"value": light(s)}, "(dict)"),
        (lambda s: (light(s), {"parts": 1}), "got a tuple of 2: Tensor, dict"),
        (lambda s: light(s).mean(), "got a tensor of shape (): do not average over the clips"),
        (
            lambda s: light(s)[:, None],
            "got a tensor of shape (4, 1): take its last axis away with squeeze(1)",
        ),
        (lambda s: light(s)[:3], "got a tensor of shape (3,): one number for each clip"),
        (lambda s: light(s)[:3].numpy(), "got an array of shape (3,)"),
        (lambda s: light(s).tolist()[:3], "got a list of 3: float"),
        (lambda s: [], "got a list of 0"),
        (lambda s: ["a", "b", "c", "d"], "got a list of 4: str"),
        (lambda s: [[1.0], [2.0, 3.0], [], []], "got a list of 4: list"),
        (
            lambda s: s.frames.mean((2, 3, 4))[:, 1:],
            "got a tensor of shape (4, 4): a curve has a number for",
        ),
        (
            lambda s: s.frames,
            "got a tensor of shape (4, 5, 3, 8, 8): average over the axes after the first",
        ),
        (lambda s: light(s).to(torch.complex64), "got complex numbers"),
        (lambda s: Score(light(s)[:2]), "got a Score of 2 clips"),
        (
            lambda s: Score(light(s), s.frames.mean((2, 3, 4))[:, 1:]),
            "got a Score with frames of shape (4, 4)",
        ),
        (lambda s: Score(light(s), why=["no"]), "got a Score with 1 reasons"),
    ],
)
def test_anything_else_is_refused_with_what_was_expected(give, words):
    expected = (
        "expected mine to return 4 numbers, one a clip, as a tensor (4,), an array or a "
        "list; a tensor (4, 5)"
    )
    with pytest.raises(ValueError, match=f"{re.escape(expected)}.*{re.escape(words)}"):
        as_reward(give, "mine")(SAMPLES)


@pytest.mark.parametrize(
    "fn", [lambda: 0, lambda video, prompts: 0, lambda a, b, c, d: 0, lambda *, samples: 0]
)
def test_other_arguments_are_refused_before_any_work(fn):
    with pytest.raises(
        ValueError, match=r"function fn\(samples\) of one argument, got mine\(.*samples.frames"
    ):
        as_reward(fn, "mine")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, None])
def test_what_is_no_number_is_unscored_with_a_reason(bad):
    made = as_reward(lambda s: [0.5, bad, 0.25, 1.0], "mine")(SAMPLES)
    assert made.value.isnan().tolist() == [False, True, False, False]
    assert made.why == [None, "unscored: mine returned NaN or infinity", None, None]
    spoilt = VIDEO.clone()
    spoilt[2, 3, 0, 0, 0] = math.nan
    made = as_reward(lambda s: [1.0] * 4)(Samples(spoilt, [""] * 4, 8.0))
    assert made.why[2] == "unscored: NaN or infinity in frame 3; the generator diverged"
    assert made.value.isnan().tolist() == [False, False, True, False]


def test_a_reward_class_may_return_numbers_too():
    class Numbers(Reward):
        def forward(self, samples):
            return light(samples)

    assert Numbers()(SAMPLES).value.tolist() == pytest.approx(LIGHT)
    Numbers.forward = lambda self, samples: light(samples)[:2]
    with pytest.raises(ValueError, match="expected Numbers to return 4 numbers"):
        Numbers()(SAMPLES)


@pytest.mark.parametrize("name", ["light", "old", "Gain", "OneNumber", "Numbers", "made"])
def test_every_face_takes_the_same_reward(name, mine):
    """load, a recipe's name and parts, a bench dim, audit, serve, score and an adapter."""
    named = f"{mine}:{name}"
    reward = load(named)
    as_part = build_reward(RewardSection(parts={named: 1.0}))
    faces = [
        reward(SAMPLES),
        build_reward(RewardSection(name=named))(SAMPLES),
        as_part(SAMPLES),
        Dim("mine", named).build()(SAMPLES),
        unpack_score(RewardHandler(reward).answer(pack_samples(SAMPLES))),
        adapt.from_function(reward)(SAMPLES),
    ]
    for found in faces:
        assert found.value.tolist() == pytest.approx(LIGHT, abs=1e-6)
    assert [row["value"]["reward"] for row in score(VIDEO, reward, fps=8.0)] == pytest.approx(
        LIGHT, abs=1e-6
    )
    assert audit.load(named)(SAMPLES).value.tolist() == pytest.approx(LIGHT, abs=1e-6)
    facts = plugin.facts("rewards", named)
    assert facts["name"] == named and [option["name"] for option in facts["options"]] == [
        "gain"
    ] * (name == "Gain")


@pytest.mark.parametrize(
    "take",
    [
        lambda fn: Composite({"fn": fn})(SAMPLES).value,
        lambda fn: RewardHandler(fn).reward(SAMPLES).value,
        lambda fn: torch.tensor([row["value"]["reward"] for row in score(VIDEO, fn, fps=8.0)]),
        lambda fn: adapt.from_function(fn)(SAMPLES).value,
        lambda fn: torch.as_tensor(adapt.flow_grpo(fn, fps=8)(VIDEO, SAMPLES.prompts, [{}] * 4)[0]),
        lambda fn: adapt.clips(fn, fps=8)(list(VIDEO), SAMPLES.prompts),
        lambda fn: adapt.fastvideo(fn, fps=8)(VIDEO.transpose(1, 2), SAMPLES.prompts),
        lambda fn: audit.Scorer(fn)([audit.Clip("a", clip, "", 8.0) for clip in VIDEO])[0],
    ],
)
def test_a_function_itself_is_taken_where_a_reward_is(take):
    assert list(take(light)) == pytest.approx(LIGHT, abs=1e-6)


def test_options_reach_a_class_and_are_refused_of_a_function(mine):
    assert load(f"{mine}:Gain", gain=2)(SAMPLES).value.tolist() == pytest.approx(
        [2 * x for x in LIGHT]
    )
    with pytest.raises(plugin.BadOption, match="did you mean 'gain'"):
        load(f"{mine}:Gain", gian=2)
    with pytest.raises(
        plugin.BadOption,
        match="not a class, so that it takes no options, got gain: make it a class",
    ):
        load(f"{mine}:light", gain=2)
    with pytest.raises(plugin.BadOption, match="default composite has no options, got gain"):
        load("default", gain=2)
    with pytest.raises(plugin.BadOption, match="did you mean 'flow'"):
        load("flicker", flwo="dis")


def test_wrong_names_are_told(mine):
    for name, words in [
        ("two", r"fn\(samples\) of one argument, got .*two\(video, prompts\)"),
        ("number", "expected a Reward or a function .*got int"),
    ]:
        with pytest.raises(ValueError, match=words):
            load(f"{mine}:{name}")
    for name, words in [
        (f"{mine}:lihgt", "did you mean 'light'"),
        ("nowhere:light", "no module 'nowhere'"),
        ("flikker", "did you mean 'flicker'"),
        (FrameQuality, "expected the name of a reward"),
    ]:
        with pytest.raises(plugin.UnknownName, match=words):
            load(name)
    for thing in (FrameQuality, "flicker", 3):
        with pytest.raises(ValueError, match=r"expected a Reward or a function fn\(samples\)"):
            as_reward(thing)


def test_the_command_shows_and_scores_a_function(mine, tmp_path, capsys):
    from vidrl.cli import main

    cv2 = pytest.importorskip("cv2")
    writer = cv2.VideoWriter("clip.mp4", cv2.VideoWriter_fourcc(*"mp4v"), 8, (32, 32))
    for _ in range(6):
        writer.write(np.full((32, 32, 3), 128, np.uint8))
    writer.release()
    assert main(["score", "clip.mp4", "--reward", f"{mine}:light", "--jobs", "0"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert (
        row["value"][f"{mine}:light"] == pytest.approx(0.5, abs=0.02)
        and row["curve"][f"{mine}:light"] is None
    )
    assert main(["show", "rewards", f"{mine}:light"]) == 0
    assert "Mean light." in capsys.readouterr().out
