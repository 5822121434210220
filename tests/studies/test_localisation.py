"""The localisation study's statistics on curves made by hand, its faults on clips, and a
run of seconds."""

import doctest
import importlib.util
import json
import math
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from vidrl.rewards import Score
from vidrl.rewards.compose import Composite
from vidrl.rewards.frame_quality import FrameQuality
from vidrl.synthetic.corruptions import corrupt

FILE = Path(__file__).parents[2] / "benchmarks/studies/localisation.py"


@pytest.fixture(scope="module")
def study():
    spec = importlib.util.spec_from_file_location("localisation", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def clip(study):
    return study.world_clip(study.scenes(2, 0)[1], 32, 0)


def cell(clean, faulty, span, nulls=(), source="world 32", fault="blur", unit="world 0"):
    case = {
        "source": source,
        "fault": fault,
        "span": list(span),
        "changed": 1.0,
        "curves": {"r": faulty},
    }
    frames = [0, 1], [1, 5], [5, 9]
    return {
        "source": source,
        "unit": unit,
        "frames": 9,
        "frame_map": frames,
        "clean": {"r": clean},
        "nulls": [{"r": null} for null in nulls],
        "cases": [case],
    }


def test_examples(study):
    found = doctest.testmod(study)
    assert found.failed == 0 and found.attempted >= 10


# --- one curve


def test_roc_area_counts_pairs(study):
    # positives 3 and 1 against 2, 0, 1: won 3 + 1, one tie of six pairs
    score, faulty = np.array([3.0, 2.0, 1.0, 0.0, 1.0]), np.array([1, 0, 1, 0, 0], bool)
    assert study.roc_area(score, faulty) == pytest.approx((3 + 1 + 0.5) / 6)


def test_roc_area_is_that_of_the_rank_sum(study):
    draw = np.random.default_rng(0)
    for _ in range(20):
        score, faulty = draw.integers(5, size=17).astype(float), draw.random(17) < 0.3
        if faulty.any() and not faulty.all():
            order = score.argsort()
            ranks = np.array([np.flatnonzero(score[order] == x).mean() + 1 for x in score])
            n, m = faulty.sum(), (~faulty).sum()
            expected = (ranks[faulty].sum() - n * (n + 1) / 2) / (n * m)
            assert study.roc_area(score, faulty) == pytest.approx(expected)


def test_roc_area_of_nothing_is_nan(study):
    assert math.isnan(study.roc_area(np.ones(3), np.zeros(3, bool)))
    assert math.isnan(study.roc_area(np.array([1.0, np.nan]), np.array([True, False])))


def test_shares_say_where_the_drop_is(study):
    fall = np.array([1.0, 2.0, 3.0, 4.0, -5.0, 10.0])
    found = study.mass_fractions(fall, (2, 4))
    assert found == pytest.approx(
        {"earlier": 0.05, "before": 0.1, "on": 0.35, "after": 0.0, "later": 0.5}
    )
    assert all(math.isnan(x) for x in study.mass_fractions(-np.ones(4), (1, 2)).values())


def test_shares_at_the_ends_of_a_clip(study):
    assert study.mass_fractions(np.array([1.0, 1.0, 2.0]), (0, 1)) == pytest.approx(
        {"earlier": 0, "before": 0, "on": 0.25, "after": 0.25, "later": 0.5}
    )
    assert study.mass_fractions(np.array([1.0, 1.0, 2.0]), (2, 3)) == pytest.approx(
        {"earlier": 0.25, "before": 0.25, "on": 0.5, "after": 0, "later": 0}
    )


@pytest.mark.parametrize(("peak", "expected"), [(0, -2), (1, -1), (2, 0), (3, 0), (4, 1), (7, 4)])
def test_lag_is_the_distance_to_the_fault(study, peak, expected):
    fall = np.zeros(8)
    fall[peak] = 1.0
    assert study.lag(fall, (2, 4)) == expected


def test_what_rounding_makes_is_no_drop(study):
    clean = [1.0, 2.0, 300.0]
    assert study.drop(clean, [1.0 + 1e-6, 2.0 - 1e-6, 300.0 - 1e-4]).tolist() == [0, 0, 0]
    assert study.drop(clean, [0.5, 2.0, 300.5]) == pytest.approx([0.5, 0, -0.5], abs=3e-4)


# --- one clip


def test_a_reward_that_falls_on_the_frame_alone(study):
    row = study.statistics(
        found := cell([1.0] * 9, [1.0] * 3 + [0.0, 0.0] + [1.0] * 4, (3, 5)),
        found["cases"][0],
        "r",
        0.1,
    )
    assert (row.area, row.area_drop, row.area_near, row.area_null) == (1, 1, 1, 0.5)
    assert (row.mass, row.near, row.lag, row.hit, row.falls, row.rises) == (1, 1, 0, 1, 1, 0)
    assert (row.chance, row.chance_near) == pytest.approx((2 / 9, 4 / 9))
    assert (row.area_latent, row.area_drop_latent) == (1, 1)  # frames 3 and 4 lie in latent 1 alone


def test_a_pair_reward_is_right_but_for_the_next_frame(study):
    # the pairs (2, 3) and (3, 4) are bad: each gives half to its two frames, the middle one
    # gets both halves
    found = cell([0.0] * 9, [0, 0, -0.5, -1, -0.5, 0, 0, 0, 0], (3, 4))
    row = study.statistics(found, found["cases"][0], "r", 0.0)
    assert (row.mass, row.near, row.area_drop, row.area_near) == (0.5, 1, 1, 1)
    late = cell([0.0] * 9, [0, 0, 0, -0.5, -1, 0, 0, 0, 0], (3, 4))
    row = study.statistics(late, late["cases"][0], "r", 0.0)
    assert (
        row.area_drop == pytest.approx(7 / 8)
        and row.area_near == 1
        and row.lag == 1
        and row.hit == 1
    )


def test_a_prefix_reward_charges_all_that_come_later(study):
    found = cell([0.0] * 9, [0, 0, 0, -1, -1, -1, -1, -1, -1], (3, 4))
    row = study.statistics(found, found["cases"][0], "r", 0.0)
    assert (row.mass, row.near, row.later) == pytest.approx((1 / 6, 2 / 6, 4 / 6))
    assert row.area_drop == pytest.approx((3 + 0.5 * 5) / 8)


def test_whole_clip_credit_is_chance(study):
    found = cell([1.0], [0.25], (3, 5))  # a reward without a curve: one entry for all frames
    row = study.statistics(found, found["cases"][0], "r", 0.5)
    assert row.area == row.area_drop == row.area_latent == row.area_null == 0.5
    assert (
        row.mass == pytest.approx(row.chance)
        and row.near == pytest.approx(row.chance_near)
        and row.falls == 1
    )


def test_a_reward_that_pays_for_the_fault(study):
    found = cell([0.0] * 9, [0, 0, 0, 9, 0, 0, 0, 0, 0], (3, 4))
    row = study.statistics(found, found["cases"][0], "r", 0.5)
    assert (row.rises, row.falls, row.area, row.area_drop) == (1, 0, 0, 0) and math.isnan(row.mass)


def test_what_is_not_scored_is_left_out(study):
    found = cell([0.0] * 9, [math.nan] * 9, (3, 4))
    row = study.statistics(found, found["cases"][0], "r", 0.5)
    assert all(
        math.isnan(x)
        for x in (row.area, row.area_drop, row.mass, row.near, row.lag, row.falls, row.rises)
    )


# --- many clips


def test_an_interval_counts_clips_and_not_their_sizes(study):
    values, units = [0.0, 1.0] * 10, ["a", "b"] * 10
    one, two = study.estimate(values, units), study.estimate([0.0, 1.0], ["a", "b"])
    assert one == two and one.units == 2 and (one.low, one.mean, one.high) == (0, 0.5, 1)


def test_an_interval_is_about_two_standard_errors(study):
    values = np.random.default_rng(1).normal(size=400)
    found = study.estimate(values.tolist(), [str(i) for i in range(400)])
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.1)


