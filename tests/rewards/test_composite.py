"""A Composite adds its parts, and handles clips that a part cannot score."""

import math
import subprocess
import sys
import weakref

import pytest
import torch

from vidrl.rewards import Composite, Reward, Samples, Score, default

VIDEO = torch.rand(3, 4, 3, 8, 8)


class Fixed(Reward):
    """A reward whose values are given."""

    differentiable = True

    def __init__(
        self, *values: float, why: tuple[str | None, ...] = (), support: str = "frame"
    ) -> None:
        super().__init__()
        self.values, self.why, self.time_support = torch.tensor(values), why, support

    def forward(self, samples: Samples) -> Score:
        curve = self.values[:, None] + torch.tensor([-1.0, 1.0, 0.0, 0.0])
        return Score(self.values.clone(), curve, self.time_support, why=self.why)


def value(composite: Composite) -> list[float]:
    return composite(Samples(VIDEO, [""] * 3, 8.0)).value.tolist()


def test_weights_and_scales_add_up():
    parts = {"a": Fixed(1.0, 2.0, 3.0), "b": Fixed(10.0, 0.0, 5.0)}
    whole = Composite(parts, weights={"a": 2.0}, scales={"b": (5.0, 10.0)})
    score = whole(Samples(VIDEO, [""] * 3, 8.0))
    assert score.value.tolist() == pytest.approx([2.5, 3.5, 6.0])
    assert score.frames[0].tolist() == pytest.approx([0.4, 4.6, 2.5, 2.5])
    torch.testing.assert_close(score.frames.mean(1), score.value)
    assert score.weights == {"a": 2.0, "b": 1.0} and score.parts["a"].value.tolist() == [1, 2, 3]


def test_bands_take_off_on_both_sides():
    whole = Composite(
        {"a": Fixed(0.0, 1.5, 4.0)}, scales={"a": (7.0, 2.0)}, bands={"a": (1.0, 2.0)}
    )
    assert value(whole) == [-0.5, 0.0, -1.0]


def test_a_gate_shuts_out_what_the_others_earn():
    parts = {"moves": Fixed(0.0, 0.25, 1.0), "rest": Fixed(100.0, 100.0, 100.0)}
    whole = Composite(parts, weights={"moves": 0.0}, gates={"moves": 0.5}, floor=0.0)
    assert value(whole) == [0.0, 50.0, 100.0]


def test_batch_normalisation_makes_parts_spread_alike():
    parts = {"a": Fixed(1.0, 2.0, 3.0), "b": Fixed(300.0, 200.0, 100.0)}
    assert value(Composite(parts, normalise="batch")) == pytest.approx([0, 0, 0], abs=1e-6)
    assert value(Composite({"a": parts["a"]}, normalise="batch")) == pytest.approx([-1, 0, 1])


def test_a_part_that_is_not_scored_leaves_the_whole_unscored():
    broken = Fixed(1.0, math.nan, 2.0, why=(None, "unscored: NaN in frame 2", None))
    score = Composite({"a": Fixed(1.0, 1.0, 1.0), "b": broken})(Samples(VIDEO, [""] * 3, 8.0))
    assert score.value.isnan().tolist() == [False, True, False] and score.frames[1].isnan().all()
    assert score.why == [None, "unscored: b: NaN in frame 2", None]


@pytest.mark.parametrize(
    ("why", "optional", "expected"),
    [
        ("inapplicable: one frame", ("b",), 4.0),  # b's weight goes to a
        ("inapplicable: one frame", (), math.nan),
        ("unscored: NaN", ("b",), math.nan),  # broken is not inapplicable
    ],
)
def test_only_inapplicable_parts_that_may_be_left_out_are(why, optional, expected):
    parts = {"a": Fixed(1.0, 1.0, 1.0), "b": Fixed(math.nan, 1.0, 1.0, why=(why, None, None))}
    whole = Composite(parts, weights={"b": 3.0}, optional=optional)
    assert value(whole) == pytest.approx([expected, 4.0, 4.0], nan_ok=True)


def test_nothing_left_is_unscored():
    whole = Composite(
        {"a": Fixed(math.nan, 1.0, 1.0, why=("inapplicable: x", None, None))}, optional=("a",)
    )
    score = whole(Samples(VIDEO, [""] * 3, 8.0))
    assert (
        score.value.isnan().tolist() == [True, False, False]
        and score.why[0] == "inapplicable: a: x"
    )


