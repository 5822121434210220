"""Compute times to a target from the evaluations of a run, and ratios of such times.

Pure functions: interpolation, guards, censoring, ratios. Legend: a run is a line of the
ledger; its looks (the evaluations between rounds) are columns of equal length, with one
entry for each look.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import comb, exp, log
from typing import Any, NamedTuple

import numpy as np

from vidrl.inference.means import interval

# each measure must stay at or above this fraction of the base model's value
GUARDS = {"dynamic_degree": 0.95, "verifier": 0.965, "identity": 0.9, "diversity": 0.9}
Run = Mapping[str, Any]


class Time(NamedTuple):
    """What a run used up to the target, or the budget if the run was cut.

    `why` says why the run was cut; it is empty for a run that reached the target.
    """

    value: float
    why: str = ""


class Ratio(NamedTuple):
    """A geometric mean over pairs with its 95 % interval, which is NaN below six pairs.

    `pairs` is the number of pairs, `cut` how many of the arm's runs were cut.
    """

    value: float
    low: float
    high: float
    pairs: int
    cut: int


# One run


def gains(run: Run) -> list[float]:
    """Return the held-out composite of each look less the base model's.

    The list begins with 0, the gain before the first round.

    >>> gains({"base": {"composite": -2.0}, "looks": {"composite": [-1.5, -1.0]}})
    [0.0, 0.5, 1.0]
    """
    start = run["base"]["composite"]
    return [0.0, *(value - start for value in run["looks"].get("composite", []))]


def used(run: Run, axis: str) -> list[float]:
    """Return the use of an axis ("cpu", "calls", "clips") at each look, from 0."""
    return [0.0, *run["looks"].get(axis, [])]


def steady(run: Run, usual: float) -> list[float]:
    """Return the CPU seconds at each look, as on a machine without other load.

    The list begins with 0; `usual` is how many seconds a look takes on a machine without
    other load. Each look is the same work. Where a
    look takes longer than usual, other programs used the machine's cache and cores, and the
    training before the look took longer in proportion.

    >>> steady({"looks": {"cpu": [10.0, 30.0], "look": [8.0, 16.0]}}, 8.0)
    [0.0, 10.0, 20.0]
    """
    found, cpu = [0.0], used(run, "cpu")
    for before, after, look in zip(cpu, cpu[1:], run["looks"].get("look", []), strict=False):
        found.append(found[-1] + (after - before) * usual / look)
    return found


def broken(run: Run, guards: Mapping[str, float] = GUARDS) -> int | None:
    """Return the number of the first look at which a guard fails, or None.

    Look 1 is the first look after training began.

    >>> run = {"base": {"identity": 0.8}, "looks": {"identity": [0.8, 0.7, 0.8]}}
    >>> broken(run, {"identity": 0.9}), broken(run, {"identity": 0.5})
    (2, None)
    """
    count = (
        len(gains(run)) - 1
        if "composite" in run["base"]
        else len(next(iter(run["looks"].values())))
    )
    for i in range(count):
        if any(run["looks"][name][i] < share * run["base"][name] for name, share in guards.items()):
            return i + 1
    return None


def first_at(x: Sequence[float], y: Sequence[float], level: float) -> tuple[float, int] | None:
    """Return where a curve first reaches a level, and the look at or after it.

    The crossing is interpolated linearly between two looks; None where there is no
    crossing.

    >>> first_at([0, 10, 20], [0.0, 0.5, 1.5], 1.0)
    (15.0, 2)
    >>> first_at([0, 10, 20], [0.0, 0.5, 0.7], 1.0)
    """
    for i, value in enumerate(y):
        if value >= level:
            if i == 0:
                return float(x[0]), 0
            share = (level - y[i - 1]) / (value - y[i - 1])
            return float(x[i - 1] + share * (x[i] - x[i - 1])), i
    return None


def time_to(
    run: Run, target: float, x: Sequence[float], limit: float, guards: Mapping[str, float] = GUARDS
) -> Time:
    """Return the time of a run to the target, measured along x.

    A run that does not arrive, or arrives after `limit`, is cut: its time is `limit`. A run
    in which a guard fails at or before the look at which it arrives is cut as well, even if
    the guard holds again later.
    """
    if str(run["ended"]).startswith("failed"):
        return Time(limit, "failed")
    found, bad = first_at(x, gains(run), target), broken(run, guards)
    if found is None or found[0] > limit:
        return Time(limit, "guard" if bad is not None else "budget")
    return Time(limit, "guard") if bad is not None and bad <= found[1] else Time(found[0])


def gain_at(run: Run, amount: float, x: Sequence[float]) -> float:
    """Return the gain after an amount of x, interpolated; NaN where the run ended before.

    >>> run = {"base": {"composite": 0.0}, "looks": {"composite": [1.0, 2.0]}}
    >>> gain_at(run, 15.0, [0, 10, 20]), gain_at(run, 30.0, [0, 10, 20])
    (1.5, nan)
    """
    y = gains(run)
    for i in range(1, len(x)):
        if x[i] >= amount:
            share = (amount - x[i - 1]) / (x[i] - x[i - 1])
            return y[i - 1] + share * (y[i] - y[i - 1])
    return float("nan")


def at_arrival(run: Run, target: float, name: str) -> float:
    """Return a measure, less the base model's, when the target gain is reached.

    The measure is of the first look with at least this gain, and NaN where no look has it.

    >>> run = {
    ...     "base": {"composite": 0.0, "identity": 0.5},
    ...     "looks": {"composite": [1.0, 2.0], "identity": [0.4, 0.6]},
    ... }
    >>> round(at_arrival(run, 1.5, "identity"), 2), at_arrival(run, 3.0, "identity")
    (0.1, nan)
    """
    found = next((i for i, gain in enumerate(gains(run)[1:]) if gain >= target), None)
    return float("nan") if found is None else run["looks"][name][found] - run["base"][name]


def mean_gain(run: Run, amount: float, x: Sequence[float]) -> float:
    """Return the mean gain over x from 0 to an amount.

    A run that ended before the amount keeps its last gain.

    >>> run = {"base": {"composite": 0.0}, "looks": {"composite": [1.0, 2.0]}}
    >>> mean_gain(run, 10.0, [0, 10, 20]), mean_gain(run, 40.0, [0, 10, 20])
    (0.5, 1.5)
    """
    ends = [*(value for value in x if value < amount), amount]
    return float(np.trapezoid(np.interp(ends, x, gains(run)), ends) / amount)


def merit(run: Run, target: float, budget: float) -> float:
    """Return how good a learning rate was, from one run; higher is better.

    The merit is log(budget / time) where the run arrived, else minus the fraction of the
    target that is missing at the end. A broken guard costs 0.5 more.
    """
    time = time_to(run, target, used(run, "cpu"), budget)
    if not time.why:
        return log(budget / max(time.value, 1e-9))
    missing = min(0.0, gains(run)[-1] / target - 1)
    return missing - 0.5 * (time.why != "budget")


# Pairs


def ratios(plain: Mapping[int, Time], arm: Mapping[int, Time]) -> list[float]:
    """Return plain's time over the arm's for each seed that both have.

    A run that was cut counts with the time at which it was cut.

    >>> plain = {0: Time(80.0), 1: Time(100.0, "guard")}
    >>> ratios(plain, {0: Time(20.0), 1: Time(100.0, "failed"), 2: Time(1.0)})
    [4.0, 1.0]
    """
    return [plain[seed].value / arm[seed].value for seed in sorted(plain.keys() & arm.keys())]


def ratio(plain: Mapping[int, Time], arm: Mapping[int, Time]) -> Ratio:
    """Return the geometric mean of `ratios` with its interval."""
    each = ratios(plain, arm)
    cut = sum(bool(arm[seed].why) for seed in plain.keys() & arm.keys())
    if not each:
        return Ratio(float("nan"), float("nan"), float("nan"), 0, 0)
    over = interval([log(value) for value in each], unit="pairs")
    return Ratio(exp(over.mean), exp(over.low), exp(over.high), len(each), cut)


# Best of N


def best_of(values: Sequence[float], n: int, shown: Sequence[float] | None = None) -> float:
    """Return the expected value of the best of n clips, drawn without replacement from all.

    `values` decides which clip is the best. With `shown`, the result is the expectation of
    `shown` for this clip. The clip of rank r among N, counted from the worst, is the best
    one in C(r − 1, n − 1) of the C(N, n) draws.

    >>> [round(best_of([1.0, 2.0, 4.0], n), 4) for n in (1, 2, 3)]
    [2.3333, 3.3333, 4.0]
    """
    order = sorted(range(len(values)), key=values.__getitem__)
    measured = values if shown is None else shown
    # r counts from 0 here, so that the chance of rank r + 1 is C(r, n − 1) / C(N, n)
    chances = [comb(r, n - 1) / comb(len(values), n) for r in range(len(values))]
    return sum(chance * measured[i] for chance, i in zip(chances, order, strict=True))
