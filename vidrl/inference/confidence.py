"""Compute intervals of any level and p values of any null, both from one calculation.

`StudentConfidence` is the normal case. It needs no range of the values and takes the wider
of two methods on each side: a bootstrap of Student's ratio, which is right for skewed
values, and Student's t, which is right for heavy tails, where the bootstrap alone contains
the truth in 92 % of samples instead of 95 %.

`BoundedConfidence` is for values with a known range of which nearly all are equal, see
`vidrl.inference.bounded`.

`vidrl.inference.means` chooses between the two. Interval and p value agree, because both
come from the same draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from vidrl.inference.bounded import lower_bounds, upper_bounds
from vidrl.inference.clusters import Clusters
from vidrl.inference.resampling import bootstrap_ratios
from vidrl.inference.student import Array, t_below, t_quantile

# A p value below 0.05 is multiplied by (0.05 / p) to this power, see `inflated_p`.
INFLATION_POWER = 0.25
INFLATION_END = 0.001  # below this p value the factor grows no more


class Confidence(Protocol):
    """A method that gives intervals and p values of a mean or of a difference of means."""

    def interval(self, level: float) -> tuple[float, float]:
        """Return the ends of the interval of a level such as 0.95."""

    def p(self, null: float = 0.0) -> float:
        """Return the two-sided p value of the hypothesis "the mean is `null`"."""


class StudentConfidence(NamedTuple):
    """Intervals and p values by Student's ratio, (estimate − truth) / standard error.

    `ratios` are the sorted ratios of the bootstrap's draws. `least_p` is the least p value
    that so few groups can justify, see the function `least_p`.
    """

    estimate: float
    standard_error: float
    freedom: float  # degrees of freedom of Student's t
    ratios: Array
    least_p: float
    effective_groups: float

    @classmethod
    def of(cls, sides: Sequence[Clusters], draws: int, seed: int) -> StudentConfidence:
        """Return the method for the mean of one side, or for the second mean minus the first."""
        estimate = sides[-1].mean - (sides[0].mean if len(sides) == 2 else 0.0)
        sizes = [len(side.sums) for side in sides]
        return cls(
            estimate,
            math.sqrt(sum(side.variance for side in sides)),
            degrees_of_freedom(sides),
            bootstrap_ratios(sides, draws, seed),
            least_p(*sizes),
            min(side.effective_groups for side in sides),
        )

    def interval(self, level: float) -> tuple[float, float]:
        """Return the interval whose ends are the wider of bootstrap and Student's t.

        A high ratio of a draw means that its estimate is too high, so that the upper
        quantile of the ratios gives the lower end.
        """
        student = t_quantile(self.freedom, (1 + level) / 2)
        low, high = np.quantile(self.ratios, [(1 - level) / 2, (1 + level) / 2])
        return (
            float(self.estimate - max(high, student) * self.standard_error),
            float(self.estimate - min(low, -student) * self.standard_error),
        )

    def p(self, null: float = 0.0) -> float:
        """Return the greater p value of the two methods, at least `least_p`, then inflated.

        Of b draws, k of which have a ratio as extreme as the data's, the bootstrap's
        one-sided p is (k + 1) / (b + 1), which is never 0. `inflated_p` corrects for few
        groups.
        """
        ratio, draws = (self.estimate - null) / self.standard_error, len(self.ratios)
        below = int(np.searchsorted(self.ratios, ratio, "right"))  # draws at or below the ratio
        above = draws - int(np.searchsorted(self.ratios, ratio, "left"))
        sides = [
            max((count + 1) / (draws + 1), t_below(x, self.freedom))
            for count, x in ((below, ratio), (above, -ratio))
        ]
        return inflated_p(max(2 * min(sides), self.least_p), self.effective_groups)


class BoundedConfidence(NamedTuple):
    """Intervals and p values from draws of the lower and of the upper bound of the mean.

    The bounds are weighted means with one extra group at an end of the range, see
    `vidrl.inference.bounded`.
    """

    lows: Array
    highs: Array

    @classmethod
    def of(
        cls, sides: Sequence[Clusters], ends: tuple[float, float], draws: int, seed: int
    ) -> BoundedConfidence:
        """Return the method for the mean of one side, or for the second mean minus the first.

        `ends` is the range of the values. For a difference, draws of the first side's bound
        are subtracted from draws of the second side's opposite bound, which Fay, Proschan
        and Brittain 2015 (doi:10.1111/biom.12231) call melding.
        """
        low, high = (
            lower_bounds(sides[-1], ends[0], draws, seed),
            upper_bounds(sides[-1], ends[1], draws, seed),
        )
        if len(sides) == 2:  # another seed, so that the draws of both sides are independent
            low = low - upper_bounds(sides[0], ends[1], draws, seed + 1)
            high = high - lower_bounds(sides[0], ends[0], draws, seed + 1)
        return cls(low, high)

    def interval(self, level: float) -> tuple[float, float]:
        """Return a percentile of each bound; infinite on a side where the range is infinite."""
        return _bound(self.lows, (1 - level) / 2), _bound(self.highs, (1 + level) / 2)

    def p(self, null: float = 0.0) -> float:
        """Return twice the fraction of the draws of a bound that contradict the estimate.

        A draw of the lower bound contradicts if it is at or below `null`, a draw of the
        upper bound if it is at or above `null`.
        """
        below = float((self.lows <= null).mean())
        above = float((self.highs >= null).mean())
        return min(1.0, 2 * max(min(below, above), 1 / (len(self.lows) + 1)))


def degrees_of_freedom(sides: Sequence[Clusters]) -> float:
    """Return the degrees of freedom of Student's t for one mean or a difference of two.

    One side: the effective number of groups minus 1. Two sides: Welch and Satterthwaite's
    (Σv)² / Σ(v² / f), where v is the variance of a side's mean and f its degrees of freedom.
    """
    each = [max(1.0, side.effective_groups - 1) for side in sides]
    if len(sides) == 1:
        return each[0]
    numerator = sum(side.variance for side in sides) ** 2
    parts = sum(side.variance**2 / free for side, free in zip(sides, each, strict=True))
    return numerator / parts if parts > 0 else min(each)


def least_p(first: int, second: int = 0) -> float:
    """Return the least two-sided p value of an exact test with so many groups.

    One side (paired differences): all G differences have one sign, 2 / 2^G. Two sides: all
    values of one lie above all of the other, 2 / C(G1 + G2, G1). A smaller p value from a
    formula would rest on an assumed distribution, which so few groups cannot justify.

    >>> least_p(8), least_p(6, 6)
    (0.0078125, 0.0021645021645021645)
    """
    return 2 / math.comb(first + second, first) if second else 2.0 ** (1 - first)


def few_groups_factor(groups: float) -> float:
    """Return 1 + 10 / G, the factor by which `inflated_p` multiplies a p value of G groups.

    Few groups cannot show how skewed their distribution is. G is the effective number of
    groups (`Clusters.effective_groups`).

    >>> few_groups_factor(10), few_groups_factor(100)
    (2.0, 1.1)
    """
    return 1 + 10 / groups


def inflated_p(p: float, groups: float) -> float:
    """Return a p value of G groups after a correction for few groups and for small p values.

    min(1, p · (1 + 10 / G) · f), where f = (0.05 / p)^¼ below p = 0.05, at most 2.66, and 1
    above. The reason for f: the tails of a bootstrap of skewed values are too short, and the
    error grows towards small p values. With 20 prompts whose differences have skewness 1.75,
    p is below 0.05 in 4.6 % of samples of equal models, but below 0.0042, which Holm's first
    step demands among twelve dims, in 0.8 %. After the correction, families of twelve dims
    are wrong in at most 5 % of cases up to skewness 2. The constants were found by
    simulation; see benchmarks/results/bench/bench_coverage.md.

    >>> round(inflated_p(0.05, 100), 3), round(inflated_p(0.001, 100), 5)
    (0.055, 0.00293)
    """
    small = min(max(1.0, 0.05 / p), 0.05 / INFLATION_END)
    return min(1.0, p * few_groups_factor(groups) * small**INFLATION_POWER)


def p_before_inflation(alpha: float, groups: float) -> float:
    """Return the p value that `inflated_p` turns into alpha: its inverse, used for power.

    >>> alphas = (0.05, 0.004, 0.0001)
    >>> [round(inflated_p(p_before_inflation(alpha, 20), 20), 12) for alpha in alphas]
    [0.05, 0.004, 0.0001]
    """
    p, most = alpha / few_groups_factor(groups), (0.05 / INFLATION_END) ** INFLATION_POWER
    if p >= 0.05:
        return p
    if p <= INFLATION_END * most:
        return p / most
    return (p / 0.05**INFLATION_POWER) ** (1 / (1 - INFLATION_POWER))


def _bound(draws: Array, quantile: float) -> float:
    """Return a quantile of draws of a bound; an infinite range makes all draws infinite."""
    return float(np.quantile(draws, quantile)) if np.isfinite(draws).all() else float(draws[0])
