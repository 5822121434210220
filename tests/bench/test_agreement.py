"""vidrl.bench.agreement: by hand, against the published loops, and raters of known bias and
noise."""

from collections.abc import Callable

import numpy as np
import pytest

from vidrl.bench.agreement import (
    agreement_with_ties,
    agreement_without_ties,
    calibrate_tie_threshold,
    chance_with_ties,
    dependence_clusters,
    leave_one_out,
    majority,
    spearman,
)
from vidrl.bench.detection import paired_area
from vidrl.bench.rater_comparison import compare_dims, compare_with_rater


def raters(
    gap: np.ndarray,
    rng: np.random.Generator,
    temperature: float = 1.0,
    band: float = 0.0,
    bias: float = 0.0,
) -> np.ndarray:
    """Bradley-Terry: the first is chosen with probability sigmoid((gap + bias) /
    temperature); ties inside a band."""
    felt = gap + bias + temperature * rng.logistic(size=gap.shape)
    return np.where(np.abs(felt) <= band, 0, np.sign(felt)).astype(int)


def test_without_ties_by_hand() -> None:
    human, model = np.array([1, -1, -1, 0, 1, 1]), np.array([2.0, -1.0, 3.0, 9.0, 0.0, np.nan])
    assert np.nanmean(agreement_without_ties(human, model)) == 0.5
    assert np.nanmean(agreement_without_ties(human, model, half=True)) == 0.625
    assert np.isnan(agreement_without_ties(human, model)).tolist() == [False] * 3 + [
        True,
        False,
        True,
    ]


def test_the_calibrated_threshold_is_the_best_of_all() -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        human, model = rng.integers(-1, 2, 30), rng.integers(-4, 5, 30) / 2
        tried = {
            e: agreement_with_ties(human, model, e).mean() for e in sorted({0.0, *np.abs(model)})
        }
        best, epsilon = calibrate_tie_threshold(human, model)
        assert best == pytest.approx(max(tried.values())) and epsilon == min(
            e for e in tried if tried[e] == best
        )


def test_calibration_is_that_of_videoalign() -> None:
    """Where no two differences are alike, the published loop, which tries every |m| but not
    "no ties at all"."""
    rng = np.random.default_rng(1)
    for _ in range(10):
        human, model = rng.integers(-1, 2, 50), rng.normal(size=50)
        published = max(
            np.mean([(h == 0) if abs(m) <= e else h * m > 0 for h, m in zip(human, model)])
            for e in np.abs(model)
        )
        assert published <= calibrate_tie_threshold(human, model)[0] <= published + 1 / 50


def test_values_that_are_missing_do_not_count() -> None:
    assert calibrate_tie_threshold(np.array([1, 0]), np.array([1.0, np.nan])) == (1.0, 0.0)
    assert np.isnan(calibrate_tie_threshold(np.array([1]), np.array([np.nan]))).all()


def covers(
    draw: Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]], truth: float
) -> float:
    """How often the interval of the accuracy without ties holds the truth, over 40 tables
    of choices."""
    hits = 0
    for seed in range(40):
        human, model = draw(np.random.default_rng(seed))
        area = paired_area(agreement_without_ties(human, model), range(len(human)), draws=200)
        hits += area.low <= truth <= area.high
    return hits / 40


@pytest.mark.parametrize("temperature", [0.3, 1.0, 3.0])
def test_a_rater_of_known_noise(temperature: float) -> None:
    """A model that knows the truth is right as often as the rater is: E sigmoid(|gap| /
    temperature)."""
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
    """A rater without noise who ties below 0.5: the threshold is found and all answers are
    right."""
    rng = np.random.default_rng(5)
    gap = rng.normal(size=500)
    human = raters(gap, rng, temperature=0.0, band=0.5)
    accuracy, epsilon = calibrate_tie_threshold(human, gap)
    assert accuracy == 1 and 0.45 < epsilon <= 0.5
    assert agreement_with_ties(human, gap, 0.0).mean() == pytest.approx((human != 0).mean())


