"""Means of clips with intervals that hold: clips of one prompt resemble each other, clips
are few, values are skewed.

One rule decides how an interval is made; G are the groups (prompts, videos):

1. G below 6: no interval. Six that all agree are the fewest of which a two-sided test at 5
   % can say anything.
2. Fewer than 4 groups differ from the most frequent value, as where a dim is saturated: the
   range decides, see `vidrl.inference.bounded`. On a side where the range is open the
   interval is open too: a rare value of any size may not have been seen yet.
3. Else Student's ratio, by a bootstrap of whole groups and by Student's t, see
   `vidrl.inference.confidence`.

benchmarks/results/bench/bench_coverage.md says how often such intervals hold the truth, and how
often p is below 0.05.
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
LEAST_OFF_MODE = 4  # groups that must differ from the most frequent value, else the range decides
DOMINANT_FRACTION = 0.5  # share of the variance that one group may have before a note says so


class Interval(NamedTuple):
    """A mean, its interval, over `n` values of `groups` groups, and p of "the mean is 0";
    NaN where there is none.

    `note` says why there is no interval, or why it is open on a side.
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
) -> Interval:
    """The mean of values and its interval over their groups, by the rule above; without
    groups, each value is one.

    Values that are None, NaN or infinite are left out; a value whose group is "" or None
    has a group of its own. Where all values have one group the interval is over these
    values alone. `limits` are the least and the greatest value that can be, infinite where
    there is none; of differences of values in (a, b) they are (a − b, b − a). `unit` is
    what the note calls the groups. The order of the values does not matter, to the last
    digit. Raises ValueError where values and groups are not as many. A limit that a value
    is beyond is not used, and the note says so.

    >>> interval([0.5, 0.7, float("nan"), 0.6], ["a cat", "a cat", "a cat", "a dog"])[0:4:3]
    (0.6, 3)
    >>> [round(x, 2) for x in interval([3.0, 1.0, 2.0, 5.0, 4.0, 3.5])[:3]]
    [3.08, 1.19, 4.58]
    >>> [round(x, 3) for x in interval([1.0] * 30, limits=(0, 1))[:3]]  # the exact bound of Clopper and Pearson
    [1.0, 0.884, 1.0]
    >>> interval([1.0, 3.0, 2.0]).note
    'an interval needs 6 prompts, and there are 3'
    """
    known, names = finite_values(values, groups)
    limits, beyond = _usable_limits(known, limits)
    one = len(set(names)) == 1 < len(known)
    made = clusters(known, range(len(known)) if one else names)
    found = interval_of_sides([made], limits, level, draws, seed, "clips" if one else unit)
    note = "; ".join(filter(None, (found.note, beyond)))
    return found._replace(
        n=len(known), groups=len(set(names)), p=math.nan if one else found.p, note=note
    )


def difference(
    first: Clusters,
    second: Clusters,
    limits: Limits = NO_LIMITS,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
    unit: str = "prompts",
) -> Interval:
    """The mean of the second set less that of the first, where no value of the one belongs
    to one of the other.

    The same rule: both sets need 6 groups, and where one of them is piled up the range of
    the values, `limits`, decides. Spreads and numbers of groups may differ between the
    sets. `n` and `groups` are those of the smaller set.

    >>> a, b = (clusters(np.array(x), range(6)) for x in ([1.0, 2, 3, 4, 5, 6], [7.0, 8, 9, 10, 11, 12]))
    >>> found = difference(a, b)
    >>> found.mean, found.low < 6 < found.high, found.p < 0.05
    (6.0, True, True)
    """
    found = interval_of_sides([first, second], limits, level, draws, seed, unit)
    return found._replace(n=int(min(first.counts.sum(), second.counts.sum())))


