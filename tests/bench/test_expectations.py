"""Each demand of a prompt is met by a clip drawn to meet it, missed by one drawn against
it, and else not scored."""

import math

import pytest
import torch

from vidrl.bench import suite
from vidrl.bench.breakdown import breakdown
from vidrl.bench.expectations import (
    CameraMove,
    Caption,
    Count,
    Heading,
    Length,
    Pace,
    Path,
    Rest,
    StillCamera,
)
from vidrl.rewards import Samples
from vidrl.synthetic import world

DIMS = {
    "heading": Heading,
    "path": Path,
    "rest": Rest,
    "camera": CameraMove,
    "still_camera": StillCamera,
    "pace": Pace,
}


def drawn(motion="left", speed="slow", camera="static", frames=17, size=64):
    scene = world.Scene("square", "blue", motion, speed, "speckled", camera)
    return world.render(scene, size, frames).video[None]


def value(reward, video, prompt, fps=8.0):
    return float(reward(Samples(video, [prompt], fps)).value)


@pytest.mark.parametrize(
    ("dim", "good", "bad", "prompt"),
    [
        ("heading", {"motion": "left"}, {"motion": "right"}, "a dog runs to the left"),
        ("heading", {"motion": "up"}, {"motion": "down"}, "a balloon rises"),
        ("path", {"motion": "bounce"}, {"motion": "left"}, "a ball bounces"),
        ("path", {"motion": "circle"}, {"motion": "rest"}, "a plane flies in a circle"),
        ("path", {"motion": "grow", "speed": "fast"}, {"motion": "rest"}, "a balloon inflates"),
        ("rest", {"motion": "rest"}, {"motion": "left", "speed": "fast"}, "a tortoise stays still"),
        (
            "camera",
            {"motion": "rest", "camera": "left"},
            {"motion": "rest", "camera": "right"},
            "the camera pans left",
        ),
        ("camera", {"motion": "rest", "camera": "up"}, {"motion": "rest"}, "the camera tilts up"),
        (
            "still_camera",
            {"motion": "left"},
            {"camera": "right"},
            "a car; the camera does not move",
        ),
        (
            "pace",
            {"motion": "right", "speed": "slow"},
            {"motion": "rest"},
            "a car drives slowly to the right",
        ),
    ],
)
def test_a_demand_is_met_or_not(dim, good, bad, prompt):
    reward = DIMS[dim]()
    met, missed = value(reward, drawn(**good), prompt), value(reward, drawn(**bad), prompt)
    assert met > 0.8 and missed < 0.35, (met, missed)


def test_slow_and_quick_tell_the_two_speeds_apart():
    slow, fast = (drawn("right", speed, size=32) for speed in ("slow", "fast"))
    quick = [value(Pace(), clip, "a car races to the right") for clip in (slow, fast)]
    assert quick[0] < quick[1]


@pytest.mark.parametrize("dim", DIMS)
def test_what_is_not_asked_is_not_scored(dim):
    score = DIMS[dim]()(Samples(drawn(), ["a bowl of fruit"], 8.0))
    assert math.isnan(float(score.value)) and score.why[0].startswith("inapplicable: the prompt")


def test_a_demand_is_judged_alone():
    """A clip that goes the right way at the wrong pace and under the wrong camera has the
    whole of its heading."""
    clip, prompt = (
        drawn("left", "slow", camera="right"),
        "a car races to the left while the camera tilts up",
    )
    assert value(Heading(), clip, prompt) > 0.8
    assert value(CameraMove(), clip, prompt) < 0.1


def many(number, size=96, frames=17):
    """So many discs of one row each that go to the right."""
    time, video = (
        torch.linspace(0, 1, frames),
        world.background(world.Scene("circle", "red", "right"), size, frames),
    )
    for k in range(number):
        centre = torch.stack([0.15 + 0.5 * time, torch.full((frames,), (k + 0.5) / number)], -1)
        mask = world.coverage("circle", centre, torch.full((frames,), 0.08), size)[:, None]
        video = video + mask * (torch.tensor([0.9, 0.2, 0.3]).view(1, 3, 1, 1) - video)
    return video[None]


@pytest.mark.parametrize(
    ("number", "word", "wanted"),
    [
        (1, "Two", 1 / 2),
        (2, "Two", 1),
        (3, "Two", 2 / 3),
        (3, "Three", 1),
        (2, "Dozens of", math.nan),
    ],
)
def test_things_that_move_are_counted(number, word, wanted):
    found = value(Count(), many(number), f"{word} discs glide to the right")
    assert found == pytest.approx(wanted, nan_ok=True)


def test_things_at_rest_are_not_counted():
    assert math.isnan(
        value(Count(), many(2)[:, :1].expand(-1, 9, -1, -1, -1), "Two discs glide to the right")
    )


def test_length_is_frames_over_rate():
    clip = torch.rand(1, 16, 3, 16, 16)
    assert value(Length(), clip, "A clip of two seconds.", fps=8.0) == 1
    assert value(Length(), clip, "A single take of eight seconds.", fps=8.0) == pytest.approx(2 / 8)
    assert math.isnan(value(Length(), clip, "a cat"))


def test_a_caption_counts_the_words_that_are_true():
    clip = world.render(world.Scene("cross", "blue", "left"))
    told = {
        "a blue cross moves left slowly on a dark background": 1,
        "a red cross moves left slowly on a dark background": 2 / 3,
        "a red square moves left slowly on a dark background": 1 / 3,
    }
    for prompt, share in told.items():
        assert value(Caption(), clip.video[None], prompt) == pytest.approx(share)
    assert math.isnan(value(Caption(), clip.video[None], "a cat"))
    assert math.isnan(value(Caption(), clip.video[None, ..., :24], clip.caption))


@pytest.mark.parametrize("reward", [Heading, Pace, Count, Length, Caption])
def test_pieces_give_the_numbers_of_the_whole(reward):
    clip = world.render(world.Scene("circle", "red", "right"), frames=25)
    for prompt in (clip.caption, "Two red circles move right slowly. A clip of four seconds."):
        stream = reward().stream(8.0, prompt)
        for piece in clip.video.split(7):
            stream.update(piece)
        assert float(stream.result().value) == pytest.approx(
            value(reward(), clip.video[None], prompt), nan_ok=True
        )


def test_dims_read_the_prompt_and_say_what_they_see():
    for dim in suite.load("motion").dims:
        if "expectations" in dim.reward:
            assert dim.reads("prompt")
            assert dim.range == (0.0, 1.0) and dim.about and dim.card.blind_to


def test_the_breakdown_is_of_the_scored_clips_of_each_value():
    clips = [
        {
            "prompt": str(i // 2),
            "meta": {"kind": ("left", "up")[i % 2], "count": 1},
            "value": {"heading": None if i == 0 else i / 10},
        }
        for i in range(14)
    ]
    found = breakdown(clips, ["heading", "path"])
    assert set(found) == {"kind", "count"} and set(found["count"]) == {"1"}
    left, up = found["kind"]["left"]["heading"], found["kind"]["up"]["heading"]
    assert (left["n"], up["n"]) == (6, 7) and "path" not in found["kind"]["left"]
    assert left["mean"] == pytest.approx(0.7) and up["mean"] == pytest.approx(0.7)
    assert up["low"] <= up["mean"] <= up["high"]
