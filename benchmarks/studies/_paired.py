"""Statistics of paired runs: times to a target, some censored; few pairs. Pure functions,
NumPy only.

Legend: n pairs (one a seed); a time is how many samples a run took to the target, its event
whether it got there; a run that did not is censored at the samples that it had.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import NamedTuple

import numpy as np

from vidrl.inference.families import holm
from vidrl.inference.flips import sign_flip_p
from vidrl.inference.means import LEAST_GROUPS, interval
from vidrl.inference.student import expanded_levels, t_quantile

# scripts ask here for all of it
__all__ = ["bootstrap", "expanded_levels", "holm", "sign_flip_p", "t_quantile"]

Array = np.ndarray
Times = tuple[Array, Array]  # (n,) each: times, and whether the run got there


class Interval(NamedTuple):
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float


# Curves


def first_crossing(
    x: Array, y: Array, target: float, held: Array | None = None
) -> tuple[float, bool]:
    """Where a curve first reaches a target, interpolated between its points: (x, True), or
    (last x, False).

    A point whose `held` is false (a guard was broken there) does not count as reached.

    Example:
        >>> first_crossing(np.array([0, 10, 20]), np.array([0.0, 1.0, 3.0]), 2.0)
        (15.0, True)
        >>> first_crossing(np.array([0, 10, 20]), np.array([0.0, 1.0, 3.0]), 4.0)
        (20.0, False)
    """
    reached = (y >= target) & (np.ones(len(y), bool) if held is None else held)
    if not reached.any():
        return float(x[-1]), False
    i = int(reached.argmax())
    if i == 0 or y[i - 1] >= target:  # reached before, with a guard broken: no line to walk along
        return float(x[i]), True
    return float(x[i - 1] + (x[i] - x[i - 1]) * (target - y[i - 1]) / (y[i] - y[i - 1])), True


def mean_height(x: Array, y: Array) -> float:
    """Area under a curve by its width: the mean of y over x, trapezoids.

    Example:
        >>> mean_height(np.array([0, 1, 3]), np.array([0.0, 2.0, 2.0]))
        1.6666666666666667
    """
    return float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum() / (x[-1] - x[0]))


# Censored times


def restricted_mean(time: Array, event: Array, horizon: float) -> Array:
    """Area under the Kaplan-Meier curve to a horizon, over the last axis of (..., n): E
    min(T, horizon).

    Where every run is censored at the horizon itself, that is the plain mean of min(T,
    horizon). After the last time, if censored, the curve stays.

    Example:
        >>> round(float(restricted_mean(np.array([2.0, 4.0, 6.0]), np.array([True, False, True]), 10.0)), 4)
        4.6667
    """
    time, event = np.minimum(time, horizon), np.asarray(event) & (time <= horizon)
    order = np.lexsort((~event, time))  # at equal times events come before what is censored
    t, e = np.take_along_axis(time, order, -1), np.take_along_axis(event, order, -1)
    at_risk = np.arange(t.shape[-1], 0, -1)
    survival = np.cumprod(1 - e / at_risk, -1)
    last = np.full_like(t[..., :1], horizon, dtype=float)
    widths = np.diff(np.concatenate([t, last], -1), axis=-1)
    return t[..., 0] + (survival * widths).sum(-1)


def median_time(time: Array, event: Array) -> float:
    """The first time at which the Kaplan-Meier curve is at one half or below; infinite
    where it never is.

    Example:
        >>> median_time(np.array([1.0, 2.0, 3.0, 3.0]), np.array([True, True, False, False]))
        2.0
        >>> median_time(np.array([1.0, 2.0, 3.0]), np.array([True, False, False]))
        inf
    """
    survival, left = 1.0, len(time)
    for t, e in sorted(zip(time, event, strict=True), key=lambda pair: (pair[0], not pair[1])):
        survival *= 1 - bool(e) / left
        left -= 1
        if survival <= 0.5 + 1e-12:
            return float(t)
    return inf


def logrank_scores(time: Array, event: Array) -> Array:
    """Event less the pooled Nelson-Aalen hazard at each time (Savage scores of censored
    data): early is high, sum 0.

    Example:
        >>> logrank_scores(np.array([1.0, 2.0, 2.0]), np.array([True, True, False])).round(4)
        array([ 0.6667,  0.1667, -0.8333])
    """
    steps = [(t, float(e) / (time >= t).sum()) for t, e in zip(time, event, strict=True)]
    hazard = np.array([sum(step for at, step in steps if at <= t) for t in time])
    return np.asarray(event, float) - hazard


# Pairs


def paired_time_p(whole: Sequence[Times], arm: Sequence[Times]) -> float:
    """Paired test of (times, events), a pair of them a stratum: log-rank scores within a
    stratum, pairs' differences.

    The two runs of a pair change places in every way. Two that are both censored at the
    same place differ by 0: they say nothing about which is faster. Exact where the runs of
    a pair are exchangeable and would be censored alike.
    """
    differences = []
    for (tw, ew), (ta, ea) in zip(whole, arm, strict=True):
        scores = logrank_scores(np.concatenate([tw, ta]), np.concatenate([ew, ea]))
        differences.append(scores[len(tw) :] - scores[: len(tw)])
    return sign_flip_p(np.concatenate(differences))


def wins(whole: Times, arm: Times) -> tuple[int, int, int]:
    """Pairs in which the arm was faster, slower, and in which nobody can tell.

    Example:
        >>> yes, no = np.array([True, True, True]), np.array([True, False, False])
        >>> wins((np.array([5.0, 9.0, 9.0]), no), (np.array([3.0, 8.0, 9.0]), np.array([True, True, False])))
        (2, 0, 1)
    """
    (tw, ew), (ta, ea) = whole, arm
    faster = ea & ((ta < tw) | ((ta == tw) & ~ew))
    slower = ew & ((tw < ta) | ((tw == ta) & ~ea))
    return int(faster.sum()), int(slower.sum()), int((~faster & ~slower).sum())


# Intervals


def bootstrap(statistic: Callable[[Array], Array], n: int, draws: int = 10_000) -> Interval:
    """A statistic of pairs and its 95 % interval: whole pairs are drawn with replacement,
    percentiles `expanded_levels`.

    `statistic` takes indices of pairs (..., n) and gives (...). Fewer than six pairs have
    no interval: NaN. For a mean use `mean_difference`, whose interval is studentised.
    """
    value = float(statistic(np.arange(n)))
    if n < LEAST_GROUPS:
        return Interval(value, float("nan"), float("nan"))
    made = statistic(np.random.default_rng(0).integers(0, n, (draws, n)))
    low, high = np.quantile(made, expanded_levels(n))
    return Interval(value, float(low), float(high))


def mean_difference(whole: Array, arm: Array) -> Interval:
    """Mean of arm − whole over pairs."""
    return Interval(*interval(np.asarray(arm, float) - np.asarray(whole, float))[:3])


def time_ratio(whole: Times, arm: Times, horizon: float, draws: int = 10_000) -> Interval:
    """Restricted mean time of whole / arm: how many times fewer samples the arm takes.
    Above 1 is in the arm's favour.

    Where runs are censored the ratio is nearer to 1 than the unrestricted one.
    """
    return pooled_ratio([((whole, arm), horizon)], draws)


def pooled_ratio(
    strata: Sequence[tuple[tuple[Times, Times], float]], draws: int = 10_000
) -> Interval:
    """Geometric mean of the strata's `time_ratio`s; a stratum is ((whole, arm), horizon),
    all with the same pairs."""

    def ratio(i: Array) -> Array:
        logs = [
            np.log(restricted_mean(w[0][i], w[1][i], end))
            - np.log(restricted_mean(a[0][i], a[1][i], end))
            for (w, a), end in strata
        ]
        return np.exp(np.mean(logs, 0))

    return bootstrap(ratio, len(strata[0][0][0][0]), draws)
