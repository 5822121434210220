"""Segment credit of composites: it moves with a segment's own frames as the composite does,
whatever its shape.

Each case changes the frames of one segment in one part, makes the composite anew, and asks
that the segment's credit changed by what the composite changed by.
"""

import math

import pytest
import torch
from torch import Tensor

from vidrl.credit import advantages
from vidrl.credit.parts import segment_sums
from vidrl.rewards import Score
from vidrl.rewards.compose import Composite
from vidrl.rewards.frame_quality import FrameQuality
from vidrl.training.evaluate import join

SPANS = [(0, 1), (1, 5), (5, 9)]
ONE = torch.zeros(4, dtype=torch.long)  # one group of four clips
NAMES = ("frame", "pair", "prefix", "clip", "plain", "nested")


def curves(seed=0) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(4, 9, generator=draw, dtype=torch.float64)
        for name in (*NAMES[:5], "near", "far")
    }


def flat(curve: Tensor) -> Score:
    """A score that looks at the whole clip."""
    return Score(curve.mean(1), curve.mean(1, keepdim=True).expand_as(curve), "clip")


def made(given: dict[str, Tensor], **options) -> Score:
    """A composite of a part of each support, of one without a curve, and of a composite of
    two."""
    scores = {name: Score(given[name].mean(1), given[name], name) for name in NAMES[:4]}
    scores["plain"] = flat(given["plain"])
    inside = Composite(
        {"near": FrameQuality(), "far": FrameQuality()}, {"far": 2.0}, {"near": (0.1, 0.5)}
    )
    inside.time_support = "clip"
    parts = {"near": Score(given["near"].mean(1), given["near"]), "far": flat(given["far"])}
    scores["nested"] = inside.combine(parts)
    weights = {"frame": 1.5, "pair": -0.5, "prefix": 2.0, "clip": 1.0, "plain": 0.7, "nested": 0.8}
    scales = {name: (0.1 * k, 0.5 + 0.2 * k) for k, name in enumerate(NAMES)}
    outer = Composite({name: FrameQuality() for name in NAMES}, weights, scales, **options)
    score = outer.combine(scores)
    score.parts["plain"] = Score(score.parts["plain"].value)  # without a curve
    return score


def changed(given: dict[str, Tensor], part: str, segment: int, by: float) -> dict[str, Tensor]:
    curve = given[part].clone()
    curve[0, slice(*SPANS[segment])] += by
    return given | {part: curve}


def value_of(given: dict[str, Tensor], part: str) -> float:
    """The first clip's value of a part, by which bands and gates are laid around it."""
    return float(made(given).parts[part].value[0])