def test_gradients_pass_around_what_is_unscored():
    class Mean(Reward):
        differentiable = True

        def terms(self, samples):
            return samples.frames.mean((2, 3, 4))

    video = torch.rand(2, 3, 3, 8, 8)
    video[0, 0] = math.nan
    video.requires_grad_()
    score = Composite({"mean": Mean()})(Samples(video, ["", ""], 8.0))
    score.value.nansum().backward()
    assert (
        torch.isfinite(video.grad).all()
        and video.grad[1].abs().sum() > 0
        and video.grad[0].abs().sum() == 0
    )


@pytest.mark.parametrize("what", ["weights", "scales", "bands", "gates", "optional"])
def test_a_name_that_is_no_part_is_refused(what):
    given = (
        ("flikker",)
        if what == "optional"
        else {"flikker": (1.0, 2.0) if what in ("scales", "bands") else 1.0}
    )
    with pytest.raises(ValueError, match=f"{what} name 'flikker'.*the parts are a"):
        Composite({"a": Fixed(1.0, 1.0, 1.0)}, **{what: given})


def test_no_parts_and_strange_normalisation_are_refused():
    with pytest.raises(ValueError, match="at least one part"):
        Composite({})
    with pytest.raises(ValueError, match="fixed"):
        Composite({"a": Fixed(1.0)}, normalise="group")


def test_the_support_is_the_widest_and_facts_are_the_parts():
    whole = Composite({"a": Fixed(1.0, support="pair"), "b": Fixed(1.0, support="prefix")})
    assert whole.time_support == "prefix" and whole.differentiable
    assert (
        not default().differentiable
        and default().needs == ("cv2",)
        and default().time_support == "prefix"
    )


IMAGES = Samples(
    torch.rand(3, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0)), ["a circle"] * 3, 8.0
)
LEFT = "inapplicable to an image: needs a clip of at least 3 frames, got 1"


def test_of_an_image_the_default_is_its_parts_that_score_one_frame():
    from vidrl.rewards._scoring.left_out import left_out
    from vidrl.rewards.frame_quality import FrameQuality

    score = default()(IMAGES)
    alone = Composite(
        {"frame_quality": FrameQuality(log=True)},
        {"frame_quality": 1.8},
        {"frame_quality": (-1.0, 0.4)},
    )
    assert torch.equal(score.value, alone(IMAGES).value) and score.why == [None] * 3
    assert set(left_out(score)) == set(score.parts) - {"frame_quality"}
    assert all(score.parts[name].value.isnan().all() for name in left_out(score))
    assert (
        default().needed == 1
        and default()(Samples(torch.rand(1, 2, 3, 32, 32), [""], 8.0)).value.isnan().all()
    )


def test_parts_left_out_of_images_give_their_weight_to_nobody():
    class Still(Fixed):
        def forward(self, samples):
            return Score(self.values.clone(), None, "clip", why=self.why)

    flicker = Still(math.nan, math.nan, math.nan, why=(LEFT,) * 3)
    words = Still(5.0, math.nan, 5.0, why=(None, "inapplicable: no prompt", None))
    parts = {"a": Still(1.0, 2.0, 3.0), "words": words, "flicker": flicker}
    score = Composite(parts, {"a": 2.0, "words": 1.0, "flicker": 4.0}, optional=("words",))(IMAGES)
    # of the second, 2 * 2 * (2 + 1) / 2: only `words` is given back
    assert score.value.tolist() == [7.0, 6.0, 11.0]
    assert score.slopes["flicker"].tolist() == [0.0] * 3
    broken = Still(math.nan, 1.0, 1.0, why=("unscored: NaN in frame 0", None, None))
    score = Composite({"a": broken, "flicker": flicker})(IMAGES)
    assert (
        score.value.isnan().tolist() == [True, False, False]
        and score.why[0] == "unscored: a: NaN in frame 0"
    )


def test_an_image_of_which_no_part_is_left_has_no_value():
    from vidrl.rewards.flicker import Flicker
    from vidrl.rewards.frame_quality import FrameQuality
    from vidrl.rewards.jerk import Jerk

    whole = Composite({"jerk": Jerk(), "flicker": Flicker()})
    assert whole.needed == 4 and whole(IMAGES).value.isnan().all()
    assert whole(IMAGES).why[0] == (
        "inapplicable to an image: all parts that count need more than one frame: jerk, flicker"
    )
    watched = Composite({"jerk": Jerk(), "frame_quality": FrameQuality()}, {"frame_quality": 0.0})
    assert watched(IMAGES).value.isnan().all() and watched(IMAGES).why[0].startswith(
        "inapplicable to an image: jerk"
    )
    outer = Composite({"inner": whole, "frame_quality": FrameQuality()})
    assert torch.equal(outer(IMAGES).value, FrameQuality()(IMAGES).value)


