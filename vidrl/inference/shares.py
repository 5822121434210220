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
    p, variance = made.mean, made.variance
    n = min(p * (1 - p) / variance, len(known)) if variance > 1e-18 and 0 < p < 1 else G
    t2 = t_quantile(G - 1) ** 2
    centre = (p + t2 / (2 * n)) / (1 + t2 / n)
    half = math.sqrt(t2 * (p * (1 - p) / n + t2 / (4 * n * n))) / (1 + t2 / n)
    return Interval(p, max(0.0, centre - half), min(1.0, centre + half), len(known), G)
