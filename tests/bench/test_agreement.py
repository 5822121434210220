"""vidrl.bench.agreement: by hand, against the published loops, and raters of known bias and noise."""

from collections.abc import Callable

import numpy as np
import pytest

from vidrl.bench.agreement import (
    calibrate,
    ceiling,
    chance_with_ties,
    clusters,
    majority,
    spearman,
    with_ties,
    without_ties,
)
from vidrl.bench.detection import own_area


def raters(gap: np.ndarray, rng: np.random.Generator, temperature: float = 1.0, band: float = 0.0,
           bias: float = 0.0) -> np.ndarray:
    """Bradley-Terry: the first is chosen with probability sigmoid((gap + bias) / temperature); ties inside a band."""
    felt = gap + bias + temperature * rng.logistic(size=gap.shape)
    return np.where(np.abs(felt) <= band, 0, np.sign(felt)).astype(int)


def test_without_ties_by_hand() -> None:
    human, model = np.array([1, -1, -1, 0, 1, 1]), np.array([2.0, -1.0, 3.0, 9.0, 0.0, np.nan])
    assert np.nanmean(without_ties(human, model)) == 0.5
    assert np.nanmean(without_ties(human, model, half=True)) == 0.625
    assert np.isnan(without_ties(human, model)).tolist() == [False] * 3 + [True, False, True]


def test_the_calibrated_threshold_is_the_best_of_all() -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        human, model = rng.integers(-1, 2, 30), rng.integers(-4, 5, 30) / 2
        tried = {e: with_ties(human, model, e).mean() for e in sorted({0.0, *np.abs(model)})}
        best, epsilon = calibrate(human, model)
        assert best == pytest.approx(max(tried.values())) and epsilon == min(e for e in tried if tried[e] == best)


def test_calibration_is_that_of_videoalign() -> None:
    """Where no two differences are alike, the published loop, which tries every |m| but not "no ties at all"."""
    rng = np.random.default_rng(1)
    for _ in range(10):
        human, model = rng.integers(-1, 2, 50), rng.normal(size=50)
        published = max(np.mean([(h == 0) if abs(m) <= e else h * m > 0 for h, m in zip(human, model)])
                        for e in np.abs(model))
        assert published <= calibrate(human, model)[0] <= published + 1 / 50


def test_values_that_are_missing_do_not_count() -> None:
    assert calibrate(np.array([1, 0]), np.array([1.0, np.nan])) == (1.0, 0.0)
    assert np.isnan(calibrate(np.array([1]), np.array([np.nan]))).all()


def covers(draw: Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]], truth: float) -> float:
    """How often the interval of the accuracy without ties holds the truth, over 40 tables of choices."""
    hits = 0
    for seed in range(40):
        human, model = draw(np.random.default_rng(seed))
        area = own_area(without_ties(human, model), range(len(human)), draws=200)
        hits += area.low <= truth <= area.high
    return hits / 40


@pytest.mark.parametrize("temperature", [0.3, 1.0, 3.0])
def test_a_rater_of_known_noise(temperature: float) -> None:
    """A model that knows the truth is right as often as the rater is: E sigmoid(|gap| / temperature)."""
    wide = np.random.default_rng(100).normal(size=1_000_000)
    truth = float((1 / (1 + np.exp(-np.abs(wide) / temperature))).mean())

    def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        gap = rng.normal(size=400)
        return raters(gap, rng, temperature), gap

    assert covers(draw, truth) >= 0.85


def test_a_noisy_model_of_a_noisy_rater() -> None:
    """Two independent readers of one truth agree as p q + (1 - p)(1 - q)."""
    p, q = 1 / (1 + np.exp(-1)), 0.8

    def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        gap = rng.choice([-1.0, 1.0], 400)
        return raters(gap, rng), np.where(rng.random(400) < q, gap, -gap)

    assert covers(draw, p * q + (1 - p) * (1 - q)) >= 0.85


def test_a_band_of_ties_is_found_again() -> None:
    """A rater without noise who ties below 0.5: the threshold is found and all answers are right."""
    rng = np.random.default_rng(5)
    gap = rng.normal(size=500)
    human = raters(gap, rng, temperature=0.0, band=0.5)
    accuracy, epsilon = calibrate(human, gap)
    assert accuracy == 1 and 0.45 < epsilon <= 0.5
    assert with_ties(human, gap, 0.0).mean() == pytest.approx((human != 0).mean())


def test_a_bias_of_position_costs_what_it_must() -> None:
    """A rater leans to the first clip as if it were better by 1: right with sigmoid(2) and sigmoid(0) in turn."""
    truth = (1 / (1 + np.exp(-2)) + 0.5) / 2

    def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        gap = rng.choice([-1.0, 1.0], 400)
        return raters(gap, rng, bias=1.0), gap

    assert covers(draw, truth) >= 0.85


@pytest.mark.parametrize("ties", [0.1, 0.6])
def test_a_model_that_knows_nothing_gets_chance(ties: float) -> None:
    rng = np.random.default_rng(7)
    human = np.where(rng.random(20_000) < ties, 0, rng.choice([-1, 1], 20_000))
    accuracy, _ = calibrate(human, rng.normal(size=20_000))
    assert accuracy == pytest.approx(chance_with_ties(human), abs=0.01)


def test_spearman_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(8)
    scores, values = rng.integers(1, 5, 60).astype(float), rng.normal(size=60)
    assert spearman(scores, values) == pytest.approx(stats.spearmanr(scores, values).statistic)
    assert np.isnan(spearman(np.ones(9), values[:9])) and np.isnan(spearman(scores[:2], values[:2]))


@pytest.mark.parametrize(("votes", "said"), [
    ([1, 1, -1], 1), ([1, -1], 0), ([0, 1], 1), ([0, 0, -1], 0), ([1, -1, 0], 0), ([-1], -1), ([1, 1, -1, -1, 0], 0)])
def test_the_majority(votes: list[int], said: int) -> None:
    assert majority(votes) == said


def test_the_ceiling_of_raters_of_known_skill() -> None:
    """Three raters, each right with probability p: one agrees with two who agree with (p^3 + q^3) / (p^2 + q^2)."""
    rng = np.random.default_rng(9)
    p, q = 0.8, 0.2
    votes = np.where(rng.random((3000, 3)) < p, 1, -1)
    found = ceiling(votes.tolist())
    truth = (p**3 + q**3) / (p**2 + q**2)
    assert np.nanmean(found.decided) == pytest.approx(truth, abs=0.02)
    assert ceiling([[1], [0]]).rows == []


def test_pairs_that_share_a_clip_hang_together() -> None:
    assert clusters([("p", 1, 2), ("q", 3, 4), ("", 2, 9), ("", 4, 10), ("", 11, 12)]) == [0, 1, 0, 1, 2]
