"""Proportions, as of wins, detections and agreements, with intervals that are exact at 0
and 1 too."""

from __future__ import annotations

import math

from vidrl.inference.clusters import Groups, Values, clusters, finite_values
from vidrl.inference.confidence import BoundedConfidence
from vidrl.inference.means import Interval
from vidrl.inference.student import CELLS, t_quantile

MOST_DRAWS, FEWEST_DRAWS = 40_000, 4_000


def proportion_interval(
    values: Values,
    groups: Groups = None,
    level: float = 0.95,
    draws: int = 0,
    seed: int = 0,
    null: float = 0.5,
) -> Interval:
    """The mean of values in [0, 1], as of wins with ties half, its interval over groups,
    and p of "it is `null`".

    Of zeros and ones that is the interval of Clopper and Pearson, which holds 95 % or more;
    of values between, and of groups of several values, Gaffke's
    (`vidrl.inference.bounded`). If any value rises, neither end falls, but for groups of
    unequal sizes. Two groups are enough: the interval is then nearly the whole range.
    `draws`: 0 chooses by the number of groups. Raises ValueError for values outside [0, 1].

    >>> [round(x, 3) for x in proportion_interval([1.0] * 10)[:3]]
    [1.0, 0.692, 1.0]
    """
    known, names = finite_values(values, groups)
    made, G = clusters(known, names), len(set(names))
    if len(known) and not (known.min() >= 0 and known.max() <= 1):
        raise ValueError(f"expected shares from 0 to 1, got {known.min():g} to {known.max():g}")
    if G < 2:
        return Interval(
            made.mean, math.nan, math.nan, len(known), G, note="an interval needs 2 groups"
        )
    count = draws or min(MOST_DRAWS, max(FEWEST_DRAWS, CELLS // G))
    found = BoundedConfidence.of([made], (0.0, 1.0), count, seed)
    return Interval(made.mean, *found.interval(level), len(known), G, found.p(null))


def wilson_interval(
    p: float, variance: float, groups: int, most: float = math.inf
) -> tuple[float, float]:
    """The 95 % interval of a proportion p whose estimate has this variance, over so many
    independent groups.

    Wilson's, with Student's t of groups − 1 and as many independent values as the variance
    leaves, p (1 − p) / variance, `most` at most; where p is 0 or 1 or has no variance, as
    many as there are groups. NaN where the variance is.

    >>> [round(x, 3) for x in wilson_interval(0.5, 0.025, 10)]
    [0.209, 0.791]
    """
    if math.isnan(variance):
        return math.nan, math.nan
    n = min(p * (1 - p) / variance, most) if variance > 1e-18 and 0 < p < 1 else groups
    t2 = t_quantile(groups - 1) ** 2
    centre = (p + t2 / (2 * n)) / (1 + t2 / n)
    half = math.sqrt(t2 * (p * (1 - p) / n + t2 / (4 * n * n))) / (1 + t2 / n)
    return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))
