"""Clips without a number: a set whose broken clips fail to be scored must not gain by
it."""

import math

import numpy as np
import pytest
from scipy import stats

from vidrl.bench import unscored_clips, verdicts
from vidrl.bench.caveats import caveats
from vidrl.bench.compare import compare


def made(name, values, prompts=None, skipped=()):
    prompts = [f"p{i}" for i in range(len(values))] if prompts is None else prompts
    return {
        "name": name,
        "skipped": list(skipped),
        "clips": [
            {
                "path": f"{name}/{i}.mp4",
                "prompt": prompt,
                "seed": 0,
                "why": {},
                "value": {"d": None if value is None else float(value)},
            }
            for i, (value, prompt) in enumerate(zip(values, prompts, strict=True))
        ],
    }


def told(sets, rows):
    return caveats(
        {
            "suite": {"least": 20},
            "sets": sets,
            "comparisons": rows,
            "dims": [{"name": "d"}],
            "summary": {},
        }
    )


def pair(seed, n=100, shift=0.0):
    rng = np.random.default_rng(seed)
    quality = rng.normal(0, 1, n)
    return [quality + 0.7 * rng.normal(size=n) + rise for rise in (0.0, shift)]


def without_worst(values, share):
    least = np.quantile(values, share)
    return [None if value < least else value for value in values]


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.05, 0.1, 0.2, 0.3])
def test_equal_models_of_which_one_loses_its_worst_clips_are_not_told_apart(share):
    better = 0
    for seed in range(200):
        a, b = pair(seed)
        (row,) = compare(made("a", a), made("b", without_worst(b, share)), ["d"])
        better += verdicts.verdict({}, row) == 1
    assert stats.binomtest(better, 200, 0.025, "greater").pvalue > 0.05, better


def test_a_worse_model_does_not_get_better_by_losing_its_worst_clips():
    a, b = pair(0, shift=-0.2)
    sets = made("a", a), made("b", without_worst(b, 0.3))
    (row,) = compare(*sets, ["d"])
    least = min(*a, *(x for x in b if x >= np.quantile(b, 0.3)))
    by_hand = np.where(b < np.quantile(b, 0.3), least, b) - a
    assert row["worst"]["value"] == pytest.approx(least)
    assert row["worst"]["difference"] == pytest.approx(by_hand.mean()) and row["worst"]["high"] < 0
    assert row["p"] == max(row["p_scored"], row["worst"]["p"])
    assert (row["wins"], row["losses"]) == (int((by_hand[b >= np.quantile(b, 0.3)] > 0).sum()), 65)


def test_a_verdict_that_unscored_clips_overturn_is_withheld_and_said():
    rng = np.random.default_rng(0)
    a = rng.normal(0, 0.1, 40)
    b = [None if i < 12 else x + 0.1 for i, x in enumerate(a + rng.normal(0, 0.02, 40))]
    sets = made("a", a), made("b", b)
    (row,) = compare(*sets, [{"name": "d", "range": [-5.0, 0.0]}])
    assert row["low"] > 0 and row["p_scored"] < 0.001 and row["p"] == row["p_holm"] == 1.0
    assert row["worst"]["value"] == -5.0 and row["worst"]["high"] < 0
    assert verdicts.verdict({}, row) == 0 and verdicts.is_withheld({}, row)
    said = told(sets, [row])
    assert said[0].startswith(
        "no verdict on d between a and b: count clips without a number as worst, and the "
        "difference is not beyond doubt (d: 12 of 40 clips of b, "
    )
    assert f"{row['worst']['difference']:+.3g}" in said[0]


def test_a_difference_that_holds_also_with_unscored_clips_as_the_worst_stands():
    rng = np.random.default_rng(1)
    a = rng.normal(0, 0.1, 40)
    (row,) = compare(
        made("a", a), made("b", [None, *(a + 1)[1:]]), [{"name": "d", "range": [-2.0, 5.0]}]
    )
    assert (
        verdicts.verdict({}, row) == 1
        and row["p"] == row["p_holm"] < 0.05
        and not verdicts.is_withheld({}, row)
    )
    (back,) = compare(
        made("b", [None, *(a + 1)[1:]]), made("a", a), [{"name": "d", "range": [-2.0, 5.0]}]
    )
    assert verdicts.verdict({}, back) == -1