def test_a_stream_of_one_frame_is_an_image():
    stream = default().stream(8.0)
    stream.update(IMAGES.video[0])
    torch.testing.assert_close(stream.result().value, default()(IMAGES).value[:1])


def test_maps_of_the_parts_are_handed_on():
    draw = torch.Generator().manual_seed(0)
    score = default()(Samples(torch.rand(1, 6, 3, 32, 32, generator=draw), [""], 8.0), maps=True)
    assert score.maps["freeze/change"].shape[:2] == (1, 6)


# --- parts without curve


class Flat(Fixed):
    """One number a clip and no curve, which Score.frames allows."""

    def forward(self, samples: Samples) -> Score:
        return Score(self.values[: len(samples)].clone(), why=self.why[: len(samples)])


SAMPLES = Samples(VIDEO, [""] * 3, 8.0)
GAVE = "unscored: Flat returned NaN or infinity"


def test_a_part_without_curve_adds_its_value_to_every_frame():
    whole = Composite(
        {"a": Fixed(1.0, 2.0, 3.0), "flat": Flat(10.0, 20.0, 30.0)}, {"a": 2.0, "flat": 0.1}
    )
    score = whole(SAMPLES)
    assert score.value.tolist() == pytest.approx([3.0, 6.0, 9.0])
    # 2 (1 - 1, 1 + 1, 1, 1) + 0.1 * 10
    assert score.frames[0].tolist() == pytest.approx([1.0, 5.0, 3.0, 3.0])
    torch.testing.assert_close(score.frames.mean(1), score.value)
    assert score.support == "clip" and score.parts["flat"].frames is None
    assert score.slopes["flat"].tolist() == pytest.approx([0.1] * 3) and score.why == [None] * 3


@pytest.mark.parametrize("order", [("a", "flat"), ("flat", "a")])
@pytest.mark.parametrize("lost", [(), (1,), (0, 1, 2)])
@pytest.mark.parametrize("rows", [[0, 1, 2], [1], [0, 2]])
def test_a_part_without_curve_may_be_unscored(order, lost, rows):
    values = [math.nan if i in lost else 1.0 for i in range(3)]
    reasons = tuple("unscored: no weights" if i in lost else None for i in range(3))
    flat = Flat(*[values[i] for i in rows], why=tuple(reasons[i] for i in rows))
    made = {"a": Fixed(*[5.0] * len(rows)), "flat": flat}
    score = Composite({name: made[name] for name in order})(SAMPLES.pick(rows))
    gone = [i in lost for i in rows]
    assert score.value.isnan().tolist() == gone and score.frames.isnan().all(1).tolist() == gone
    assert score.why == ["unscored: flat: no weights" if one else None for one in gone]
    assert score.value.nan_to_num(6.0).tolist() == [6.0] * len(rows)


def test_nan_without_a_reason_gets_one():
    score = Composite({"a": Fixed(1.0, 1.0, 1.0), "flat": Flat(1.0, math.nan, 1.0)})(SAMPLES)
    assert score.why == [None, "unscored: flat: Flat returned NaN or infinity", None]
    spoken = Flat(math.nan, 1.0, 1.0, why=("no weights", None, None))
    assert Composite({"flat": spoken})(SAMPLES).why[0] == "unscored: flat: no weights"


def test_of_parts_without_curves_alone_there_is_no_curve():
    score = Composite({"a": Flat(1.0, 2.0, 3.0), "b": Flat(3.0, 2.0, 1.0)})(SAMPLES)
    assert score.frames is None and score.value.tolist() == [4, 4, 4] and score.support == "clip"


