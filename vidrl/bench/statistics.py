"""Summarise one dim of one set as results.json has it: mean, interval, spread and notes.

How often such intervals contain the truth was simulated:
benchmarks/results/bench_coverage.md.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from vidrl.inference.clusters import (
    Array,
    Groups,
    SingleClip,
    Values,
    finite_values,
    group_numbers,
    rounding_error,
)
from vidrl.inference.components import components
from vidrl.inference.effects import hedges_g
from vidrl.inference.means import NO_LIMITS, Interval, dominant_group_notes, interval
from vidrl.inference.proportions import proportion_interval
from vidrl.inference.resampling import DRAWS

__all__ = [
    "Interval",
    "finite_ends",
    "hedges_g",
    "interval",
    "json_number",
    "saturation",
    "proportion_interval",
    "summary",
    "as_limits",
    "within_prompt_spread",
]

END_DISTANCE = 0.02  # part of the range: a value this near to its end counts as at the end
SATURATED_SHARE = 0.5  # a dim is saturated if this share of its values is at an end


def summary(
    values: Values,
    groups: Groups = None,
    least: int = 20,
    range: tuple[float | None, float | None] = NO_LIMITS,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the summary of one dim of one set; None for a number that cannot be given.

    The interval comes from a bootstrap that resamples whole groups (prompts), not clips:
    clips of one prompt resemble each other, so they are not independent observations.
    `draws` is the number of resamples and `level` the interval's. The row has:

    - `mean`, `low`, `high`: the mean over clips and its interval; `n`: scored clips;
      `prompts`: their known prompts; `unscored`: clips without a number.
    - `enough`: at least `least` scored clips, of at least two prompts.
    - `std`: the standard deviation among clips; `within_prompt_std`: that around the
      prompts' means; `within_prompt_share`: its share of the variance.
    - `between_prompt_std`: the standard deviation of the prompts' true means. Only more
      prompts reduce the error that it causes; more seeds do not.
    - `saturated`: half of the values lie at an end of the `range`; `notes`: sentences.

    >>> row = summary([1.0, 0.99, 1.0, None], ["a", "a", "b", "b"], least=3, range=(0, 1))
    >>> row["n"], row["unscored"], row["prompts"], row["enough"], row["saturated"]
    (3, 1, 2, True, True)
    >>> row["notes"][1]
    'an interval needs 6 prompts, and there are 2'
    """
    limits = as_limits(range)
    known, names = finite_values(values, groups)
    estimate = interval(known, names, level, draws, seed, limits)
    low, high = finite_ends(estimate)
    within_std, within_share = within_prompt_spread(known, names)
    saturation_notes = saturation(known, limits)
    return {
        "mean": json_number(estimate.mean),
        "low": low,
        "high": high,
        "n": estimate.n,
        "prompts": len({name for name in names if not isinstance(name, SingleClip)}),
        "unscored": len(values) - estimate.n,
        "std": json_number(_std(known)),
        "within_prompt_std": json_number(within_std),
        "within_prompt_share": json_number(within_share),
        "between_prompt_std": json_number(math.sqrt(components(known, names).between)),
        "enough": estimate.n >= least and estimate.groups > 1,
        "saturated": bool(saturation_notes),
        "notes": [
            *_small_sample_notes(estimate, least),
            *saturation_notes,
            *_equal_note(known),
            *[estimate.note] * bool(estimate.note),
            *dominant_group_notes(known, names),
        ],
    }


def within_prompt_spread(values: Values, groups: Groups) -> tuple[float, float]:
    """Return the pooled std of clips around their prompt's mean, and its share of the variance.

    std = √(Σ_g Σ_i (x_gi − mean_g)² / (n − G)) over the prompts g with two clips or more, n
    clips and G prompts; NaN where no prompt has two clips. The share of the clips' variance
    is at most 1.

    >>> within_prompt_spread([1.0, 3.0, 11.0, 13.0], "aabb")
    (1.4142135623730951, 0.0576...)
    """
    scored_values, names = finite_values(values, groups)
    rows = group_numbers(names)
    means = (
        np.bincount(rows, scored_values) / np.bincount(rows)
        if len(scored_values)
        else scored_values
    )
    degrees_of_freedom = len(scored_values) - len(means)
    if degrees_of_freedom == 0:
        return math.nan, math.nan
    variance = float(((scored_values - means[rows]) ** 2).sum() / degrees_of_freedom)
    total = float(scored_values.var(ddof=1))
    return math.sqrt(variance), min(1.0, variance / total) if total > 0 else math.nan


