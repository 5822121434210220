"""Means of clips with intervals that hold: clips of one prompt resemble each other, clips are few, values are skewed.

Intervals are a studentised bootstrap over prompts, see `vidrl.bench.resampling`: percentiles of a plain bootstrap are
too narrow for few prompts (arXiv:1411.5279) and for skewed values. Clips are drawn one by one where each has a prompt
of its own, or where all share one. benchmarks/results/bench_coverage.md says how often the intervals hold the truth.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from vidrl.bench.resampling import DRAWS, Alone, Array, Groups, Values, bounds, clusters, ids, rounding, scored
from vidrl.benchmarks._inference import t_quantile

NEAR = 0.02  # of a range: so near to its end a value is saturated
PILED = 0.5  # share of the values at the end of the range that is a pile
NO_LIMITS = (-math.inf, math.inf)


class Interval(NamedTuple):
    """A mean, its interval, over `n` clips of `groups` prompts; NaN where there is none."""

    mean: float
    low: float
    high: float
    n: int
    groups: int


def interval(values: Values, groups: Groups = None, level: float = 0.95, draws: int = DRAWS, seed: int = 0,
             limits: tuple[float, float] = NO_LIMITS) -> Interval:
    """The mean of clips and its interval over their prompts, `groups`; without, every clip is one of its own.

    Values that are None, NaN or infinite are left out; a clip whose group is "" or None has a group of its own. Where
    all clips have one prompt the interval is over its clips alone. `limits` are what a mean can be. NaN: low and high
    of a single value. The order of the clips does not matter, to the last digit. Raises ValueError where values and
    groups are not as many.

    >>> interval([0.5, 0.7, float("nan"), 0.6], ["a cat", "a cat", "a cat", "a dog"])[::3]
    (0.6, 3)
    >>> interval([3.0, 1.0, 2.0])
    Interval(mean=2.0, low=-0.4841..., high=4.4841..., n=3, groups=3)
    """
    known, names = scored(values, groups)
    made = clusters(known, names if len(set(names)) > 1 else range(len(known)))
    low, high = bounds(made.mean, made.variance, [made], level, draws, seed)
    low, high = (min(max(end, limits[0]), limits[1]) if math.isfinite(end) else math.nan for end in (low, high))
    return Interval(made.mean, low, high, len(known), len(set(names)))


def summary(values: Values, groups: Groups = None, least: int = 20,
            range: tuple[float | None, float | None] = NO_LIMITS, level: float = 0.95, draws: int = DRAWS,
            seed: int = 0) -> dict[str, Any]:
    """One dim of one set as results.json has it: mean, interval, counts, spreads, marks and notes; None: not there.

    `enough` is at least `least` scored clips of two prompts. `prompts` counts those that are given. `std` is of clips,
    `within_prompt_std` of clips around their prompt's mean, `within_prompt_share` its share of the variance.

    >>> row = summary([1.0, 0.99, 1.0, None], ["a", "a", "b", "b"], least=3, range=(0, 1))
    >>> row["n"], row["unscored"], row["prompts"], row["enough"], row["saturated"]
    (3, 1, 2, True, True)
    >>> row["notes"]
    ['saturated: 3 of 3 values lie within 0.02 of 1, the end of the range']
    """
    limits = _limits(range)
    known, names = scored(values, groups)
    over = interval(known, names, level, draws, seed, limits)
    inside, share = within(known, names)
    piled = saturation(known, limits)
    return {
        "mean": number(over.mean), "low": number(over.low), "high": number(over.high), "n": over.n,
        "prompts": len({name for name in names if not isinstance(name, Alone)}), "unscored": len(values) - over.n,
        "std": number(_std(known)), "within_prompt_std": number(inside), "within_prompt_share": number(share),
        "enough": over.n >= least and over.groups > 1, "saturated": bool(piled),
        "notes": [*_few(over, least), *piled, *_flat(known)],
    }


def within(values: Values, groups: Groups) -> tuple[float, float]:
    """Pooled std of clips around their prompt's mean, and the share of the clips' variance that it is, at most 1.

    √(Σ_g Σ (x − mean_g)² / (n − G)) over the prompts with two clips or more; NaN where there is none.

    >>> within([1.0, 3.0, 11.0, 13.0], "aabb")
    (1.4142135623730951, 0.0576...)
    """
    known, names = scored(values, groups)
    rows = ids(names)
    means = np.bincount(rows, known) / np.bincount(rows) if len(known) else known
    free = len(known) - len(means)
    if free == 0:
        return math.nan, math.nan
    variance, whole = float(((known - means[rows]) ** 2).sum() / free), float(known.var(ddof=1))
    return math.sqrt(variance), min(1.0, variance / whole) if whole > 0 else math.nan


def saturation(values: Values, limits: tuple[float | None, float | None]) -> list[str]:
    """A note for each end of the range that the values pile up at: they cannot tell good clips from better ones.

    Half of the values within 2 % of the range of its end, or a mean so near with a std of no more. A range from 0 is a
    scale, and counts whole; the lower end of a penalty is one that no clip comes near, and 1 of it counts at most.
    Where the other side is open there is no scale, and only values that are the end itself count.

    >>> saturation([0.99, 0.995, 0.98, 0.5], (0, 1))
    ['saturated: 3 of 4 values lie within 0.02 of 1, the end of the range']
    >>> saturation([0.9, 0.8, 0.7], (0, 1)), saturation([0.0, 0.0, -3.0], (None, 0.0))
    ([], ['saturated: 2 of 3 values are 0, the end of the range'])
    >>> saturation([-0.1, -0.2], (-20, 0)), saturation([99.0, 98.5], (0, 100))
    ([], ['saturated: 2 of 2 values lie within 2 of 100, the end of the range'])
    """
    known, (low, high) = scored(values, None)[0], _limits(limits)
    if not len(known):
        return []
    scale = high - low if low == 0 else min(high - low, 1.0)
    reach = NEAR * scale if math.isfinite(high - low) else 0.0
    return [note for end in (low, high) if math.isfinite(end) for note in _piled(known, end, reach)]


def effect(first: Values, second: Values) -> float:
    """Hedges' g: the difference of the means by the pooled std of the clips, times 1 − 3 / (4 (n1 + n2) − 9).

    The unit is the spread among clips, so that paired and unpaired sets, and dims, can be compared. NaN without spread.
    Source: Hedges 1981, doi:10.3102/10769986006002107.

    >>> round(effect([1.0, 2.0, 3.0], [2.0, 3.0, 4.0]), 6)  # one std apart, times 0.8
    0.8
    """
    a, b = (scored(values, None)[0] for values in (first, second))
    if len(a) < 2 or len(b) < 2:
        return math.nan
    pooled = math.sqrt(((len(a) - 1) * a.var(ddof=1) + (len(b) - 1) * b.var(ddof=1)) / (len(a) + len(b) - 2))
    small = 1 - 3 / (4 * (len(a) + len(b)) - 9)
    return float(small * (b.mean() - a.mean()) / pooled) if pooled > rounding(np.concatenate([a, b])) else math.nan


def share(values: Values, groups: Groups = None) -> Interval:
    """The mean of values in [0, 1], as of wins with ties half, and its 95 % interval, which also holds at 0 and 1.

    Wilson's interval of a proportion, with Student's t and as many independent values as the clusters' variance leaves
    (Dean and Pavlou 2015, doi:10.1002/sim.6474); where all agree, as many as there are groups.

    >>> [round(x, 3) for x in share([1.0] * 10)[:3]]
    [1.0, 0.661, 1.0]
    """
    known, names = scored(values, groups)
    made, G = clusters(known, names), len(set(names))
    if G < 2:
        return Interval(made.mean, math.nan, math.nan, len(known), G)
    p, variance = made.mean, made.variance
    n = min(p * (1 - p) / variance, len(known)) if variance > 1e-18 and 0 < p < 1 else G
    t2 = t_quantile(G - 1) ** 2
    centre = (p + t2 / (2 * n)) / (1 + t2 / n)
    half = math.sqrt(t2 * (p * (1 - p) / n + t2 / (4 * n * n))) / (1 + t2 / n)
    return Interval(p, max(0.0, centre - half), min(1.0, centre + half), len(known), G)


def _limits(range: tuple[float | None, float | None]) -> tuple[float, float]:
    low, high = range
    return -math.inf if low is None else float(low), math.inf if high is None else float(high)


def _few(over: Interval, least: int) -> list[str]:
    notes = [f"fewer than {least} clips: {over.n}"] if over.n < least else []
    alone = over.groups == 1 and over.n > 1
    return notes + ["one prompt: the interval is over its clips, and says nothing of other prompts"] * alone


def _piled(known: Array, end: float, reach: float) -> list[str]:
    near = int((np.abs(known - end) <= reach + 1e-12 * max(1.0, abs(end))).sum())
    tight = reach > 0 and abs(float(known.mean()) - end) <= reach and float(known.std()) <= reach
    if near < PILED * len(known) and not tight:
        return []
    where = f"lie within {reach:.3g} of" if reach else "are"
    return [f"saturated: {near} of {len(known)} values {where} {end:.3g}, the end of the range"]


def _flat(known: Array) -> list[str]:
    flat = len(known) > 1 and float(np.ptp(known)) <= rounding(known)
    return [f"all {len(known)} values are equal: the interval has no width, and says nothing"] if flat else []


def _std(known: Array) -> float:
    return float(known.std(ddof=1)) if len(known) > 1 else math.nan


def number(x: float) -> float | None:
    """A plain number for JSON; None for NaN and infinity."""
    return float(x) if math.isfinite(x) else None