def test_bands_gates_and_optional_parts_without_curve():
    a = Fixed(1.0, 1.0, 1.0)
    banded = Composite(
        {"a": a, "flat": Flat(0.0, 1.5, 4.0)},
        scales={"flat": (0.0, 2.0)},
        bands={"flat": (1.0, 2.0)},
    )
    score = banded(SAMPLES)
    assert score.value.tolist() == [0.5, 1.0, 0.0]
    assert score.frames[2].tolist() == [-1.0, 1.0, 0.0, 0.0] and score.slopes["flat"].tolist() == [
        0.5,
        0.0,
        -0.5,
    ]
    gated = Composite(
        {"a": a, "flat": Flat(0.0, 0.25, 1.0)}, {"flat": 0.0}, gates={"flat": 0.5}, floor=0.0
    )
    score = gated(SAMPLES)
    assert score.value.tolist() == [0.0, 0.5, 1.0] and score.frames[1].tolist() == [
        0.0,
        1.0,
        0.5,
        0.5,
    ]
    left = Flat(math.nan, 1.0, 1.0, why=("inapplicable: too short", None, None))
    score = Composite({"a": a, "flat": left}, optional=("flat",))(SAMPLES)
    assert score.value.tolist() == [2.0, 2.0, 2.0] and score.frames[0].tolist() == [
        0.0,
        4.0,
        2.0,
        2.0,
    ]
    batch = Composite(
        {"a": Fixed(1.0, 2.0, 3.0), "flat": Flat(300.0, 200.0, 100.0)}, normalise="batch"
    )(SAMPLES)
    assert batch.value.tolist() == pytest.approx([0, 0, 0], abs=1e-6)


def test_composites_of_composites_without_curves():
    flat = Composite({"x": Flat(1.0, 2.0, 3.0), "y": Flat(1.0, 1.0, 1.0)})
    mixed = Composite({"a": Fixed(0.0, 0.0, 0.0), "flat": flat})
    score = Composite({"mixed": mixed, "a": Fixed(1.0, 1.0, 1.0)}, {"mixed": 2.0})(SAMPLES)
    assert score.value.tolist() == [5.0, 7.0, 9.0] and score.frames[0].tolist() == [
        2.0,
        8.0,
        5.0,
        5.0,
    ]
    assert score.parts["mixed"].parts["flat"].frames is None


@pytest.mark.parametrize("per_part", [False, True])
def test_credit_of_a_part_without_curve_goes_to_every_segment(per_part):
    from vidrl.credit import advantages

    whole = Composite({"a": Flat(0.0, 1.0, 2.0), "flat": Flat(0.0, 10.0, 2.0)}, {"flat": 0.1})
    with_curve = Composite({"a": Fixed(0.0, 1.0, 2.0), "flat": Flat(0.0, 10.0, 2.0)}, {"flat": 0.1})
    group, spans = torch.zeros(3, dtype=torch.long), [(0, 2), (2, 4)]
    for made in (whole, with_curve):
        with pytest.warns(UserWarning, match="flat has no curve"):
            credit = advantages(made(SAMPLES), group, spans, per_part=per_part)
        assert credit.shape == (3, 2) and torch.isfinite(credit).all()
        torch.testing.assert_close(credit.sum(0), torch.zeros(2), atol=1e-5, rtol=0)


def test_curves_of_different_lengths_are_refused():
    scores = {
        "a": Score(torch.zeros(1), torch.zeros(1, 4)),
        "b": Score(torch.zeros(1), torch.zeros(1, 3)),
    }
    with pytest.raises(
        ValueError, match="as many numbers as the clip has frames, got a of 4, b of 3"
    ):
        Composite({"a": Fixed(0.0), "b": Fixed(0.0)}).combine(scores)


def test_composites_of_composites_are_scored_in_pieces():
    from vidrl.rewards.flicker import Flicker
    from vidrl.rewards.frame_quality import FrameQuality

    inner = Composite({"flicker": Flicker(), "frame_quality": FrameQuality()}, {"flicker": 2.0})
    whole = Composite({"inner": inner, "flicker": Flicker()})
    video = torch.rand(1, 9, 3, 32, 32)
    stream = whole.stream(8.0)
    for piece in video[0].split(4):
        stream.update(piece)
    torch.testing.assert_close(
        stream.result().value, whole(Samples(video, [""], 8.0)).value, rtol=1e-4, atol=1e-5
    )
    assert whole.streams and not Composite({"inner": inner, "flat": Flat(1.0)}).streams
    with pytest.raises(
        NotImplementedError, match="flat cannot score a clip in pieces: pass it whole"
    ):
        Composite({"inner": inner, "flat": Flat(1.0)}).stream(8.0)