def test_the_threshold_is_what_a_reencoding_does(study):
    cells = [cell([0.0] * 9, [0.0] * 9, (1, 2), nulls=[[x] * 9, [-x] * 9]) for x in range(1, 11)]
    changes = [x for x in range(1, 11) for _ in range(2)]
    assert study.thresholds(cells, ["r"])["r"] == pytest.approx(np.percentile(changes, 95))


def verdict(study, make, first=None):
    """The verdict on a reward whose faulty curve is make(span), for every fault in several
    places."""
    cells = []
    for i, fault in enumerate(study.FAULTS):
        for start in (2, 4, 6):
            span, nulls = (start, start + 1), [[1e-9] * 9]
            cells.append(cell([0.0] * 9, make(span), span, nulls, fault=fault, unit=f"world {i}"))
        if first is not None:
            cells[-1]["cases"].append(
                cell([0.0] * 9, first, (0, 1), source="frame 0", fault=fault)["cases"][0]
            )
    return study.Findings.of(cells).verdict("r")


def test_verdicts(study):
    at = lambda span: [-1.0 * (span[0] <= t < span[1]) for t in range(9)]  # noqa: E731
    assert verdict(study, at) == "local"
    assert verdict(study, at, [-1.0] + [0.0] * 8) == "local"
    assert verdict(study, at, [0.0] + [-1.0] * 8) == "but from frame 0"
    assert verdict(study, lambda span: [-1.0 * (t >= span[0]) for t in range(9)]) == "spread"
    assert verdict(study, lambda span: [-1.0] * 9) == "spread"
    assert verdict(study, lambda span: [1.0 * (t == span[0]) for t in range(9)]) == "blind"