def interval_of_sides(
    sides: Sequence[Clusters], limits: Limits, level: float, draws: int, seed: int, unit: str
) -> Interval:
    """The interval and p of the mean of one side, or of the second's less the first's, by
    the rule of this module."""
    sizes = [len(side.sums) for side in sides]
    mean = sides[-1].mean - (sides[0].mean if len(sides) == 2 else 0.0)
    ends = limits if len(sides) == 1 else limits_of_difference(limits)
    if min(sizes) < LEAST_GROUPS:
        why = f"an interval needs {LEAST_GROUPS} {unit}, and there are {min(sizes)}"
        return Interval(mean, math.nan, math.nan, 0, min(sizes), math.nan, why)
    made: Confidence
    if min(map(groups_off_mode, sides)) < LEAST_OFF_MODE:
        made, note = (
            BoundedConfidence.of(sides, limits, draws, seed),
            _note_on_open_side(sides, ends, unit),
        )
    else:
        made, note = StudentConfidence.of(sides, draws, seed), ""
    low, high = made.interval(level)
    return Interval(mean, max(low, ends[0]), min(high, ends[1]), 0, min(sizes), made.p(), note)


def groups_off_mode(side: Clusters) -> int:
    """How many groups differ from the most frequent mean of a group; all, where no two
    groups have the same.

    >>> groups_off_mode(clusters(np.array([1.0, 1.0, 1.0, 0.5]), range(4)))
    1
    >>> groups_off_mode(clusters(np.array([1.0, 2.0]), range(2)))
    2
    """
    most = _largest_tie(side.sums / side.counts)
    return len(side.sums) - (most if most > 1 else 0)


def _largest_tie(means: Array) -> int:
    """How many of the means are one value, but for rounding."""
    if not len(means):
        return 0
    means, near = np.sort(means), 1e-9 * float(np.abs(means).max())
    starts = np.flatnonzero(np.concatenate([[True], np.diff(means) > near]))
    return int(np.diff(np.append(starts, len(means))).max())


def dominant_group_notes(values: Values, groups: Groups = None, unit: str = "prompt") -> list[str]:
    """A note where one group holds more than half of the variance of the mean: rare large
    values decide then.

    No interval and no test can know of a rare value that the sample does not hold; of one
    that it holds, this is said.

    >>> dominant_group_notes([0.1, 0.0, -0.1, 0.05, -0.05, 0.1, -9.0])
    ['one prompt of 7 holds 86 % of the variance: look at it, the mean rests on it']
    """
    known, names = finite_values(values, groups)
    made = clusters(known, names)
    squares = (made.sums - made.mean * made.counts) ** 2
    if len(squares) < LEAST_GROUPS or squares.max() <= DOMINANT_FRACTION * squares.sum():
        return []
    held = f"{100 * squares.max() / squares.sum():.0f} %"
    return [
        f"one {unit} of {len(squares)} holds {held} of the variance: look at it, the mean rests on it"
    ]


def limits_of_difference(limits: Limits) -> Limits:
    """The limits of a difference of two values that have these limits.

    >>> limits_of_difference((0.0, 1.0))
    (-1.0, 1.0)
    """
    return limits[0] - limits[1], limits[1] - limits[0]


def _note_on_open_side(sides: Sequence[Clusters], ends: Limits, unit: str) -> str:
    if all(map(math.isfinite, ends)):
        return ""
    side = min(sides, key=groups_off_mode)
    count, size = len(side.sums) - groups_off_mode(side), len(side.sums)
    return f"{count} of {size} {unit} have one value, and the range is open: no bound is known on the open side"


def _usable_limits(known: Array, limits: Limits) -> tuple[Limits, str]:
    """The limits, without those that a value is beyond by more than rounding, and what is
    to be said of it."""
    near = 1e-6 * max([1.0, *(abs(end) for end in limits if math.isfinite(end))])
    outside = known[(known < limits[0] - near) | (known > limits[1] + near)]
    if not len(outside):
        return limits, ""
    kept = (
        -math.inf if known.min() < limits[0] - near else limits[0],
        math.inf if known.max() > limits[1] + near else limits[1],
    )
    return kept, f"{outside[0]:g} is outside the range from {limits[0]:g} to {limits[1]:g}"
