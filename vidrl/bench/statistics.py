"""One dim of one set as results.json has it: its mean and interval, its spreads, its marks
and notes.

benchmarks/results/bench/bench_coverage.md says how often the intervals hold the truth.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from vidrl.inference.clusters import Alone, Array, Groups, Values, ids, rounding, scored
from vidrl.inference.components import components
from vidrl.inference.effects import effect
from vidrl.inference.means import NO_LIMITS, Interval, heavy, interval
from vidrl.inference.resampling import DRAWS
from vidrl.inference.shares import share

__all__ = [
    "Interval",
    "finite_ends",
    "effect",
    "interval",
    "json_number",
    "saturation",
    "share",
    "summary",
    "as_limits",
    "within_prompt_spread",
]

END_DISTANCE = 0.02  # of a range: so near to its end a value is saturated
SATURATED_SHARE = 0.5  # share of the values at the end of the range that is a pile


def summary(
    values: Values,
    groups: Groups = None,
    least: int = 20,
    range: tuple[float | None, float | None] = NO_LIMITS,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """One dim of one set as results.json has it: mean, interval, counts, spreads, marks and
    notes; None: not there.

    `enough` is at least `least` scored clips of two prompts. `prompts` counts those that
    are given. `std` is of clips, `within_prompt_std` of clips around their prompt's mean,
    `within_prompt_share` its share of the variance. `between_prompt_std` is of the prompts'
    true means: more prompts lower the error that it makes, more seeds do not.

    >>> row = summary([1.0, 0.99, 1.0, None], ["a", "a", "b", "b"], least=3, range=(0, 1))
    >>> row["n"], row["unscored"], row["prompts"], row["enough"], row["saturated"]
    (3, 1, 2, True, True)
    >>> row["notes"][1]
    'an interval needs 6 prompts, and there are 2'
    """
    limits = as_limits(range)
    known, names = scored(values, groups)
    over = interval(known, names, level, draws, seed, limits)
    low, high = finite_ends(over)
    inside, share = within_prompt_spread(known, names)
    piled = saturation(known, limits)
    return {
        "mean": json_number(over.mean),
        "low": low,
        "high": high,
        "n": over.n,
        "prompts": len({name for name in names if not isinstance(name, Alone)}),
        "unscored": len(values) - over.n,
        "std": json_number(_std(known)),
        "within_prompt_std": json_number(inside),
        "within_prompt_share": json_number(share),
        "between_prompt_std": json_number(math.sqrt(components(known, names).between)),
        "enough": over.n >= least and over.groups > 1,
        "saturated": bool(piled),
        "notes": [
            *_small_sample_notes(over, least),
            *piled,
            *_equal_note(known),
            *[over.note] * bool(over.note),
            *heavy(known, names),
        ],
    }


def within_prompt_spread(values: Values, groups: Groups) -> tuple[float, float]:
    """Pooled std of clips around their prompt's mean, and the share of the clips' variance
    that it is, at most 1.

    √(Σ_g Σ (x − mean_g)² / (n − G)) over the prompts with two clips or more; NaN where
    there is none.

    >>> within_prompt_spread([1.0, 3.0, 11.0, 13.0], "aabb")
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
    """A note for each end of the range that the values pile up at: they cannot tell good
    clips from better ones.

    Half of the values within 2 % of the range of its end, or a mean so near with a std of
    no more. A range from 0 is a scale, and counts whole; the lower end of a penalty is one
    that no clip comes near, and 1 of it counts at most. Where the other side is open there
    is no scale, and only values that are the end itself count.

    >>> saturation([0.99, 0.995, 0.98, 0.5], (0, 1))
    ['saturated: 3 of 4 values lie within 0.02 of 1, the end of the range']
    >>> saturation([0.9, 0.8, 0.7], (0, 1)), saturation([0.0, 0.0, -3.0], (None, 0.0))
    ([], ['saturated: 2 of 3 values are 0, the end of the range'])
    >>> saturation([-0.1, -0.2], (-20, 0)), saturation([99.0, 98.5], (0, 100))
    ([], ['saturated: 2 of 2 values lie within 2 of 100, the end of the range'])
    """
    known, (low, high) = scored(values, None)[0], as_limits(limits)
    if not len(known):
        return []
    scale = high - low if low == 0 else min(high - low, 1.0)
    reach = END_DISTANCE * scale if math.isfinite(high - low) else 0.0
    return [
        note
        for end in (low, high)
        if math.isfinite(end)
        for note in _saturation_note(known, end, reach)
    ]


def as_limits(range: tuple[float | None, float | None]) -> tuple[float, float]:
    """A dim's range with infinity where it is open.

    >>> as_limits((None, 0.0))
    (-inf, 0.0)
    """
    low, high = range
    return -math.inf if low is None else float(low), math.inf if high is None else float(high)


def _small_sample_notes(over: Interval, least: int) -> list[str]:
    notes = [f"fewer than {least} clips: {over.n}"] if over.n < least else []
    alone = over.groups == 1 and over.n > 1
    return (
        notes
        + ["one prompt: the interval is over its clips, and says nothing of other prompts"] * alone
    )


def _saturation_note(known: Array, end: float, reach: float) -> list[str]:
    near = int((np.abs(known - end) <= reach + 1e-12 * max(1.0, abs(end))).sum())
    tight = reach > 0 and abs(float(known.mean()) - end) <= reach and float(known.std()) <= reach
    if near < SATURATED_SHARE * len(known) and not tight:
        return []
    where = f"lie within {reach:.3g} of" if reach else "are"
    return [f"saturated: {near} of {len(known)} values {where} {end:.3g}, the end of the range"]


def _equal_note(known: Array) -> list[str]:
    flat = len(known) > 1 and float(np.ptp(known)) <= rounding(known)
    return [f"all {len(known)} values are equal"] if flat else []


def _std(known: Array) -> float:
    return float(known.std(ddof=1)) if len(known) > 1 else math.nan


def finite_ends(over: Interval) -> tuple[float | None, float | None]:
    """Both ends of an interval; None twice where it has none, or is open on a side: half an
    interval misleads."""
    known = math.isfinite(over.low) and math.isfinite(over.high)
    return (float(over.low), float(over.high)) if known else (None, None)


def json_number(x: float) -> float | None:
    """A plain number for JSON; None for NaN and infinity."""
    return float(x) if math.isfinite(x) else None
