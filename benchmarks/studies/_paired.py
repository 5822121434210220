"""Compute statistics of paired runs: times to a target, some censored, from few pairs.

Pure functions that need NumPy only. benchmarks/studies/segments.py uses this module.

Legend: n pairs, one for each seed. A time is the number of samples that a run used to reach
the target; its event says whether the run reached the target. A run that did not is
censored at the number of samples that the run used.
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

# scripts import all statistics from this module
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
    """Return (x, True) where a curve first reaches a target, or (last x, False).

    The crossing is interpolated between the two points around it. A point whose `held` is
    false (a guard failed there) does not count as reached.

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
    """Return the mean of y over x: the area under the curve by its width.

    Example:
        >>> mean_height(np.array([0, 1, 3]), np.array([0.0, 2.0, 2.0]))
        1.6666666666666667
    """
    return float(((y[1:] + y[:-1]) / 2 * np.diff(x)).sum() / (x[-1] - x[0]))


# Censored times


def restricted_mean(time: Array, event: Array, horizon: float) -> Array:
    """Return E min(T, horizon): the area under the Kaplan-Meier curve up to a horizon.

    The times are the last axis of (..., n). Where every run is censored at the horizon
    itself, the result is the plain mean of min(T, horizon). After the last time, if that
    time is censored, the curve stays at its last value.

    Example:
        >>> time, event = np.array([2.0, 4.0, 6.0]), np.array([True, False, True])
        >>> round(float(restricted_mean(time, event, 10.0)), 4)
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
    """Return the first time at which the Kaplan-Meier curve is at most one half.

    The result is infinite where the curve never falls so low.

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
    """Return each event less the pooled Nelson-Aalen hazard at its time.

    These are the Savage scores of censored data: early events have high scores, and the
    scores sum to 0.

    Example:
        >>> logrank_scores(np.array([1.0, 2.0, 2.0]), np.array([True, True, False])).round(4)
        array([ 0.6667,  0.1667, -0.8333])
    """
    steps = [(t, float(e) / (time >= t).sum()) for t, e in zip(time, event, strict=True)]
    hazard = np.array([sum(step for at, step in steps if at <= t) for t in time])
    return np.asarray(event, float) - hazard


# Pairs


def paired_time_p(whole: Sequence[Times], arm: Sequence[Times]) -> float:
    """Return the p value of a paired permutation test of times, by log-rank scores.

    `whole` and `arm` have one entry (times, events) for each stratum. Scores are computed
    within a stratum, and the test sums the differences of scores within pairs. The two runs
    of a pair exchange places in all 2^n combinations. A pair in which both runs are
    censored at the same time has a difference of 0, because nobody knows which run is
    faster. The test is exact where the two runs of a pair are exchangeable and would be
    censored alike.
    """
    differences = []
    for (tw, ew), (ta, ea) in zip(whole, arm, strict=True):
        scores = logrank_scores(np.concatenate([tw, ta]), np.concatenate([ew, ea]))
        differences.append(scores[len(tw) :] - scores[: len(tw)])
    return sign_flip_p(np.concatenate(differences))


def wins(whole: Times, arm: Times) -> tuple[int, int, int]:
    """Count the pairs in which the arm was faster, was slower, and undecided pairs.

    Example:
        >>> yes, no = np.array([True, True, True]), np.array([True, False, False])
        >>> arm = np.array([3.0, 8.0, 9.0]), np.array([True, True, False])
        >>> wins((np.array([5.0, 9.0, 9.0]), no), arm)
        (2, 0, 1)
    """
    (tw, ew), (ta, ea) = whole, arm
    faster = ea & ((ta < tw) | ((ta == tw) & ~ew))
    slower = ew & ((tw < ta) | ((tw == ta) & ~ea))
    return int(faster.sum()), int(slower.sum()), int((~faster & ~slower).sum())


# Intervals


def bootstrap(statistic: Callable[[Array], Array], n: int, draws: int = 10_000) -> Interval:
    """Return a statistic of pairs and its 95 % interval, by a bootstrap over pairs.

    Pairs are drawn with replacement; the interval's ends are the percentiles `expanded_levels`,
    which are wider than 2.5 % and 97.5 % for few pairs. `statistic` takes indices of pairs
    (..., n) and returns (...). Fewer than six pairs have no interval: its ends are NaN. For
    a mean use `mean_difference`, whose interval is studentised.
    """
    value = float(statistic(np.arange(n)))
    if n < LEAST_GROUPS:
        return Interval(value, float("nan"), float("nan"))
    made = statistic(np.random.default_rng(0).integers(0, n, (draws, n)))
    low, high = np.quantile(made, expanded_levels(n))
    return Interval(value, float(low), float(high))


def mean_difference(whole: Array, arm: Array) -> Interval:
    """Return the mean of arm − whole over pairs, with its interval."""
    return Interval(*interval(np.asarray(arm, float) - np.asarray(whole, float))[:3])


def time_ratio(whole: Times, arm: Times, horizon: float, draws: int = 10_000) -> Interval:
    """Return the restricted mean time of `whole` over that of `arm`, with its interval.

    The ratio says how many times fewer samples the arm takes; above 1 the arm is faster.
    Where runs are censored, the ratio is nearer to 1 than the unrestricted ratio.
    """
    return pooled_ratio([((whole, arm), horizon)], draws)


def pooled_ratio(
    strata: Sequence[tuple[tuple[Times, Times], float]], draws: int = 10_000
) -> Interval:
    """Return the geometric mean of the `time_ratio`s of several strata, with its interval.

    A stratum is ((whole, arm), horizon). All strata have the same pairs, which are
    resampled together.
    """

    def ratio(i: Array) -> Array:
        logs = [
            np.log(restricted_mean(w[0][i], w[1][i], end))
            - np.log(restricted_mean(a[0][i], a[1][i], end))
            for (w, a), end in strata
        ]
        return np.exp(np.mean(logs, 0))

    return bootstrap(ratio, len(strata[0][0][0][0]), draws)