def test_a_composites_entries_are_its_parts_by_their_slopes(study):
    composite = Composite(
        {"a": FrameQuality(), "b": FrameQuality()}, {"a": 2.0, "b": 1.0}, {"b": (5.0, 0.5)}
    )
    a, b = torch.tensor([[1.0, 3.0, 5.0]]), torch.tensor([[0.0, 0.0, 6.0]])
    parts = {"a": Score(a.mean(1), a, "pair"), "b": Score(b.mean(1), b, "prefix")}
    score = composite.combine(parts)  # 2 a + (b − 5) / 0.5
    assert study.entries(score)[0].tolist() == pytest.approx((2 * a + (b - 5) / 0.5)[0].tolist())
    assert study.entries(score, local=True)[0].tolist() == pytest.approx(
        (2 * a + (2 - 5) / 0.5)[0].tolist()
    )


# --- faults


def test_a_fault_changes_its_frames_and_no_other(study, clip):
    for fault in (*study.FAULTS, "light"):
        found = study.plant(clip.video, fault, (4, 7), random.Random(0), clip.other)
        same = (found == clip.video).flatten(1).all(1)
        assert same.tolist() == [not 4 <= t < 7 for t in range(17)], fault
        assert found.min() >= 0 and found.max() <= 1


def test_faults_are_what_they_say(study, clip):
    def plant(fault, draw=0):
        return study.plant(clip.video, fault, (4, 7), random.Random(draw), clip.other)[4:7]

    assert torch.equal(plant("freeze"), clip.video[3:4].expand(3, -1, -1, -1))
    assert torch.equal(plant("identity"), clip.other[4:7])
    assert torch.equal(plant("blur"), corrupt(clip.video[4:7], "blur"))
    gain = plant("flicker").mean((1, 2, 3)) / clip.video[4:7].mean((1, 2, 3))
    assert (gain[0] - 1) * (gain[1] - 1) < 0 and (gain[0] - 1) * (gain[2] - 1) > 0
    gain = plant("light").mean((1, 2, 3)) / clip.video[4:7].mean((1, 2, 3))
    assert (gain - 1).sign().unique().numel() == 1
    assert plant("noise").sub(clip.video[4:7]).std() == pytest.approx(0.06, rel=0.2)
    with pytest.raises(ValueError, match="expected a fault out of flicker"):
        study.plant(clip.video, "freeze", (0, 2), random.Random(0), clip.other)


