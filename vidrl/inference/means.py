"""Means of clips with intervals that hold: clips of one prompt resemble each other, clips are few, values are skewed.

Intervals are a studentised bootstrap over prompts, see `vidrl.inference.resampling`: percentiles of a plain bootstrap
are too narrow for few prompts (arXiv:1411.5279) and for skewed values. Clips are drawn one by one where each has a
prompt of its own, or where all share one. benchmarks/results/bench_coverage.md says how often the intervals hold the
truth.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from vidrl.inference.clusters import Groups, Values, clusters, scored
from vidrl.inference.resampling import DRAWS, bounds

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
