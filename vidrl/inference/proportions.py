"""Compute proportions, such as rates of wins, with intervals that are valid at 0 and 1 too.

The usual interval p ± 1.96 √(p (1 − p) / n) has width 0 for 30 wins of 30; the intervals
here do not.
"""

from __future__ import annotations

import math

from vidrl.inference.clusters import Groups, Values, clusters, finite_values
from vidrl.inference.confidence import BoundedConfidence
from vidrl.inference.means import Interval
from vidrl.inference.student import CELLS, t_quantile

MOST_DRAWS = 40_000  # draws for few groups, by which the bounds are right to 0.003
FEWEST_DRAWS = 4_000  # draws for many groups, which limits the time


def proportion_interval(
    values: Values,
    groups: Groups = None,
    level: float = 0.95,
    draws: int = 0,
    seed: int = 0,
    null: float = 0.5,
) -> Interval:
    """Return the mean of values in [0, 1] with its interval over groups, and p of "it is `null`".

    Use it for wins (1), losses (0) and ties (0.5). For zeros and ones the interval is that
    of Clopper and Pearson, which contains the truth in 95 % of samples or more; for other
    values, and for groups of several values, it is Gaffke's (`vidrl.inference.bounded`). If
    a value rises, neither end falls, except where groups differ in size. Two groups are
    enough, and give nearly the full range. `draws` = 0 chooses by the number of groups.
    Raises ValueError for values outside [0, 1].

    >>> [round(x, 3) for x in proportion_interval([1.0] * 10)[:3]]
    [1.0, 0.692, 1.0]
    """
    numbers, names = finite_values(values, groups)
    side, G = clusters(numbers, names), len(set(names))
    if len(numbers) and not (numbers.min() >= 0 and numbers.max() <= 1):
        raise ValueError(
            f"expected values from 0 to 1, got values from {numbers.min():g} to {numbers.max():g}"
        )
    if G < 2:
        return Interval(
            side.mean, math.nan, math.nan, len(numbers), G, note="an interval needs 2 groups"
        )
    count = draws or min(MOST_DRAWS, max(FEWEST_DRAWS, CELLS // G))
    method = BoundedConfidence.of([side], (0.0, 1.0), count, seed)
    return Interval(side.mean, *method.interval(level), len(numbers), G, method.p(null))


def wilson_interval(
    p: float, variance: float, groups: int, most: float = math.inf
) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a proportion whose estimate p has a known variance.

    Use it for an estimate that is not a plain mean, such as an area under a curve, whose
    variance comes from elsewhere. With n the number of independent values that would give
    this variance, n = p (1 − p) / variance (at most `most`), and t the quantile of Student's
    t with groups − 1 degrees of freedom:

    (p + t² / 2n ± t √(p (1 − p) / n + t² / 4n²)) / (1 + t² / n).

    Where p is 0 or 1 or the variance is 0, n is the number of groups. NaN where the variance
    is NaN. Source: Wilson 1927, doi:10.1080/01621459.1927.10502953.

    >>> [round(x, 3) for x in wilson_interval(0.5, 0.025, 10)]
    [0.209, 0.791]
    """
    if math.isnan(variance):
        return math.nan, math.nan
    n = min(p * (1 - p) / variance, most) if variance > 1e-18 and 0 < p < 1 else groups
    t2 = t_quantile(groups - 1) ** 2
    centre = (p + t2 / (2 * n)) / (1 + t2 / n)
    half = math.sqrt(t2 * (p * (1 - p) / n + t2 / (4 * n * n))) / (1 + t2 / n)
    # Rounding must not put p itself outside its interval.
    return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))