def test_a_jump_is_whole_pixels_with_mirrored_edges(study):
    ramp = torch.arange(32.0).expand(1, 1, 32, 32)
    right = study.shifted(ramp, (1, 0))[0, 0]  # 12 % of 32 is 4 pixels
    assert torch.equal(right[0, 4:], torch.arange(28.0)) and right[0, :4].tolist() == [4, 3, 2, 1]
    assert torch.equal(study.shifted(ramp.mT, (0, -1))[0, 0, :28, 0], torch.arange(4.0, 32.0))


def test_places_are_drawn_once_and_never_at_frame_0(study, clip):
    first, again = (study.in_pixels(clip, "world 32", 3, [1, 5], 0) for _ in range(2))
    assert [one.span for one in first] == [one.span for one in again]
    assert [one.span for one in first] == [
        one.span for one in study.in_pixels(clip, "world 64", 3, [1, 5], 0)
    ]
    assert len(first) == 12 and all(1 <= a < b <= 17 for a, b in (one.span for one in first))
    assert len({one.span[0] for one in first}) > 4


def test_faults_of_frame_0_and_lasting_ones(study, clip):
    for one in study.hard(clip, "world 32", 0, 0):
        same = (one.video == clip.video).flatten(1).all(1)
        if one.source == "frame 0":
            assert one.span == (0, 1) and not same[0] and same[1:].all() and one.fault != "freeze"
        else:
            assert (
                same[: one.span[0]].all()
                and not same[one.span[0] :].any()
                and one.span[1] == one.span[0] + 1
            )


def test_scenes_of_fewer_clips_are_the_first_of_more(study):
    assert study.scenes(3, 0) == study.scenes(8, 0)[:3]
    assert all(scene.motion != "rest" for scene in study.scenes(8, 0))
    assert [scene.camera == "static" for scene in study.scenes(4, 0)] == [True, False, True, False]


# --- the whole


def test_a_finished_clip_is_not_made_again(study, tmp_path):
    file, made = tmp_path / "work/a.json", []
    make = lambda x: made.append(x) or {"x": x}  # noqa: E731
    assert (
        study.cached(file, {"seed": 0}, make, 1)
        == study.cached(file, {"seed": 0}, make, 2)
        == {"x": 1}
    )
    assert study.cached(file, {"seed": 1}, make, 3) == {"x": 3} and made == [1, 3]
    assert [one.name for one in file.parent.iterdir()] == ["a.json"]


@pytest.mark.slow
def test_quick_run_resumes_and_writes_a_page_with_its_picture(study, tmp_path, capsys):
    page = tmp_path / "page.md"
    words = [
        "--quick",
        "--sources",
        "world 32",
        "--work",
        str(tmp_path / "work"),
        "--out",
        str(page),
    ]
    study.main(words)
    first, cells = page.read_text(), sorted((tmp_path / "work").iterdir())
    known = json.loads(cells[0].read_text())
    assert len(cells) == 2 and len(known["cases"]) == 6 + 5 + 3
    assert all(len(curve) in (1, 17) for curve in known["clean"].values())
    assert "| drift |" in first and "| a constant curve |" in first and "### identity" in first
    assert page.with_suffix(".svg").read_text().startswith("<svg")
    stamps = [one.stat().st_mtime_ns for one in cells]
    study.main(words)
    assert page.read_text() == first and [one.stat().st_mtime_ns for one in cells] == stamps
    assert "May be credited where they are" in capsys.readouterr().out
