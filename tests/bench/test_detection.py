"""vidrl.bench.detection: areas by hand, against scipy, and intervals that cover."""

from math import erf

import numpy as np
import pytest
from scipy import stats

from vidrl.bench.detection import (
    Area,
    chance_p,
    own_shares,
    paired_area,
    shares_below,
    unpaired_area,
)
from vidrl.bench.meta import _significant_faults


def test_by_hand() -> None:
    null, hacked = np.array([[1.0, 3.0], [2.0, 3.0]]), np.array([1.5, 3.0])
    assert shares_below(null, hacked).tolist() == [[0.5, 1.0], [0.0, 0.5]]
    assert own_shares(null, hacked).tolist() == [0.5, 0.5]


def test_all_pairs_of_other_sources_are_counted_as_mann_and_whitney_do() -> None:
    """All pairs by scipy, less those of one source, which say nothing of an unknown
    original."""
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(1)
    null, hacked = rng.integers(0, 6, (3, 20)).astype(float), rng.integers(0, 5, 20).astype(float)
    own = [
        stats.mannwhitneyu(null[:, i : i + 2].ravel(), hacked[i : i + 2]).statistic
        for i in range(0, 20, 2)
    ]
    expected = (stats.mannwhitneyu(null.ravel(), hacked).statistic - sum(own)) / (
        3 * (20 * 20 - 10 * 4)
    )
    area = unpaired_area(shares_below(null, hacked), np.arange(20) // 2)
    assert area.value == pytest.approx(expected, abs=1e-12) and area.groups == 10


def test_a_clip_is_no_stranger_to_itself() -> None:
    """A corruption that is sure beside its own clip, and nothing beside others': 0.574 of
    seven clips was its own."""
    clips = np.arange(7.0)
    shares = shares_below(np.stack([clips] * 4), clips - 0.1)
    area = unpaired_area(shares, range(7))
    assert own_shares(np.stack([clips] * 4), clips - 0.1).tolist() == [1.0] * 7
    assert area.value == 0.5 and area.low < 0.5 < area.high
    assert np.isnan(unpaired_area(shares, [0] * 7).value) and np.isnan(
        unpaired_area(shares[:2, :2], range(2)).low
    )


@pytest.mark.parametrize(("gap", "n"), [(0.1, 7), (0.1, 16), (1.0, 7), (1.0, 24), (2.5, 16)])
def test_the_interval_of_the_unpaired_area_holds_the_truth(gap: float, n: int) -> None:
    """Clips of std 1, corrupted ones lower by `gap`, savings of 0.02: P(N(0, 1) > N(-gap,
    1)) = Phi(gap / sqrt 2)."""
    rng = np.random.default_rng(0)
    truth, hits, inside = 0.5 * (1 + erf(gap / 2)), 0, 0
    for _ in range(200):
        clips = rng.normal(size=n)
        null, hacked = clips + 0.02 * rng.normal(size=(4, n)), clips - gap
        area = unpaired_area(shares_below(null, hacked), range(n))
        hits, inside = (
            hits + (area.low <= truth <= area.high),
            inside + (area.low <= area.value <= area.high),
        )
    assert inside == 200 and hits >= 182  # binomial of 200 at 95 %: fewer in 1 %


def test_faults_are_counted_after_correction() -> None:
    """Eight sources that all agree have p = 2 / 2^8, which Holm's steps leave of 6 faults,
    and not of 7."""
    shares = {str(k): np.ones((8, 8)) for k in range(7)}
    assert chance_p(np.ones(8), range(8)) == chance_p(np.zeros(8), range(8)) == 2 / 2**8
    assert _significant_faults({k: shares[k] for k in "012345"}, list("abcdefgh")) == list("012345")
    assert (
        _significant_faults(shares, list("abcdefgh")) == []
        and chance_p(np.full(4, 0.5), range(4)) == 1
    )


def test_pairing_removes_what_the_clips_differ_by() -> None:
    rng = np.random.default_rng(2)
    clips = 10 * rng.normal(size=30)
    null, hacked = clips + 0.1 * rng.normal(size=(4, 30)), clips - 1
    assert paired_area(own_shares(null, hacked), range(30)).value == 1
    assert 0.45 < unpaired_area(shares_below(null, hacked), range(30)).value < 0.6


def test_what_is_missing_is_not_counted() -> None:
    null, hacked = np.array([[1.0, np.nan, 1.0]]), np.array([0.0, 0.0, np.nan])
    area = paired_area(own_shares(null, hacked), "abc")
    assert (area.value, area.n) == (1.0, 1)
    assert unpaired_area(shares_below(null, hacked), "abc").n == 1
    assert paired_area(np.full(3, np.nan), "abc").verdict == "unscored"


def test_clips_that_all_agree_are_not_sure_for_ever() -> None:
    area = paired_area(np.ones(5), range(5))
    assert area.high == 1 and area.low == pytest.approx(0.025**0.2, abs=1e-3)
    assert (
        paired_area(np.ones(5), range(5)).verdict
        == paired_area(np.ones(50), [0, 1, 2, 3, 4] * 10).verdict
        == "few"
    )
    assert paired_area(np.ones(6), range(6)).verdict == "lowers"
    assert paired_area(np.zeros(12), range(12)).verdict == "raises"


@pytest.mark.parametrize("n", [6, 16, 100])
def test_more_that_agree_never_lower_an_area_and_never_widen_below_the_exact_bound(n: int) -> None:
    """The case of 15 of 16, whose interval was once narrower than that of 16 of 16."""
    areas = [
        paired_area(np.array([0.0] * miss + [part] + [1.0] * (n - miss - 1)), range(n))
        for miss, part in ((0, 1.0), (0, 0.75), (0, 0.0), (1, 0.75), (1, 0.0))
    ]
    lows, highs = [area.low for area in areas], [area.high for area in areas]
    assert lows == sorted(lows, reverse=True) and highs == sorted(highs, reverse=True)
    exact = stats.binomtest(n - 1, n).proportion_ci()
    assert (lows[2], highs[2]) == pytest.approx((exact.low, exact.high), abs=0.01)


def test_pieces_of_one_video_count_as_one() -> None:
    shares = np.array([1.0] * 10 + [0.0] * 10)
    alone, grouped = paired_area(shares, range(20)), paired_area(shares, ["a"] * 10 + ["b"] * 10)
    assert grouped.high - grouped.low > 2 * (alone.high - alone.low)


def test_the_interval_of_a_mean_covers() -> None:
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(300):
        area = paired_area((rng.random(24) < 0.7).astype(float), range(24), draws=400)
        hits += area.low <= 0.7 <= area.high
    assert 0.88 <= hits / 300 <= 0.99


def test_the_interval_of_all_pairs_covers() -> None:
    rng = np.random.default_rng(4)
    truth, hits = 0.7602, 0  # P(N(0, 1) > N(-1, 1)) = Phi(1 / sqrt 2)
    for _ in range(200):
        clips = rng.normal(size=(2, 25))
        area = unpaired_area(shares_below(clips[:1], clips[1] - 1), range(25))
        hits += area.low <= truth <= area.high
    assert 0.88 <= hits / 200 <= 0.99


@pytest.mark.parametrize(
    ("value", "low", "high", "verdict"),
    [(0.9, 0.6, 1.0, "lowers"), (0.6, 0.4, 0.8, "open"), (0.2, 0.1, 0.4, "raises")],
)
def test_verdicts(value: float, low: float, high: float, verdict: str) -> None:
    assert Area(value, low, high, 8, 8).verdict == verdict
