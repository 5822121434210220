"""Intervals of proportions, which also hold at 0 and 1."""

from __future__ import annotations

import math

from vidrl.inference.clusters import Groups, Values, clusters, scored
from vidrl.inference.means import Interval
from vidrl.inference.student import t_quantile


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
    return Interval(made.mean, *proportion(made.mean, made.variance, G, len(known)), len(known), G)


def proportion(p: float, variance: float, groups: int, most: float = math.inf) -> tuple[float, float]:
    """The 95 % interval of a proportion p whose estimate has this variance, over so many independent groups.

    Wilson's, with Student's t of groups − 1 and as many independent values as the variance leaves, p (1 − p) /
    variance, `most` at most; where p is 0 or 1 or has no variance, as many as there are groups. NaN where the variance
    is.

    >>> [round(x, 3) for x in proportion(0.5, 0.025, 10)]
    [0.209, 0.791]
    """
    if math.isnan(variance):
        return math.nan, math.nan
    n = min(p * (1 - p) / variance, most) if variance > 1e-18 and 0 < p < 1 else groups
    t2 = t_quantile(groups - 1) ** 2
    centre = (p + t2 / (2 * n)) / (1 + t2 / n)
    half = math.sqrt(t2 * (p * (1 - p) / n + t2 / (4 * n * n))) / (1 + t2 / n)
    return max(0.0, centre - half), min(1.0, centre + half)