def test_part_names_may_hold_dots():
    whole = Composite({"package.module:Mine": Fixed(1.0, 2.0, 3.0)}, {"package.module:Mine": 2.0})
    assert value(whole) == [2.0, 4.0, 6.0]
    layer = Fixed(1.0, 1.0, 1.0)
    layer.register_buffer("held", torch.zeros(1))
    assert Composite({"a.b": layer}).double().parts["a.b"].held.dtype == torch.float64


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"scales": {"a": (0.0, 0.0)}}, r"scales\['a'\].*above 0, got \(0.0, 0.0\)"),
        ({"scales": {"a": (0.0, -1.0)}}, "above 0"),
        ({"bands": {"a": (2.0, 1.0)}}, r"bands\['a'\].*low below high, got \(2.0, 1.0\)"),
        ({"gates": {"a": 0.0}}, r"gates\['a'\] to be above 0"),
    ],
)
def test_values_that_make_no_sense_are_refused(given, words):
    with pytest.raises(ValueError, match=words):
        Composite({"a": Fixed(1.0)}, **given)


def test_the_default_has_no_gradient_as_it_says():
    video = torch.rand(1, 9, 3, 32, 32, requires_grad=True)
    score = default()(Samples(video, [""], 8.0))
    assert (
        not default().differentiable
        and not score.value.requires_grad
        and not score.frames.requires_grad
    )
    assert not any(part.value.requires_grad for part in score.parts.values())


# --- a few clips at a time


class Watched(Reward):
    """A reward that records how many clips it gets at a time, and whether earlier ones are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []
        self.last = lambda: None

    def terms(self, samples: Samples) -> torch.Tensor:
        assert self.last() is None, "the clips before are still there"
        self.last = weakref.ref(samples)
        self.seen.append(len(samples))
        return samples.frames.mean((2, 3, 4))


class Whole(Watched):
    """Compares the clips of a batch with each other, as only one that sees them all can."""

    def forward(self, samples: Samples) -> Score:
        self.seen.append(len(samples))
        light = samples.frames.mean((1, 2, 3, 4))
        return Score(light - light.mean())

    @property
    def streams(self) -> bool:
        return False


@pytest.mark.parametrize(
    ("piece", "seen"), [(1, [1, 1, 1, 1, 1]), (2 * 4 * 3 * 8 * 8, [2, 2, 1]), (1 << 40, [5])]
)
def test_parts_that_see_one_clip_at_a_time_get_a_few(monkeypatch, piece, seen):
    monkeypatch.setattr("vidrl.rewards.compose.PIECE", piece)
    video = torch.rand(5, 4, 3, 8, 8)
    apart, whole = Watched(), Whole()
    inner = Composite({"apart": apart}, normalise="batch")
    score = Composite({"inner": inner, "whole": whole})(Samples(video, [""] * 5, 8.0))
    light = video.mean((1, 2, 3, 4))
    torch.testing.assert_close(
        score.value, (light - light.mean()) / light.std() + light - light.mean()
    )
    assert apart.seen == seen and whole.seen == [5]


def test_a_few_clips_at_a_time_give_the_numbers_of_all_at_once(monkeypatch):
    video = torch.stack([world_clip(i) for i in range(3)])
    video[1, 5, 0, 0, 0] = math.nan
    found = []
    for piece in (1, 1 << 40):
        monkeypatch.setattr("vidrl.rewards.compose.PIECE", piece)
        found.append(default()(Samples(video, [""] * 3, 16.0)))
    few, all_ = found
    assert few.why == all_.why and few.why[1] and not few.why[0]
    for one, other in [(few, all_), *((few.parts[name], all_.parts[name]) for name in few.parts)]:
        assert torch.equal(one.value.nan_to_num(7), other.value.nan_to_num(7))
        assert torch.equal(one.frames.nan_to_num(7), other.frames.nan_to_num(7))


def world_clip(seed: int) -> torch.Tensor:
    from vidrl.synthetic import world

    return world.render(
        world.Scene("circle", "red", "left", "slow", "speckled"), 48, 13, seed=seed
    ).video


@pytest.mark.slow
def test_a_batch_costs_no_more_memory_than_its_clips():
    """Eight clips 17 x 256 x 256 are scored two at a time, with 154 MB more.

    Scored all at once they took 838 MB more.
    """
    code = """
import resource, torch
from vidrl.rewards import Samples, default
made = default()
video = torch.rand(8, 17, 3, 256, 256)
made(Samples(video[:1], [""], 16.0))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
made(Samples(video, [""] * 8, 16.0))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    grown = int(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
    )
    assert grown < 400_000, f"{grown} kB beyond one clip"
