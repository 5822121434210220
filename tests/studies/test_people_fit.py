"""The study of fits to simulated raters: its rule of pairs, and how it counts saved labels."""

import importlib
import itertools
import json
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


def test_the_rule_of_label_is_that_of_the_page_and_asks_no_pair_twice(study):
    pairs = study._pairs(np.arange(3))
    here = study.World(np.zeros((24, 1)), np.zeros(24), pairs, pairs)
    given, asked = np.where(np.arange(84) % 3, 1, -1), list(range(0, 80, 4))
    picker = study._Picker(here, given, asked, seed=5)
    twin = study.random.Random(5)
    for _ in range(30):
        past = list(picker.past)
        expected = picker.rule.pick("rater", past, (), twin)
        asked.append(picker.pick())
        assert tuple(pairs[asked[-1]]) == expected.item
        assert picker.past[-1].choice == given[asked[-1]]
    assert len(set(asked)) == 50 and study.SHARES.random == study.Shares().random
    assert {one.reason for one in picker.past} == {"random", "informative"}


def test_the_page_has_a_column_for_each_rule_and_names_its_commit(study, tmp_path):
    draw, rows = np.random.default_rng(0), []
    for taste, rater, rule, seed, labels in itertools.product(
        study.TASTES, study.RATERS, study.RULES, range(6), study.SIZES
    ):
        value = 0.6 + labels / 2e4 + 0.01 * draw.random() + 0.02 * (rule == "label")
        about = {"taste": taste, "rater": rater, "rule": rule, "seed": seed, "labels": labels}
        rows.append(json.dumps(about | {"accuracy": value, "ceiling": 0.8}))
    (tmp_path / "agreement.jsonl").write_text("\n".join(rows))
    study.page(tmp_path, tmp_path, "abc123")
    text = (tmp_path / "people_fit.md").read_text()
    assert "page --commit abc123`" in text and "6 seeds, 0 to 5" in text
    assert "| labels | random | label | gain | features | gain | ceiling |" in text
    assert '- "label": without the first row' in text and "due to the features" in text
    assert (tmp_path / "people_fit.svg").read_text().count(">label<") == 4


def test_the_rule_of_features_asks_along_the_unknown_direction(study):
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