def saturation(values: Values, limits: tuple[float | None, float | None]) -> list[str]:
    """Return a note for each end of the range at which the values pile up.

    At such an end the dim no longer separates good clips from better ones. The values are
    saturated if half of them lie within 2 % of a scale from the end, or if their mean does,
    with a standard deviation of no more than that. For a range (0, b) the scale is b. For
    another closed range the scale is the width of the range, at most 1, because no clip
    comes near the lower end of a penalty, for example −20. If the range is open there is no
    scale, and only values equal to the end count.

    >>> saturation([0.99, 0.995, 0.98, 0.5], (0, 1))
    ['saturated: 3 of 4 values lie within 0.02 of 1, the end of the range']
    >>> saturation([0.9, 0.8, 0.7], (0, 1)), saturation([0.0, 0.0, -3.0], (None, 0.0))
    ([], ['saturated: 2 of 3 values are 0, the end of the range'])
    >>> saturation([-0.1, -0.2], (-20, 0)), saturation([99.0, 98.5], (0, 100))
    ([], ['saturated: 2 of 2 values lie within 2 of 100, the end of the range'])
    """
    scored_values, (low, high) = finite_values(values, None)[0], as_limits(limits)
    if not len(scored_values):
        return []
    scale = high - low if low == 0 else min(high - low, 1.0)
    distance = END_DISTANCE * scale if math.isfinite(high - low) else 0.0
    return [
        note
        for end in (low, high)
        if math.isfinite(end)
        for note in _saturation_note(scored_values, end, distance)
    ]


def as_limits(range: tuple[float | None, float | None]) -> tuple[float, float]:
    """Return a dim's range as floats, infinite where it is open.

    >>> as_limits((None, 0.0))
    (-inf, 0.0)
    """
    low, high = range
    return -math.inf if low is None else float(low), math.inf if high is None else float(high)


def _small_sample_notes(estimate: Interval, least: int) -> list[str]:
    """Return notes on too few clips, or on clips of a single prompt."""
    notes = [f"fewer than {least} clips: {estimate.n}"] if estimate.n < least else []
    one_prompt = estimate.groups == 1 and estimate.n > 1
    return (
        notes
        + ["one prompt: the interval is over its clips, and says nothing of other prompts"]
        * one_prompt
    )


def _saturation_note(values: Array, end: float, distance: float) -> list[str]:
    """Return a note if the values pile up at one end of the range."""
    near = int((np.abs(values - end) <= distance + 1e-12 * max(1.0, abs(end))).sum())
    tight = (
        distance > 0
        and abs(float(values.mean()) - end) <= distance
        and float(values.std()) <= distance
    )
    if near < SATURATED_SHARE * len(values) and not tight:
        return []
    where = f"lie within {distance:.3g} of" if distance else "are"
    return [f"saturated: {near} of {len(values)} values {where} {end:.3g}, the end of the range"]


def _equal_note(values: Array) -> list[str]:
    """Return a note if all values are equal."""
    equal = len(values) > 1 and float(np.ptp(values)) <= rounding_error(values)
    return [f"all {len(values)} values are equal"] if equal else []


def _std(values: Array) -> float:
    """Return the sample standard deviation, NaN for fewer than two values."""
    return float(values.std(ddof=1)) if len(values) > 1 else math.nan


def finite_ends(estimate: Interval) -> tuple[float | None, float | None]:
    """Return both ends of an interval, or None twice if either is missing or infinite.

    One end without the other would mislead: readers take it for a bound on both sides.
    """
    finite = math.isfinite(estimate.low) and math.isfinite(estimate.high)
    return (float(estimate.low), float(estimate.high)) if finite else (None, None)


def json_number(x: float) -> float | None:
    """Return a plain float for JSON, None for NaN and infinity."""
    return float(x) if math.isfinite(x) else None
