"""Means, intervals, marks: numbers done by hand, scipy's, and what must not change them."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from vidrl.bench.statistics import saturation, summary, within_prompt_spread
from vidrl.inference.clusters import clusters
from vidrl.inference.effects import hedges_g
from vidrl.inference.means import interval
from vidrl.inference.proportions import proportion_interval

NAN = math.nan


def nested(G=12, m=4, seed=0):
    draw = np.random.default_rng(seed)
    values = (draw.normal(0, 1, (G, 1)) + draw.normal(0, 0.5, (G, m))).ravel()
    return values, np.repeat([f"prompt {i}" for i in range(G)], m).tolist()


def test_six_prompts_have_students_interval_or_a_wider_one():
    values, groups = nested(G=6)
    means = values.reshape(6, 4).mean(1)
    low, high = stats.t.interval(0.95, 5, means.mean(), stats.sem(means))
    found = interval(values, groups)
    assert (
        found.mean == pytest.approx(means.mean())
        and found.low <= low + 1e-9
        and found.high >= high - 1e-9
    )


def test_many_prompts_get_nearly_students_interval_where_values_are_normal():
    values = stats.norm.ppf((np.arange(200) + 0.5) / 200)
    found = interval(values)
    assert (found.low, found.high) == pytest.approx(
        stats.t.interval(0.95, 199, 0, stats.sem(values)), abs=0.015
    )


def test_the_interval_is_the_bootstrap_t_of_a_loop_over_draws():
    values, groups = nested(G=9, m=3)
    values, groups = -values[:-2], groups[:-2]  # unbalanced
    found, names = interval(values, groups, draws=400), sorted(set(groups))
    made = clusters(values, groups)
    # else the draws are of the negated values
    assert ((made.sums - made.mean * made.counts) ** 3).sum() > 0
    theta, rows = values.mean(), np.random.default_rng([0, 0]).integers(0, 9, (400, 9))

    def ratio(sums, sizes):
        mean = sums.sum() / sizes.sum()
        return mean, math.sqrt(9 / 8 * ((sums - mean * sizes) ** 2).sum()) / sizes.sum()

    drawn = [ratio(made.sums[row], made.counts[row]) for row in rows]
    low, high = np.quantile([(mean - theta) / error for mean, error in drawn], [0.025, 0.975])
    error = ratio(made.sums, made.counts)[1]
    # of the effective number of groups
    student = stats.t.ppf(0.975, sum(made.counts) ** 2 / sum(made.counts**2) - 1)
    assert len(names) == 9 and found.low == pytest.approx(theta - max(high, student) * error)
    assert found.high == pytest.approx(theta - min(low, -student) * error)


def test_clips_of_one_prompt_count_as_one_where_they_are_alike():
    values = [1.0, 2.0, 4.0, 3.0, 2.5, 9.0, 7.0]
    once, thrice = (
        interval(values),
        interval(np.repeat(values, 3), np.repeat(list("abcdefg"), 3).tolist()),
    )
    assert thrice[:3] == pytest.approx(once[:3]) and (thrice.n, thrice.groups) == (21, 7)


def test_a_skewed_sample_has_a_longer_interval_on_its_long_side():
    found = interval(np.exp(stats.norm.ppf((np.arange(20) + 0.5) / 20)))
    assert found.high - found.mean > 1.3 * (found.mean - found.low)


def test_order_and_names_of_prompts_do_not_change_a_digit():
    values, groups = nested(G=15, m=3)
    order = np.random.default_rng(1).permutation(len(values))
    shuffled = interval(values[order], [f"x{groups[i]}" for i in order])
    assert shuffled == interval(values, groups)


def test_unscored_clips_are_left_out_and_counted():
    with_gaps = summary([0.2, None, 0.4, NAN, math.inf, 0.9], ["a", "a", "b", "c", "d", "e"])
    without = summary([0.2, 0.4, 0.9], ["a", "b", "e"])
    assert with_gaps.pop("unscored") == 3 and without.pop("unscored") == 0
    assert with_gaps == without


def test_clips_without_a_prompt_are_groups_of_their_own():
    values = [0.1, 0.5, 0.3, 0.8, 0.7, 0.2]
    assert interval(values, [""] * 6) == interval(values) == interval(values, list("abcdef"))
    assert summary(values, ["", "", "a", None, "", None])["prompts"] == 1


def test_one_prompt_has_an_interval_over_its_clips_and_says_so():
    row = summary([1.0, 2.0, 3.0, 5.0, 4.0, 6.0], ["a"] * 6, least=2)
    assert row["low"] < 3.5 < row["high"] and math.isnan(
        interval([1.0, 2.0, 3.0, 5.0, 4.0, 6.0], ["a"] * 6).p
    )
    assert not row["enough"] and any("one prompt" in note for note in row["notes"])


def test_nothing_and_one_value_have_no_interval():
    for values, mean in (([], None), ([None], None), ([0.7], 0.7)):
        row = summary(values, ["a"] * len(values))
        assert (row["mean"], row["low"], row["high"], row["std"]) == (mean, None, None, None)
        assert not row["enough"] and f"fewer than 20 clips: {row['n']}" in row["notes"]
        json.dumps(row, allow_nan=False)


def test_the_minimum_counts_scored_clips_alone():
    values = [float(i) for i in range(20)]
    assert summary(values, None)["enough"] and summary(values, None)["notes"] == []
    assert not summary([*values[:19], None], None)["enough"]


def test_a_mean_stays_in_its_range():
    values = [1.0, 0.99, 0.98, 0.97, 1.0, 0.2]
    assert interval(values).high > 1 and summary(values, None, range=(0, 1))["high"] == 1


def test_groups_must_be_as_many_as_values():
    with pytest.raises(ValueError, match="a group for each of 2 values, got 3"):
        interval([1.0, 2.0], ["a", "b", "c"])


def test_spread_within_prompts_is_that_of_an_analysis_of_variance():
    values, groups = nested(G=6, m=5)
    table = values.reshape(6, 5)
    pooled = math.sqrt(table.var(1, ddof=1).mean())
    assert within_prompt_spread(values, groups) == pytest.approx(
        (pooled, pooled**2 / values.var(ddof=1))
    )
    assert all(map(math.isnan, within_prompt_spread([1.0, 2.0], "ab")))


@pytest.mark.parametrize(
    ("values", "limits", "hit"),
    [
        ([0.99, 0.985, 1.0, 0.7], (0, 1), True),  # piled at the top
        ([0.0, 0.01, 0.3, 0.01], (0, 1), True),  # at the bottom
        (
            [0.97, 0.99, 0.979, 0.984, 0.9785],
            (0, 1),
            True,
        ),  # a mean near the end, hardly any spread
        ([0.9, 0.95, 0.7, 0.99], (0, 1), False),
        ([0.99, 0.99, 0.0, 0.1, 0.2], (0, 1), False),  # a pile of two in five
        ([-0.001, -0.002], (None, 0.0), False),  # no scale to be near on
        ([0.0, 0.0, -5.0], (None, 0.0), True),
        ([7.0, 7.0], (None, None), False),
        ([-0.04, -0.03, -0.05], (-20, 0), False),  # a bound that no clip comes near is no scale
        ([-0.01, -0.015, -0.5], (-20, 0), True),
        ([98.5, 99.0, 50.0], (0, 100), True),
    ],
)
def test_saturation(values, limits, hit):
    assert bool(saturation(values, limits)) == hit
    assert summary(values, None, range=limits)["saturated"] == hit


def test_equal_values_are_said_to_be():
    row = summary([0.5] * 30, None, range=(0, 1))
    rare = 1 - 0.025 ** (1 / 30)  # so likely may another value be, of which thirty clips show none
    assert (row["low"], row["high"]) == pytest.approx(
        (0.5 - 0.5 * rare, 0.5 + 0.5 * rare), abs=1e-4
    )
    assert row["notes"] == ["all 30 values are equal"]
    assert summary([0.5] * 30, None)["low"] is None


def test_effect_is_hedges_g():
    a, b = [1.0, 2.0, 3.0, 4.0], [3.0, 5.0, 4.0]
    pooled = math.sqrt((3 * np.var(a, ddof=1) + 2 * np.var(b, ddof=1)) / 5)
    assert hedges_g(a, b) == pytest.approx(1.5 / pooled * (1 - 3 / 19))
    assert math.isnan(hedges_g([1.0, 1.0], [1.0, 1.0])) and math.isnan(hedges_g([1.0], [1.0, 2.0]))


def test_a_share_of_zeros_and_ones_has_the_interval_of_clopper_and_pearson():
    for wins, n in ((70, 100), (1, 16), (15, 16), (3, 7)):
        exact = stats.binomtest(wins, n).proportion_ci()
        assert proportion_interval([1.0] * wins + [0.0] * (n - wins))[1:3] == pytest.approx(
            (exact.low, exact.high), abs=0.008
        )


def test_a_share_of_clips_alike_within_prompts_knows_prompts_alone():
    once, thrice = (
        proportion_interval([1.0] * 7 + [0.0] * 3),
        proportion_interval([1.0] * 21 + [0.0] * 9, np.repeat(range(10), 3).tolist()),
    )
    assert thrice[:3] == pytest.approx(once[:3], abs=0.01)


def test_a_share_that_is_whole_still_has_an_interval():
    found = proportion_interval([1.0] * 30, [str(i // 3) for i in range(30)])
    assert found.high == 1 and found.low == pytest.approx(0.025 ** (1 / 10), abs=1e-3)
    assert proportion_interval([0.5] * 4).low > 0 and math.isnan(proportion_interval([1.0]).low)


def test_the_variance_is_split_into_prompts_and_seeds():
    """Two prompts of two clips: within 2, between ((MSB = 100) − 2) / 2 = 49, by hand."""
    row = summary([1.0, 3.0, 11.0, 13.0], ["a", "a", "b", "b"])
    assert (row["between_prompt_std"], row["within_prompt_std"]) == pytest.approx((7.0, 2**0.5))
    assert summary([1.0, 2.0], ["a", "b"])["between_prompt_std"] is None