@pytest.mark.parametrize("lost, wanted", [((0, 8), 2 / 2**8), ((4, 4), 1.0), ((1, 4), 0.375)])
def test_unequal_shares_of_unscored_clips_are_tested_exactly(lost, wanted):
    """McNemar's test: prompts on which one set alone has no number."""
    one, two = lost
    a = [None if i < one else i for i in range(30)]
    b = [None if one <= i < one + two else i for i in range(30)]
    (row,) = compare(made("a", a), made("b", b), ["d"])
    assert row["unscored"] == {"counts": [one, two], "of": [30, 30], "p": pytest.approx(wanted)}
    assert wanted == pytest.approx(stats.binomtest(one, one + two).pvalue)
    said = [one for one in told((made("a", a), made("b", b)), [row]) if "unequally often" in one]
    assert bool(said) == (wanted < 0.05)


def test_unpaired_sets_with_unscored_clips_have_the_same_rule():
    rng = np.random.default_rng(2)
    b = rng.normal(0, 1, 60)
    values = [None if x < np.quantile(b, 0.4) else x for x in b]
    sets = made("a", rng.normal(0, 1, 60)), made("b", values, [f"q{i}" for i in range(60)])
    (row,) = compare(*sets, ["d"])
    assert row["paired_by"] == "nothing" and row["low"] > 0 and row["worst"]["difference"] < 0
    assert (
        verdicts.verdict({}, row) == 0
        and row["unscored"]["counts"] == [0, 24]
        and row["unscored"]["p"] < 0.001
    )


def test_files_that_could_not_be_read_count_as_unscored_where_they_have_a_partner():
    a = np.linspace(0, 1, 30)
    skipped = [
        {"path": f"b/{i}.mp4", "why": "unreadable", "prompt": f"p{i}", "seed": 0} for i in range(10)
    ]
    b = made("b", a + 0.1, skipped=skipped)
    b["clips"] = b["clips"][10:]
    (row,) = compare(made("a", a), b, ["d"])
    assert (
        row["unscored"]["counts"] == [0, 10]
        and row["unscored"]["of"] == [30, 30]
        and row["n"] == 20
    )
    assert row["worst"]["difference"] < row["difference"] and row["losses"] == 10


def test_skipped_files_without_prompts_are_paired_by_their_names():
    a, b = made("a", range(30), [""] * 30), made("b", range(1, 31), [""] * 30)
    b["skipped"] = [
        {"path": clip["path"], "why": "unreadable", "prompt": "", "seed": None}
        for clip in b["clips"][:5]
    ]
    b["clips"] = b["clips"][5:]
    (row,) = compare(a, b, ["d"])
    assert (row["paired_by"], row["n"], row["unscored"]["counts"]) == ("file name", 25, [0, 5])


def test_a_dim_without_meaning_for_both_partners_is_left_out_and_for_one_counts_against_it():
    a, b = made("a", [0.0, 1.0, None, None]), made("b", [1.0, 2.0, None, 3.0])
    for one, at in ((a, 2), (b, 2), (a, 3)):
        one["clips"][at]["why"] = {"d": "inapplicable: nothing moves alone"}
    (row,) = compare(a, b, ["d"])
    assert row["unscored"]["of"] == [3, 3] and row["unscored"]["counts"] == [1, 0] and row["n"] == 2


def test_two_unscored_partners_are_a_tie_and_nothing_scored_is_no_difference():
    (none,) = compare(made("a", [None, None]), made("b", [None, None]), ["d"])
    assert (
        none["difference"] is none["worst"] is none["win_rate"] is None
        and none["wins"] == none["ties"] == 0
    )
    (one,) = compare(made("a", [1.0, None]), made("b", [2.0, None]), ["d"])
    assert (one["wins"], one["ties"], one["losses"], one["win_rate"]) == (1, 1, 0, 0.75)
    assert math.isclose(
        unscored_clips.worst_value(
            [one_set["clips"] for one_set in (made("a", [3.0]), made("b", [2.0]))], "d"
        ),
        2,
    )
