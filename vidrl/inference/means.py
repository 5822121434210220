"""Compute means of clips, and differences of means, with intervals that contain the truth.

Scores of clips break the textbook's assumptions: clips of one prompt resemble each other,
prompts are few, and values are skewed or equal. One rule decides how the interval is made,
where G is the number of groups (prompts, videos):

1. G below 6: no interval. Six groups that all agree are the fewest for which a two-sided
   test at 5 % can be significant (2 / 2^6 = 3.1 %).
2. Fewer than 4 groups differ from the most frequent value, as where a dim is saturated: the
   range of the values decides, see `vidrl.inference.bounded`. On a side where the range is
   infinite the interval is infinite too, because a rare value of any size may be absent from
   the sample.
3. Otherwise: Student's ratio, by a bootstrap of groups and by Student's t, see
   `vidrl.inference.confidence`.

benchmarks/results/bench/bench_coverage.md shows how often such intervals contain the truth,
and how often p is below 0.05 for equal models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vidrl.inference.clusters import Clusters, Groups, Values, clusters, finite_values
from vidrl.inference.confidence import BoundedConfidence, Confidence, StudentConfidence
from vidrl.inference.resampling import DRAWS
from vidrl.inference.student import Array

Limits = tuple[float, float]
NO_LIMITS: Limits = (-math.inf, math.inf)
LEAST_GROUPS = 6  # groups below which there is no interval
LEAST_OFF_MODE = 4  # groups that must differ from the most frequent value, else rule 2 applies
DOMINANT_FRACTION = 0.5  # a group with a larger fraction of the variance gets a note


class Interval(NamedTuple):
    """A mean with its interval and the two-sided p value of "the mean is 0".

    `low`, `high` and `p` are NaN where there is no interval. `n` counts the values and
    `groups` their groups. `note` says why there is no interval, or why one end is infinite.
    """

    mean: float
    low: float
    high: float
    n: int
    groups: int
    p: float = math.nan
    note: str = ""


def interval(
    values: Values,
    groups: Groups = None,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
    limits: Limits = NO_LIMITS,
    unit: str = "prompts",
    weights: Array | None = None,
) -> Interval:
    """Return the mean of values with its interval over their groups, by the rule above.

    Use it for scores of one set, and for differences of paired sets (p is then the p value
    of "both are equal").

    - `values`: None, NaN and infinite values are left out.
    - `groups`: a value whose group is "" or None becomes a group by itself; so does each
      value if `groups` is None. Where all values have one group, the interval is over these
      values, without p.
    - `limits`: the least and the greatest possible value, infinite if there is none. For
      differences of values in (a, b) use `limits_of_difference`. A limit that a value
      exceeds is not used, and the note says so.
    - `unit`: the word for the groups in the note.
    - `weights`: how many equal values each one stands for, above 0; 1 by default. `n` counts the
      values, whatever their weights.

    The order of the values does not change the result, to the last digit. Raises ValueError
    if values and groups or weights differ in number.

    >>> interval([0.5, 0.7, float("nan"), 0.6], ["a cat", "a cat", "a cat", "a dog"])[0:4:3]
    (0.6, 3)
    >>> [round(x, 2) for x in interval([3.0, 1.0, 2.0, 5.0, 4.0, 3.5])[:3]]
    [3.08, 1.19, 4.58]
    >>> ones = interval([1.0] * 30, limits=(0, 1))  # the exact bound of Clopper and Pearson
    >>> [round(x, 3) for x in ones[:3]]
    [1.0, 0.884, 1.0]
    >>> interval([1.0, 3.0, 2.0]).note
    'an interval needs 6 prompts, and there are 3'
    """
    numbers, names = finite_values(values, groups)
    kept = None if weights is None else _of_finite(values, weights)
    limits, limit_note = _usable_limits(numbers, limits)
    single = len(set(names)) == 1 < len(numbers)  # all clips have the same prompt
    side = clusters(numbers, range(len(numbers)) if single else names, kept)
    found = interval_of_sides([side], limits, level, draws, seed, "clips" if single else unit)
    note = "; ".join(filter(None, (found.note, limit_note)))
    return found._replace(
        n=len(numbers), groups=len(set(names)), p=math.nan if single else found.p, note=note
    )


def _of_finite(values: Values, weights: Array) -> Array:
    """Return the weights of the values that are finite numbers."""
    if len(weights) != len(values):
        raise ValueError(f"expected a weight for each of {len(values)} values, got {len(weights)}")
    given = np.asarray(weights, float)
    if not ((given > 0) & np.isfinite(given)).all():
        raise ValueError(f"expected finite weights above 0, got {given.min()}")
    return given[np.isfinite([math.nan if value is None else value for value in values])]


def difference(
    first: Clusters,
    second: Clusters,
    limits: Limits = NO_LIMITS,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
    unit: str = "prompts",
) -> Interval:
    """Return the second set's mean minus the first's, with its interval, for unpaired sets.

    Use it where the sets have no prompts in common; for paired sets give the differences to
    `interval`, which is more precise. The same rule applies: both sets need 6 groups, and
    where one of them has nearly equal values the range of the values, `limits`, decides.
    The sets may differ in variance and in number of groups. `n` and `groups` are those of
    the smaller set.

    >>> values = [1.0, 2, 3, 4, 5, 6], [7.0, 8, 9, 10, 11, 12]
    >>> a, b = (clusters(np.array(x), range(6)) for x in values)
    >>> found = difference(a, b)
    >>> found.mean, found.low < 6 < found.high, found.p < 0.05
    (6.0, True, True)
    """
    found = interval_of_sides([first, second], limits, level, draws, seed, unit)
    return found._replace(n=int(min(first.counts.sum(), second.counts.sum())))


def interval_of_sides(
    sides: Sequence[Clusters], limits: Limits, level: float, draws: int, seed: int, unit: str
) -> Interval:
    """Apply the rule of this module to one side's mean, or to the second mean minus the first.

    `n` of the result is 0: `interval` and `difference` fill it in.
    """
    sizes = [len(side.sums) for side in sides]
    mean = sides[-1].mean - (sides[0].mean if len(sides) == 2 else 0.0)
    ends = limits if len(sides) == 1 else limits_of_difference(limits)
    if min(sizes) < LEAST_GROUPS:
        why = f"an interval needs {LEAST_GROUPS} {unit}, and there are {min(sizes)}"
        return Interval(mean, math.nan, math.nan, 0, min(sizes), math.nan, why)
    method: Confidence
    if min(map(groups_off_mode, sides)) < LEAST_OFF_MODE:
        method = BoundedConfidence.of(sides, limits, draws, seed)
        note = _note_on_open_side(sides, ends, unit)
    else:
        method, note = StudentConfidence.of(sides, draws, seed), ""
    low, high = method.interval(level)
    return Interval(mean, max(low, ends[0]), min(high, ends[1]), 0, min(sizes), method.p(), note)


def groups_off_mode(side: Clusters) -> int:
    """Return how many groups differ from the most frequent group mean (the mode).

    Where no two groups have the same mean, there is no mode, and all groups count.

    >>> groups_off_mode(clusters(np.array([1.0, 1.0, 1.0, 0.5]), range(4)))
    1
    >>> groups_off_mode(clusters(np.array([1.0, 2.0]), range(2)))
    2
    """
    most = _largest_tie(side.sums / side.counts)
    return len(side.sums) - (most if most > 1 else 0)


def _largest_tie(means: Array) -> int:
    """Return how often the most frequent value occurs; equal up to rounding counts as equal."""
    if not len(means):
        return 0
    means, tolerance = np.sort(means), 1e-9 * float(np.abs(means).max())
    starts = np.flatnonzero(np.concatenate([[True], np.diff(means) > tolerance]))
    return int(np.diff(np.append(starts, len(means))).max())


def dominant_group_notes(values: Values, groups: Groups = None, unit: str = "prompt") -> list[str]:
    """Return a note if one group has more than half of the variance of the mean, else nothing.

    A rare large value then decides the mean. No interval can account for a rare value that
    is absent from the sample; a rare value in the sample can at least be reported. The
    fraction is (s − mean c)² of the group divided by its sum over all groups.

    >>> dominant_group_notes([0.1, 0.0, -0.1, 0.05, -0.05, 0.1, -9.0])
    ['one prompt of 7 holds 86 % of the variance: look at it, the mean rests on it']
    """
    side = clusters(*finite_values(values, groups))
    squares = (side.sums - side.mean * side.counts) ** 2
    if len(squares) < LEAST_GROUPS or squares.max() <= DOMINANT_FRACTION * squares.sum():
        return []
    percent = f"{100 * squares.max() / squares.sum():.0f} %"
    return [
        f"one {unit} of {len(squares)} holds {percent} of the variance: "
        "look at it, the mean rests on it"
    ]


def limits_of_difference(limits: Limits) -> Limits:
    """Return the limits of a difference of two values that both have these limits.

    >>> limits_of_difference((0.0, 1.0))
    (-1.0, 1.0)
    """
    return limits[0] - limits[1], limits[1] - limits[0]


def _note_on_open_side(sides: Sequence[Clusters], ends: Limits, unit: str) -> str:
    """Return why an end of the interval is infinite; "" where both limits are finite."""
    if all(map(math.isfinite, ends)):
        return ""
    side = min(sides, key=groups_off_mode)
    count, size = len(side.sums) - groups_off_mode(side), len(side.sums)
    return (
        f"{count} of {size} {unit} have one value, and the range is open: "
        "no bound is known on the open side"
    )


def _usable_limits(values: Array, limits: Limits) -> tuple[Limits, str]:
    """Return the limits that no value exceeds, and a note on a value outside the range.

    A limit that a value exceeds by more than rounding becomes infinite.
    """
    tolerance = 1e-6 * max([1.0, *(abs(end) for end in limits if math.isfinite(end))])
    low, high = limits[0] - tolerance, limits[1] + tolerance
    outside = values[(values < low) | (values > high)]
    if not len(outside):
        return limits, ""
    usable = (
        -math.inf if values.min() < low else limits[0],
        math.inf if values.max() > high else limits[1],
    )
    return usable, f"{outside[0]:g} is outside the range from {limits[0]:g} to {limits[1]:g}"
