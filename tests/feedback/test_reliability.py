"""Agreement of raters against published examples, and against each other."""

import math

import numpy as np
import pytest

from vidrl.feedback.reliability import cohen, fleiss, krippendorff

# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", example C: 4 observers, 12 units.
TABLE = [
    "1 2 3 3 2 1 4 1 2 * * *",
    "1 2 3 3 2 2 4 1 2 5 * 3",
    "* 3 3 3 2 3 4 2 2 5 1 *",
    "1 2 3 3 2 4 4 1 2 5 1 *",
]
ROWS = [row.split() for row in TABLE]
UNITS = [{f"r{i}": float(row[u]) for i, row in enumerate(ROWS) if row[u] != "*"} for u in range(12)]


@pytest.mark.parametrize(
    "level, published", [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)]
)
def test_alpha_is_that_of_krippendorffs_example(level, published):
    found = krippendorff(UNITS, level)
    assert found.value == pytest.approx(published, abs=5e-4)
    assert found.units == 11, "the last unit has one answer"
    assert found.low < found.value <= found.high <= 1


def test_fleiss_kappa_is_that_of_the_worked_example_with_fourteen_raters():
    table = """0 0 0 0 14; 0 2 6 4 2; 0 0 3 5 6; 0 3 9 2 0; 2 2 8 1 1; 7 7 0 0 0; 3 2 6 3 0
        2 5 3 2 2; 6 5 2 1 0; 0 2 2 3 7"""
    rows = [list(map(int, row.split())) for row in table.replace("\n", ";").split(";")]
    assert fleiss(rows) == pytest.approx(0.210, abs=5e-4)
    with pytest.raises(ValueError, match="same number of answers"):
        fleiss([[2, 0], [1, 0]])


def test_alpha_of_two_complete_raters_is_scotts_pi_with_its_correction_for_few_units():
    draw = np.random.default_rng(0)
    a, b = draw.integers(0, 3, (2, 40))
    found = krippendorff([{"a": x, "b": y} for x, y in zip(a, b, strict=True)]).value
    pi = fleiss([[int(a[u] == v) + int(b[u] == v) for v in range(3)] for u in range(40)])
    assert found == pytest.approx(pi + (1 - pi) / 80)


def test_alpha_is_one_for_equal_answers_and_near_zero_for_random_ones():
    same = [{"a": u % 3, "b": u % 3} for u in range(9)]
    assert krippendorff(same).value == 1.0 and cohen([0, 1, 0], [0, 1, 0]) == 1.0
    draw = np.random.default_rng(1).integers(0, 2, (400, 2))
    chance = krippendorff([dict(zip("ab", row, strict=True)) for row in draw])
    assert abs(chance.value) < 0.1 and chance.low < 0 < chance.high


def test_units_of_one_group_widen_the_interval():
    draw = np.random.default_rng(2).integers(0, 2, 12)
    noise = np.random.default_rng(3).random((12, 10)) < 0.3
    units = [{"a": draw[g], "b": draw[g] ^ int(noise[g, 0])} for g in range(12) for _ in range(10)]
    alone = krippendorff(units)
    grouped = krippendorff(units, groups=[f"p{g}" for g in range(12) for _ in range(10)])
    assert alone.value == grouped.value
    assert grouped.high - grouped.low > 2 * (alone.high - alone.low)


@pytest.mark.parametrize(
    "answers, why",
    [
        ([], "there is one rater"),
        ([{"a": 1}, {"a": 0}], "there is one rater"),
        ([{"a": 1}, {"b": 0}], "no two raters judged the same unit"),
        ([{"a": 0, "b": 0}] * 3, "all answers are the same value"),
    ],
)
def test_what_is_not_defined_is_nan_with_its_reason(answers, why):
    found = krippendorff(answers)
    assert math.isnan(found.value) and found.why == why


def test_kappa_without_variation_is_nan():
    assert math.isnan(cohen([0, 0], [0, 0])) and math.isnan(cohen([], []))
    assert math.isnan(fleiss([[2, 0], [2, 0]]))