CASES = {
    "linear": lambda v: {},
    "bands, inside": lambda v: {"bands": {name: (v[name] - 1, v[name] + 1) for name in NAMES}},
    "bands, below": lambda v: {"bands": {name: (v[name] + 0.3, v[name] + 1) for name in NAMES}},
    "bands, above": lambda v: {"bands": {name: (v[name] - 1, v[name] - 0.2) for name in NAMES}},
    "bands, each otherwise": lambda v: {
        "bands": {
            "frame": (v["frame"] + 4, v["frame"] + 5),
            "clip": (v["clip"] - 9, v["clip"] - 7),
            "pair": (-9.0, 9.0),
        }
    },
    "a gate, half open": lambda v: {"gates": {"clip": 2 * v["clip"]}},
    "a local gate, half open": lambda v: {"gates": {"frame": 2 * v["frame"]}},
    "a gate, open": lambda v: {"gates": {"prefix": 0.5 * v["prefix"]}},
    "two gates and a band": lambda v: {
        "gates": {"frame": 3 * v["frame"], "prefix": 1.5 * v["prefix"]},
        "bands": {"nested": (v["nested"] + 1, v["nested"] + 2)},
    },
    "a floor": lambda v: {"gates": {"clip": 1.3 * v["clip"]}, "floor": -30.0},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("part", [*NAMES[:5], "near", "far"])
def test_credit_moves_with_a_segments_frames_as_the_composite_does(part, case):
    given = {name: curve + 2 for name, curve in curves().items()}  # so that gates are above 0
    options = CASES[case]({name: value_of(given, name) for name in NAMES})
    before = made(given, **options)
    for segment in range(3):
        after = made(changed(given, part, segment, 1e-3), **options)
        moved = float((after.value - before.value)[0])
        credited = (segment_sums(after, SPANS) - segment_sums(before, SPANS))[0]
        assert float(credited[segment]) == pytest.approx(moved, abs=1e-9, rel=1e-6)
        if part in ("frame", "pair", "near") and "gates" not in options:  # of its own frames alone
            others = [k for k in range(3) if k != segment]
            inside = part == "near" and case.startswith("bands, ") and "each" not in case
            assert inside or float(credited[others].abs().max()) < 1e-9


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("part", ["prefix", "clip", "plain"])
@pytest.mark.parametrize("by", [-8.0, -2.0, 2.0, 8.0])
def test_it_does_so_over_the_edges_of_bands_and_gates_too(by, part, case):
    """Of parts that look at the whole clip: where a clip falls out of a band, each segment
    loses what the clip does."""
    given = {name: curve + 2 for name, curve in curves().items()}
    options = CASES[case]({name: value_of(given, name) for name in NAMES})
    before, after = made(given, **options), made(changed(given, part, 1, by), **options)
    credited = (segment_sums(after, SPANS) - segment_sums(before, SPANS))[0]
    assert torch.allclose(credited, (after.value - before.value)[0].expand(3), atol=1e-9)


def test_a_clip_out_of_the_band_is_worse_by_what_it_is_out():
    """By hand, five segments: value 4 in the band against 3.9 just below it, of a part that
    looks at the whole clip."""
    value = torch.tensor([4.0, 3.9])
    spans = [(i, i + 1) for i in range(5)]
    for support in ("prefix", "clip"):
        part = Score(value, value[:, None].expand(-1, 5), support)
        score = Composite({"a": FrameQuality()}, bands={"a": (4.0, 9.0)}).combine({"a": part})
        assert torch.allclose(
            segment_sums(score, spans), torch.tensor([[0.0], [-0.1]]).expand(-1, 5), atol=1e-6
        )
        got = advantages(score, torch.zeros(2, dtype=torch.long), spans, scale="none")
        assert torch.allclose(got, torch.tensor([[0.1], [-0.1]]).expand(-1, 5), atol=1e-6)
    near = Score(value, value[:, None].expand(-1, 5))
    score = Composite({"a": FrameQuality()}, bands={"a": (4.0, 9.0)}).combine({"a": near})
    assert torch.allclose(
        segment_sums(score, spans), torch.tensor([[0.0], [-0.02]]).expand(-1, 5), atol=1e-6
    )


def test_a_gate_takes_off_every_segment_what_it_takes_off_the_clip():
    """By hand, floor −10, gate 1: (2 + 10) · 1 − 10 = 2 open, (2 + 10) · 0.5 − 10 = −4 half
    open; the gate weighs 0."""
    main = Score(torch.tensor([2.0, 2.0]), torch.tensor([[1.0, 3.0], [1.0, 3.0]]))
    gate = flat(torch.tensor([[1.0, 1.0], [0.5, 0.5]]))
    both = {"main": FrameQuality(), "gate": FrameQuality()}
    score = Composite(both, {"gate": 0.0}, gates={"gate": 1.0}).combine(
        {"main": main, "gate": gate}
    )
    assert score.value.tolist() == [2.0, -4.0]
    assert segment_sums(score, [(0, 1), (1, 2)]).tolist() == [[0.5, 1.5], [0.5 - 6, 1.5 - 6]]


@pytest.mark.parametrize("case", CASES)
def test_one_segment_is_whole_clip_credit(case):
    given = {name: curve + 2 for name, curve in curves().items()}
    score = made(given, **CASES[case]({name: value_of(given, name) for name in NAMES}))
    assert torch.allclose(segment_sums(score, [(0, 9)])[:, 0], score.value, atol=1e-9)
    one, whole = (
        advantages(score, ONE, [(0, 9)], estimator, scale="batch")
        for estimator in ("segment", "whole")
    )
    assert torch.equal(one, whole)


@pytest.mark.parametrize(
    "bands", [{}, {"frame": (0.0, 0.1)}, {"frame": (0.0, 0.1), "pair": (-0.2, 0.3)}]
)
def test_the_segments_of_parts_that_look_at_their_own_place_sum_to_the_value(bands):
    given = curves()
    parts = {name: Score(given[name].mean(1), given[name], name) for name in ("frame", "pair")}
    both = Composite(
        {name: FrameQuality() for name in parts}, {"pair": 2.0}, {"pair": (0.3, 0.5)}, bands
    )
    score = both.combine(parts)
    assert torch.allclose(segment_sums(score, SPANS).sum(1), score.value, atol=1e-9)


def test_an_unscored_part_takes_its_clip_out_and_one_that_may_be_left_out_does_not():
    given = curves()
    parts = {name: Score(given[name].mean(1), given[name], name) for name in ("frame", "clip")}
    parts["clip"].value[1], parts["clip"].frames[1] = math.nan, math.nan
    parts["clip"].why = [None, "inapplicable: nothing to see", None, None]
    names = {name: FrameQuality() for name in parts}
    lost = Composite(names, bands={"clip": (0.5, 0.6)}).combine(parts)
    kept = Composite(names, {"clip": 3.0}, bands={"clip": (0.5, 0.6)}, optional=["clip"]).combine(
        parts
    )
    assert bool(segment_sums(lost, SPANS)[1].isnan().all()) and bool(
        segment_sums(lost, SPANS)[0].isfinite().all()
    )
    own = torch.stack([given["frame"][1, a:b].sum() / 9 for a, b in SPANS])
    # the weight of the part left out goes to the other
    assert torch.allclose(segment_sums(kept, SPANS)[1], 4 * own)
    assert (
        float(advantages(lost, ONE, SPANS)[1].abs().max())
        == 0
        < float(advantages(kept, ONE, SPANS)[1].abs().max())
    )


@pytest.mark.parametrize("estimator", ["influence", "gls", "posterior"])
def test_credit_by_influence_knows_the_edge_of_a_band_and_gates(estimator):
    """A clip in the band is credited against those below it; a gate's loss stands in every
    segment and step."""
    draw = torch.Generator().manual_seed(0)
    value = torch.tensor([1.0, 0.5, 0.4, 0.2]).repeat(4)
    curve = value[:, None] + 0.1 * torch.randn(16, 9, generator=draw)
    part = Score(curve.mean(1), curve)
    moments = {"a": torch.eye(9).repeat(2, 3, 1, 1), "composite": torch.eye(9).repeat(2, 3, 1, 1)}
    group = torch.arange(16) // 4
    score = Composite({"a": FrameQuality()}, bands={"a": (0.8, 2.0)}).combine({"a": part})
    got = advantages(score, group, SPANS, estimator, scale="batch", moments=moments)
    assert got.shape == (16, 2, 3) and bool((got[::4] > 0).all()) and bool((got[3::4] < 0).all())
    assert torch.corrcoef(torch.stack([got.mean((1, 2)), score.value]))[0, 1] > 0.99
    gated = Composite({"a": FrameQuality()}, gates={"a": 1.0}).combine({"a": part})
    got = advantages(gated, group, SPANS, estimator, scale="batch", moments=moments)
    assert torch.corrcoef(torch.stack([got.mean((1, 2)), gated.value]))[0, 1] > 0.99


def test_per_part_of_a_composite_with_a_gate_is_refused():
    given = {name: curve + 2 for name, curve in curves().items()}
    score = made(given, gates={"clip": 2 * value_of(given, "clip")})
    with pytest.raises(ValueError, match="per_part of a composite without gates"):
        advantages(score, ONE, SPANS, per_part=True)


def test_what_parts_add_survives_batches_and_the_wire():
    from vidrl.rewards._serving.wire import pack_score, unpack_score
    from vidrl.rewards.http_scorer import join_scores, to_device

    given = {name: curve.float() for name, curve in curves().items()}
    score = made(given, bands={"clip": (0.5, 0.6)})
    for other in (
        join([score, score]),
        join_scores([score, score], [(4, 9), (4, 9)]),
        to_device(score, torch.device("cpu")),
        unpack_score(pack_score(score)),
    ):
        assert torch.allclose(segment_sums(other, SPANS)[:4], segment_sums(score, SPANS), atol=1e-6)
        assert set(other.adds) == set(score.adds) and set(other.parts["nested"].adds) == {
            "near",
            "far",
        }


def of_two_clips(
    inside: Composite, parts: dict[str, Score], band: tuple[float, float]
) -> tuple[Score, Tensor]:
    """A composite within a composite that lays a band around it; five segments of one
    frame."""
    score = Composite({"in": inside}, bands={"in": band}).combine({"in": inside.combine(parts)})
    return score, segment_sums(score, [(i, i + 1) for i in range(5)])


def test_a_band_around_a_composite_of_near_and_far_parts_charges_what_the_clip_is_out():
    """By hand: 10.1 at the band's edge against 10 below it, all from a part that looks at
    its own frames.

    Of what is lost, −0.1, a segment's own frames are seen to make a fifth of the half that
    is away from the mean.
    """
    near = torch.tensor([10.1, 10.0])[:, None].expand(-1, 5)
    both = Composite({"near": FrameQuality(), "far": FrameQuality()})
    parts = {"near": Score(near.mean(1), near), "far": flat(torch.zeros(2, 5))}
    score, got = of_two_clips(both, parts, (10.1, 99.0))
    assert torch.allclose(score.value, torch.tensor([0.0, -0.1]), atol=1e-5)
    assert torch.allclose(got, torch.tensor([[0.0], [-0.06]]).expand(-1, 5), atol=1e-5)


def test_a_band_around_a_gated_composite_charges_what_the_clip_is_out():
    """By hand, floor −10 and gate 4: 2.02 gives (12.02) · 0.505 − 10 = −3.9299 within the
    band, 2 gives −4 below it."""
    near = torch.tensor([2.02, 2.0])[:, None].expand(-1, 5)
    gated = Composite({"near": FrameQuality()}, gates={"near": 4.0})
    score, got = of_two_clips(gated, {"near": Score(near.mean(1), near)}, (-3.94, 99.0))
    assert torch.allclose(score.value, torch.tensor([0.0, -0.06]), atol=1e-5)
    assert bool((got[0] == 0).all()) and bool((got[1] < 0).all()) and float(got.abs().max()) <= 0.06
