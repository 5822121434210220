"""Simulated raters: chances by hand, shares of answers, the noise ceiling, and the true utility."""

import math

import numpy as np
import pytest
import torch

from vidrl.feedback.bradley_terry import probabilities
from vidrl.feedback.simulated_raters import (
    Rater,
    Utility,
    answers,
    ceiling,
    chances,
    choices,
    faulty,
    measures,
    pool,
)
from vidrl.rewards import Samples
from vidrl.synthetic import corruptions, world


def test_chances_by_hand():
    """Temperature 2 halves a gap of ln 16; τ = 0; a lapse of 0.3 mixes in thirds."""
    found = chances(Rater(temperature=2.0, tie=0.0, lapse=0.3), 2 * math.log(4))
    np.testing.assert_allclose(found, 0.7 * np.array([4, 2, 1]) / 7 + 0.1)
    np.testing.assert_allclose(chances(Rater(side=1.0), 0.5), probabilities(1.5, -1.5))


def test_shares_of_answers_are_the_chances():
    rater = Rater(side=0.5, lapse=0.1)
    found = answers(rater, np.full(20_000, 0.8), seed=1)
    shares = [(found == answer).mean() for answer in (1, 0, -1)]
    np.testing.assert_allclose(shares, chances(rater, 0.8), atol=0.015)
    assert (answers(rater, np.full(50, 0.8), 1) == answers(rater, np.full(50, 0.8), 1)).all()


def test_a_drifting_rater_ends_with_the_other_taste():
    found = answers(Rater(drift=1.0, tie=-9.0), np.full(4000, 4.0), 0, np.full(4000, -4.0))
    assert found[:400].mean() > 0.8 and found[-400:].mean() < -0.8


def test_no_prediction_beats_the_ceiling():
    gaps = np.random.default_rng(0).normal(size=5000) * 2
    rater = Rater(temperature=1.5)
    given = answers(rater, gaps, 0)
    decided = given != 0
    right = (np.sign(gaps) == given)[decided].mean()
    assert ceiling(rater, gaps) == pytest.approx(right, abs=0.02)
    assert ceiling(rater, np.zeros(3)) == pytest.approx(0.5)


def test_each_measure_sees_its_own_fault():
    clean = world.render(world.Scene("circle", "red", "left", "slow")).video
    before = {name: curve.mean() for name, curve in measures(clean).items()}
    for name, fault in (
        ("smooth", "shake"),
        ("colour", "desaturate"),
        ("steady", "pop"),
        ("lively", "freeze"),
    ):
        worse = measures(faulty(clean, fault, 0.6, 3))[name].mean()
        assert worse < before[name], f"{fault} left {name} at {worse}"


def test_the_utility_is_the_weighted_sum():
    clip = corruptions.corrupt(world.render(world.Scene("cross", "blue", "up")).video, "shake")
    samples = Samples(clip[None], [""], 8.0)
    one = Utility(1.0, 0.0, 0.0)(samples).frames + 2 * Utility(0.0, 1.0, 0.0)(samples).frames
    torch.testing.assert_close(one, Utility(1.0, 2.0, 0.0)(samples).frames)


def test_a_pool_repeats_by_its_seed_and_choices_fit_its_clips():
    one, other = pool(2, 3, seed=4, size=16), pool(2, 3, seed=4, size=16)
    assert torch.equal(one.video, other.video) and len(one.pairs()) == 6
    curves = {name: torch.linspace(-1, 1, 8) * n for n, name in enumerate(one.names)}
    found = choices(Rater(), curves, one.prompts, one.pairs(), seed=0, segments=4)
    assert all(len(choice.labels) == 4 and choice.prompt for choice in found)
    # the curve of a later clip is lower in the first half and higher in the second
    first = np.array([choice.labels for choice in found])
    assert first[:, 0].sum() > 0 > first[:, -1].sum()
