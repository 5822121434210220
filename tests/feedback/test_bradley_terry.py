"""The Bradley-Terry model with ties: numbers by hand, derivatives, and an independent optimiser."""

import math

import numpy as np
import pytest

from vidrl.feedback.bradley_terry import (
    TIE_STD,
    expected_gain,
    fit,
    information,
    log_likelihood,
    moments,
    probabilities,
    strengths,
)


def test_davidsons_probabilities_by_hand():
    """π = (4, 1), ν = 1: 4, √4 and 1 of 7."""
    first, tie, second = probabilities(math.log(4), 0.0)
    np.testing.assert_allclose([first, tie, second], [4 / 7, 2 / 7, 1 / 7])
    likely = log_likelihood([math.log(4)] * 3, [1, 0, -1], 0.0)
    np.testing.assert_allclose(likely, np.log([4 / 7, 2 / 7, 1 / 7]))


def test_without_ties_it_is_the_logistic_function():
    gaps = np.array([-800.0, -2.0, 0.3, 800.0])
    np.testing.assert_allclose(
        probabilities(gaps, -np.inf)[:, 0], 1 / (1 + np.exp(-np.clip(gaps, -700, 700))), atol=1e-12
    )
    assert log_likelihood(gaps, [1, 1, 1, 1], -np.inf)[0] == pytest.approx(-800)


def test_moments_are_the_derivatives_of_the_log_normaliser():
    def normaliser(gap, tie):
        return np.log(np.exp(gap / 2) + np.exp(-gap / 2) + np.exp(tie))

    gap, tie, h = 0.7, -0.4, 1e-4
    mean, square = moments(gap, tie)
    by_gap = (normaliser(gap + h, tie) - normaliser(gap - h, tie)) / (2 * h)
    by_tie = (normaliser(gap, tie + h) - normaliser(gap, tie - h)) / (2 * h)
    np.testing.assert_allclose(mean, [by_gap, by_tie], atol=1e-7)
    second = (normaliser(gap + h, tie) - 2 * normaliser(gap, tie) + normaliser(gap - h, tie)) / h**2
    assert square[0, 0] == pytest.approx(second, abs=1e-6)
    assert information(0.0, 0.0).item() == pytest.approx((1 / 3 + 1 / 3) / 4)


def test_two_items_by_hand():
    """6 wins, 2 losses, 2 ties, flat prior: π_1/π_2 = 3 and ν = 2 / √12, by Davidson's equations."""
    choice = [1] * 6 + [-1] * 2 + [0] * 2
    found = fit(np.ones((10, 1)), choice, prior_std=1e4)
    assert found.weights[0] == pytest.approx(math.log(3), abs=0.02)
    # the prior of τ is weak beside two ties
    assert found.tie == pytest.approx(math.log(2 / math.sqrt(12)), abs=0.05)
    assert found.log_likelihood == pytest.approx(6 * math.log(0.6) + 4 * math.log(0.2), abs=0.01)


def test_counts_are_repeated_answers():
    once = strengths([0, 1, 0], [1, 2, 2], [1, 0, 1], 3, weight=[3, 1, 2])
    often = strengths([0, 0, 0, 1, 0, 0], [1, 1, 1, 2, 2, 2], [1, 1, 1, 0, 1, 1], 3)
    np.testing.assert_allclose(once.values, often.values, atol=1e-6)
    np.testing.assert_allclose(once.covariance, often.covariance, atol=1e-6)


def test_the_fit_is_the_one_of_an_independent_optimiser():
    from scipy.optimize import minimize

    draw = np.random.default_rng(0)
    design, std = draw.normal(size=(60, 4)), np.array([0.5, 1.0, 2.0, 1.0])
    choice = draw.integers(-1, 2, 60)

    def loss(at):
        prior = (at[:4] ** 2 / std**2).sum() / 2 + at[4] ** 2 / TIE_STD**2 / 2
        return prior - log_likelihood(design @ at[:4], choice, at[4]).sum()

    found, other = fit(design, choice, prior_std=std), minimize(loss, np.zeros(5), tol=1e-10)
    np.testing.assert_allclose(np.append(found.weights, found.tie), other.x, atol=1e-4)
    h, basis = 1e-3, np.eye(5)
    at = np.append(found.weights, found.tie)
    hessian = [
        [
            (
                loss(at + h * (a + b))
                - loss(at + h * (a - b))
                - loss(at - h * (a - b))
                + loss(at - h * (a + b))
            )
            / (4 * h * h)
            for a in basis
        ]
        for b in basis
    ]
    np.testing.assert_allclose(np.linalg.inv(found.covariance), hessian, rtol=1e-3, atol=1e-3)
    assert found.variance(design[:2])[1] == pytest.approx(
        design[1] @ found.covariance[:4, :4] @ design[1]
    )


def test_true_strengths_and_a_preference_for_the_first_place_are_recovered():
    draw = np.random.default_rng(0)
    true = draw.normal(size=8)
    first, second = draw.integers(0, 8, (2, 4000))
    first, second = first[first != second], second[first != second]
    chance = probabilities(true[first] - true[second] + 0.5, -0.5)
    choice = np.array([draw.choice([1, 0, -1], p=p) for p in chance])
    found = strengths(first, second, choice, 8, prior_std=3.0, side=True)
    gap, variance = found.gap(np.arange(7), np.full(7, 7))
    z = (gap - (true[:7] - true[7])) / np.sqrt(variance)
    assert np.abs(z).max() < 3.5 and found.std.shape == (8,)
    assert found.side == pytest.approx(0.5, abs=0.1)
    assert found.tie == pytest.approx(-0.5, abs=0.15)


def test_items_without_answers_keep_the_prior():
    found = strengths([0, 0], [1, 1], [1, 1], items=3, prior_std=2.0)
    assert found.values[2] == 0 and found.std[2] == pytest.approx(2.0)
    nothing = strengths([], [], [], items=2)
    assert nothing.values.tolist() == [0, 0] and nothing.tie == 0


def test_an_answer_gives_the_entropy_that_the_posterior_loses():
    """The gain of a pair is the fall of ½ ln det of the covariance at unchanged strengths."""
    known = strengths([0, 1, 2], [1, 2, 0], [1, 0, 1], 4)
    gap, variance = known.gap(0, 3)
    direction = np.array([1.0, 0, 0, -1])
    after = np.linalg.inv(
        np.linalg.inv(known.covariance)
        + information(gap, known.tie) * np.outer(direction, direction)
    )
    fall = (np.linalg.slogdet(known.covariance)[1] - np.linalg.slogdet(after)[1]) / 2
    assert expected_gain(known, 0, 3).item() == pytest.approx(fall)
    assert variance == pytest.approx(direction @ known.covariance @ direction)


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: fit(np.ones((2, 1)), [1, 2]), "1, -1 or 0"),
        (lambda: fit(np.ones((2, 1)), [1]), r"\(2, 1\), \(1,\)"),
        (lambda: fit([[np.nan], [1]], [1, 0]), "finite"),
        (lambda: strengths([0], [0], [1], 2), "different items, got 0"),
        (lambda: strengths([0], [2], [1], 2), "from 0 to 1, got 0 to 2"),
    ],
)
def test_wrong_input_is_named(call, expected):
    with pytest.raises(ValueError, match=expected):
        call()


def test_thousands_of_answers_converge():
    """Certain answers on one side only: the prior keeps the strengths finite."""
    found = fit(np.ones((5000, 1)), np.ones(5000), prior_std=1.0)
    mean = moments(found.weights[0], found.tie)[0][0]
    assert 5000 * (0.5 - mean) == pytest.approx(found.weights[0], rel=1e-4)
