"""The study of fits to simulated raters: its rule of pairs, and how it counts saved labels."""

import importlib
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from vidrl.feedback.simulated_raters import Rater

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "studies"))


@pytest.fixture(scope="module")
def study():
    return importlib.import_module("people_fit")


def test_the_active_rule_asks_along_the_unknown_direction(study):
    """20 answers on pairs that differ in the first feature only: the second is unknown."""
    z = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    pairs = np.array([(1, 0)] * 25 + [(2, 0)] * 5)
    here = study.World(z, z.sum(1), pairs, pairs)
    given = np.where(np.arange(30) % 3, 1, -1)
    chosen = study._informative(here, given, list(range(20)), 3, np.random.default_rng(0))
    assert set(chosen) < set(range(25, 30)) and len(set(chosen)) == 3


def test_saved_labels_are_read_between_the_sizes_on_a_logarithmic_axis(study):
    curve = [(20, 0.5), (80, 0.6), (160, 0.6)]
    assert study._reached(curve, 0.55) == pytest.approx(math.sqrt(20 * 80))
    assert study._reached(curve, 0.4) == 20 and study._reached(curve, 0.7) is None


def test_the_accuracy_is_that_of_the_raters_decided_answers(study):
    """One pair with P(first) = 4/7, P(second) = 1/7, and one without a difference."""
    rater, truth = Rater(tie=0.0), np.array([math.log(4), 0.0])
    right = study._accuracy(rater, truth, np.array([1.0, 1.0]))
    assert right == pytest.approx((4 / 7 + 1 / 3) / (5 / 7 + 2 / 3))
    assert study._accuracy(rater, truth, -np.array([1.0, 1.0])) == pytest.approx(1 - right)


def test_training_and_test_prompts_have_no_clip_in_common(study):
    order = np.random.default_rng(0).permutation(4)
    train, test = study._pairs(order[:3]), study._pairs(order[3:])
    assert len(train) == 3 * 28 and not set(train.ravel()) & set(test.ravel())
