"""Measure how far raters agree beyond chance: Krippendorff's alpha, Cohen's and Fleiss' kappa.

Legend: U units (pairs or clips that are judged), V different values, n_u answers of unit u.
A unit with one answer says nothing on agreement, and is left out.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

Array = np.ndarray
Answers = Sequence[Mapping[Hashable, float]]  # of each unit: rater to value
LEVELS = ("nominal", "ordinal", "interval")
DRAWS = 2_000


class Agreement(NamedTuple):
    """A coefficient with its 95 % interval; NaN with a reason where it is not defined."""

    value: float
    low: float = math.nan
    high: float = math.nan
    units: int = 0  # with two answers or more
    why: str = ""


def krippendorff(
    answers: Answers,
    level: str = "nominal",
    groups: Sequence[Hashable] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Agreement:
    """Return Krippendorff's alpha, 1 − D_o / D_e, with a bootstrap interval over groups of units.

    D_o is the mean squared difference δ² of two answers on one unit, D_e that of any two
    answers. δ² is 0 or 1 (nominal), (a − b)² (interval), or the squared number of answers
    between both values, each value's own counted half (ordinal). Raters may miss units. 1 is
    full agreement, 0 that of chance, below 0 worse than chance. `groups` are resampled as wholes,
    each unit by itself if None. Source: Krippendorff 2011, "Computing Krippendorff's
    Alpha-Reliability", whose example C is a test. NaN with the reason for fewer than two
    raters or values. Raises ValueError for an unknown level.

    >>> krippendorff([{"x": 1, "y": 1}, {"x": 2, "y": 2}, {"x": 1, "y": 2}]).value.__round__(3)
    0.444
    """
    if level not in LEVELS:
        raise ValueError(f"expected a level of {', '.join(LEVELS)}, got {level!r}")
    kept = [i for i, unit in enumerate(answers) if len(unit) > 1]
    if not kept:
        raters = {rater for unit in answers for rater in unit}
        few = "there is one rater" if len(raters) < 2 else "no two raters judged the same unit"
        return Agreement(math.nan, why=few)
    values = sorted({value for i in kept for value in answers[i].values()})
    if len(values) < 2:
        return Agreement(math.nan, units=len(kept), why="all answers are the same value")
    pairs = _coincidences([list(answers[i].values()) for i in kept], values)
    clusters = _clusters(kept, groups)
    summed = np.zeros((clusters.max() + 1, pairs.shape[1]))
    np.add.at(summed, clusters, pairs)
    value = float(_alpha(summed.sum(0)[None], values, level)[0])
    if len(summed) < 2:
        return Agreement(value, units=len(kept), why="an interval needs two groups of units")
    drawn = np.random.default_rng(seed).multinomial(
        len(summed), [1 / len(summed)] * len(summed), size=draws
    )
    spread = _alpha(drawn @ summed, values, level)
    low, high = (
        np.nanpercentile(spread, [2.5, 97.5]) if np.isfinite(spread).any() else (math.nan,) * 2
    )
    return Agreement(value, float(low), float(high), len(kept))


def cohen(first: Sequence[Hashable], second: Sequence[Hashable]) -> float:
    """Return Cohen's kappa of two raters, (p_o − p_e) / (1 − p_e), who judged the same units.

    p_o is the share of equal answers, p_e that of chance, from each rater's own shares.
    NaN without units, and where both always give one and the same answer. Source: Cohen
    1960, doi:10.1177/001316446002000104.

    >>> yes_no = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
    >>> round(cohen(*zip(*yes_no)), 3)
    0.4
    """
    if len(first) != len(second):
        raise ValueError(f"expected equally many answers, got {len(first)} and {len(second)}")
    n = len(first)
    same = sum(a == b for a, b in zip(first, second, strict=True))
    chance = sum(list(first).count(v) * list(second).count(v) for v in set(first) | set(second))
    expected = chance / n**2 if n else 1.0
    return (same / n - expected) / (1 - expected) if expected < 1 else math.nan


def fleiss(counts: Sequence[Sequence[int]]) -> float:
    """Return Fleiss' kappa; `counts` (U, V) says how many raters gave each value to each unit.

    Every unit has the same number n of answers. P_u = (Σ_v c² − n) / (n (n − 1)) is the
    agreement of a unit, P_e = Σ_v p_v² that of chance. NaN where all answers are one value.
    Raises ValueError for units with different numbers of answers, or fewer than two. Source: Fleiss
    1971, doi:10.1037/h0031619.

    >>> fleiss([[2, 0], [0, 2]])
    1.0
    """
    table = np.asarray(counts, float)
    n = table.sum(1) if table.ndim == 2 and len(table) else np.zeros(1)
    if n.min() < 2 or n.min() != n.max():
        raise ValueError("expected units with the same number of answers, at least two")
    chance = float(((table.sum(0) / table.sum()) ** 2).sum())
    agreement = float((((table**2).sum(1) - n) / (n * (n - 1))).mean())
    return (agreement - chance) / (1 - chance) if chance < 1 else math.nan


def _coincidences(units: Sequence[Sequence[float]], values: Sequence[float]) -> Array:
    """Return the coincidences of each unit, (U, V²): pairs of answers, each weighing 1/(n − 1)."""
    place = {value: i for i, value in enumerate(values)}
    found = np.zeros((len(units), len(values), len(values)))
    for matrix, unit in zip(found, units, strict=True):
        count = np.bincount([place[value] for value in unit], minlength=len(values)).astype(float)
        matrix += (np.outer(count, count) - np.diag(count)) / (len(unit) - 1)
    return found.reshape(len(units), -1)


def _alpha(coincidences: Array, values: Sequence[float], level: str) -> Array:
    """Return alpha of each row of summed coincidences (K, V²); NaN where all answers are equal."""
    V = len(values)
    o = coincidences.reshape(-1, V, V)
    n_v = o.sum(2)
    n = n_v.sum(1)
    expected = n_v[:, :, None] * n_v[:, None, :] - np.einsum("kv,vw->kvw", n_v, np.eye(V))
    distance = _distances(n_v, np.asarray(values, float), level)
    with np.errstate(invalid="ignore", divide="ignore"):
        observed, chance = (o * distance).sum((1, 2)), (expected * distance).sum((1, 2)) / (n - 1)
        return np.where(chance > 0, 1 - observed / chance, np.nan)


def _distances(n_v: Array, values: Array, level: str) -> Array:
    """Return δ² between the values, (1 or K, V, V); ordinal distances depend on the counts n_v."""
    if level == "nominal":
        return 1.0 - np.eye(len(values))[None]
    if level == "interval":
        return ((values[:, None] - values[None, :]) ** 2)[None]
    middle = np.cumsum(n_v, 1) - n_v / 2
    return (middle[:, :, None] - middle[:, None, :]) ** 2


def _clusters(kept: Sequence[int], groups: Sequence[Hashable] | None) -> Array:
    """Return the number of the group of each unit; a unit without a group is one by itself."""
    names = [i if groups is None or groups[i] in ("", None) else ("group", groups[i]) for i in kept]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names])