def test_a_bias_of_position_costs_what_it_must() -> None:
    """A rater leans to the first clip as if it were better by 1: right with sigmoid(2) and
    sigmoid(0) in turn."""
    truth = (1 / (1 + np.exp(-2)) + 0.5) / 2

    def draw(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        gap = rng.choice([-1.0, 1.0], 400)
        return raters(gap, rng, bias=1.0), gap

    assert covers(draw, truth) >= 0.85


@pytest.mark.parametrize("ties", [0.1, 0.6])
def test_a_model_that_knows_nothing_gets_chance(ties: float) -> None:
    rng = np.random.default_rng(7)
    human = np.where(rng.random(20_000) < ties, 0, rng.choice([-1, 1], 20_000))
    accuracy, _ = calibrate_tie_threshold(human, rng.normal(size=20_000))
    assert accuracy == pytest.approx(chance_with_ties(human), abs=0.01)


def test_spearman_is_scipys() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(8)
    scores, values = rng.integers(1, 5, 60).astype(float), rng.normal(size=60)
    assert spearman(scores, values) == pytest.approx(stats.spearmanr(scores, values).statistic)
    assert np.isnan(spearman(np.ones(9), values[:9])) and np.isnan(spearman(scores[:2], values[:2]))


@pytest.mark.parametrize(
    ("votes", "said"),
    [
        ([1, 1, -1], 1),
        ([1, -1], 0),
        ([0, 1], 1),
        ([0, 0, -1], 0),
        ([1, -1, 0], 0),
        ([-1], -1),
        ([1, 1, -1, -1, 0], 0),
    ],
)
def test_the_majority(votes: list[int], said: int) -> None:
    assert majority(votes) == said


def votes_of(
    rng: np.random.Generator, pairs: int, raters: int, right: float
) -> tuple[np.ndarray, np.ndarray]:
    """The truth of each pair, and the votes of raters who are each right with one
    probability."""
    truth = rng.choice([-1, 1], pairs)
    return truth, np.where(rng.random((pairs, raters)) < right, truth[:, None], -truth[:, None])


def test_a_rater_of_known_skill_against_the_others() -> None:
    """Three raters, each right with probability p: one agrees with two who agree with (p^3
    + q^3) / (p^2 + q^2)."""
    p, q = 0.8, 0.2
    _, votes = votes_of(np.random.default_rng(9), 3000, 3, p)
    found = leave_one_out(votes.tolist())
    truth = (p**3 + q**3) / (p**2 + q**2)
    assert np.nanmean(
        agreement_without_ties(found.majority, found.votes.astype(float))
    ) == pytest.approx(truth, abs=0.02)
    assert leave_one_out([[1], [0]]).rows == []


def test_a_tie_of_a_rater_counts_as_a_tie_of_a_dim() -> None:
    """Two raters, of whom one says tie: against a decided majority a tie is 1/2 for the
    rater and for a dim alike."""
    (row,) = compare_with_rater(leave_one_out([[1, 0]] * 9), range(9), {"always tied": np.zeros(9)})
    assert row["rater"] == row["agreement"] == 0.5 and row["difference"] == 0 and row["n"] == 9


@pytest.mark.parametrize(("raters", "right"), [(2, 0.75), (3, 0.75), (5, 0.9)])
def test_a_model_no_better_than_one_more_rater_is_not_above_a_rater(
    raters: int, right: float
) -> None:
    """Against the majority of all raters such a model was above their "ceiling" nearly
    always; now in at most 2.5 %."""
    above = below = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        truth, votes = votes_of(rng, 150, raters, right)
        one = np.where(rng.random(150) < right, truth, -truth).astype(float)
        (row,) = compare_with_rater(leave_one_out(votes.tolist()), range(150), {"one more": one})
        above, below = above + (row["verdict"] == "above"), below + (row["verdict"] == "below")
    assert above <= 5 and below <= 5  # binomial of 60 at 2.5 %: more than 5 in 0.2 %


def test_a_model_that_knows_the_truth_is_above_a_rater() -> None:
    truth, votes = votes_of(np.random.default_rng(0), 400, 3, 0.75)
    (row,) = compare_with_rater(
        leave_one_out(votes.tolist()), range(400), {"truth": truth.astype(float)}
    )
    assert row["verdict"] == "above" and row["agreement"] - row["rater"] == pytest.approx(
        row["difference"]
    )
    assert compare_with_rater(leave_one_out([[1], [-1]]), range(2), {"truth": np.ones(2)}) == []


def test_values_that_are_missing_help_no_dim() -> None:
    """A dim without a value for every pair that it would get wrong is right on all the
    others: no verdict."""
    rng = np.random.default_rng(1)
    human = rng.choice([-1, 1], 200)
    model = np.where(rng.random(200) < 0.6, human, -human).astype(float)
    selective = np.where(model == human, model, np.nan)
    (row,) = compare_dims(human, range(200), {"selective": selective, "plain": model})
    assert (
        row["difference"] == 0 and row["if_wrong"]["difference"] == 0 and row["verdict"] == "open"
    )
    _, votes = votes_of(rng, 200, 3, 0.8)
    lucky = np.where(rng.random(200) < 0.5, votes[:, 0], np.nan)
    lucky[(lucky != np.sign(votes.sum(1)))] = np.nan
    (row,) = compare_with_rater(leave_one_out(votes.tolist()), range(200), {"lucky": lucky})
    assert row["difference"] > 0 > row["if_wrong"]["difference"] and row["verdict"] == "unscored"


def test_two_dims_are_compared_on_the_same_pairs() -> None:
    """Three dims: right in 90 %, 60 % and again 60 % of the pairs, p of Holm over the three
    differences."""
    rng = np.random.default_rng(2)
    human = rng.choice([-1, 1], 300)
    models = {
        name: np.where(rng.random(300) < right, human, -human).astype(float)
        for name, right in (("good", 0.9), ("fair", 0.6), ("other", 0.6))
    }
    rows = {(row["dim"], row["other"]): row for row in compare_dims(human, range(300), models)}
    assert {key: row["verdict"] for key, row in rows.items()} == {
        ("good", "fair"): "above",
        ("good", "other"): "above",
        ("fair", "other"): "open",
    }
    assert rows["fair", "other"]["p_holm"] >= rows["fair", "other"]["p"]
    (few,) = compare_dims(
        human[:3], range(3), {"good": models["good"][:3], "fair": models["fair"][:3]}
    )
    assert few["verdict"] in ("few", "open")


def test_pairs_that_share_a_clip_hang_together() -> None:
    assert dependence_clusters(
        [("p", 1, 2), ("q", 3, 4), ("", 2, 9), ("", 4, 10), ("", 11, 12)]
    ) == [
        0,
        1,
        0,
        1,
        2,
    ]
