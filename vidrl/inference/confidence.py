"""What a sample says of a mean: intervals of any level and p values of any null, both from
one calculation.

`StudentConfidence` is of means whose range is not needed: Student's ratio, by a bootstrap and by
Student's t, whichever of them is wider on each side. The bootstrap is right for skewed
values, and Student's t for heavy tails, of which the bootstrap alone holds 92 % of 95 %.
`BoundedConfidence` is of means whose range is known, by `vidrl.inference.bounded`.
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

INFLATION_POWER = 0.25  # the power of 0.05 / p by which a small p is made larger
INFLATION_END = 0.001  # the p from which on that is no more


class Confidence(Protocol):
    """What a sample says of a mean."""

    def interval(self, level: float) -> tuple[float, float]:
        """The interval of a level, as 0.95."""

    def p(self, null: float = 0.0) -> float:
        """Two-sided p of "the mean is `null`"."""


class StudentConfidence(NamedTuple):
    """By Student's ratio: the estimate, its standard error, the degrees of freedom, and the
    sorted ratios of draws."""

    estimate: float
    error: float
    freedom: float
    drawn: Array
    floor: float  # the least p that so few groups can give
    groups: float  # their effective number

    @classmethod
    def of(cls, sides: Sequence[Clusters], draws: int, seed: int) -> StudentConfidence:
        """The mean of one side, or the second's less the first's."""
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
        """The wider of the two methods on each side."""
        reach = t_quantile(self.freedom, (1 + level) / 2)
        low, high = np.quantile(self.drawn, [(1 - level) / 2, (1 + level) / 2])
        return (
            float(self.estimate - max(high, reach) * self.error),
            float(self.estimate - min(low, -reach) * self.error),
        )

    def p(self, null: float = 0.0) -> float:
        """The greater p of the two methods, not below `floor`, made `inflated_p`."""
        ratio, draws = (self.estimate - null) / self.error, len(self.drawn)
        below = int(np.searchsorted(self.drawn, ratio, "right"))  # draws at or below the ratio
        above = draws - int(np.searchsorted(self.drawn, ratio, "left"))
        sides = [
            max((count + 1) / (draws + 1), t_below(x, self.freedom))
            for count, x in ((below, ratio), (above, -ratio))
        ]
        return inflated_p(max(2 * min(sides), self.floor), self.groups)


class BoundedConfidence(NamedTuple):
    """By weighted means with one group more at an end of the range: draws of the lower and
    of the upper bound."""

    lows: Array
    highs: Array

    @classmethod
    def of(
        cls, sides: Sequence[Clusters], ends: tuple[float, float], draws: int, seed: int
    ) -> BoundedConfidence:
        """The mean of one side, or the second's less the first's: draws of the one less
        draws of the other.

        The difference: "melding" of two bounds, Fay, Proschan and Brittain 2015,
        doi:10.1111/biom.12231.
        """
        low, high = (
            lower_bounds(sides[-1], ends[0], draws, seed),
            upper_bounds(sides[-1], ends[1], draws, seed),
        )
        if len(sides) == 2:
            low = low - upper_bounds(sides[0], ends[1], draws, seed + 1)
            high = high - lower_bounds(sides[0], ends[0], draws, seed + 1)
        return cls(low, high)

    def interval(self, level: float) -> tuple[float, float]:
        """A percentile of each bound; infinite where the range has no end on that side."""
        return _bound(self.lows, (1 - level) / 2), _bound(self.highs, (1 + level) / 2)

    def p(self, null: float = 0.0) -> float:
        """Twice the share of the draws of a bound that lie on the other side of the
        null."""
        below = float((self.lows <= null).mean())
        above = float((self.highs >= null).mean())
        return min(1.0, 2 * max(min(below, above), 1 / (len(self.lows) + 1)))


def degrees_of_freedom(sides: Sequence[Clusters]) -> float:
    """Degrees of freedom, one less than the effective number of groups; of two sides by
    Welch and Satterthwaite."""
    each = [max(1.0, side.effective_groups - 1) for side in sides]
    if len(sides) == 1:
        return each[0]
    whole = sum(side.variance for side in sides) ** 2
    parts = sum(side.variance**2 / free for side, free in zip(sides, each, strict=True))
    return whole / parts if parts > 0 else min(each)


def least_p(first: int, second: int = 0) -> float:
    """The least two-sided p that so many groups give a test that assumes no distribution,
    before `few_groups_factor`.

    Of pairs, that all have one sign: 2 / 2^G. Of two sides, that all of one lie above all
    of the other.

    >>> least_p(8), least_p(6, 6)
    (0.0078125, 0.0021645021645021645)
    """
    return 2 / math.comb(first + second, first) if second else 2.0 ** (1 - first)


def few_groups_factor(groups: float) -> float:
    """By which a p of few groups is multiplied, 1 + 10 / G: they cannot show how skewed
    their distribution is.

    G is the effective number of groups (`Clusters.effective_groups`).

    >>> few_groups_factor(10), few_groups_factor(100)
    (2.0, 1.1)
    """
    return 1 + 10 / groups


def inflated_p(p: float, groups: float) -> float:
    """A p of G groups, made larger: p `few_groups_factor`(G), below 0.05 also times (0.05 / p)^¼,
    2.66 at most, and at most 1.

    Of skewed values the farthest draws of a bootstrap are too near, and the more so the
    smaller p is: of 20 prompts whose differences have skewness 1.75, p is below 0.05 in 4.6
    % of samples, but below 0.0042, which Holm's first step asks for among twelve dims, in
    0.8 %. With this factor families of twelve dims err in at most one of twenty up to
    skewness 2; see benchmarks/results/bench/bench_coverage.md.

    >>> round(inflated_p(0.05, 100), 3), round(inflated_p(0.001, 100), 5)
    (0.055, 0.00293)
    """
    return min(
        1.0,
        p
        * few_groups_factor(groups)
        * min(max(1.0, 0.05 / p), 0.05 / INFLATION_END) ** INFLATION_POWER,
    )


def p_before_inflation(alpha: float, groups: float) -> float:
    """The p that `inflated_p` makes alpha.

    >>> [round(inflated_p(p_before_inflation(alpha, 20), 20), 12) for alpha in (0.05, 0.004, 0.0001)]
    [0.05, 0.004, 0.0001]
    """
    plain, most = alpha / few_groups_factor(groups), (0.05 / INFLATION_END) ** INFLATION_POWER
    if plain >= 0.05:
        return plain
    return (
        plain / most
        if plain <= INFLATION_END * most
        else (plain / 0.05**INFLATION_POWER) ** (1 / (1 - INFLATION_POWER))
    )


def _bound(drawn: Array, share: float) -> float:
    return float(np.quantile(drawn, share)) if np.isfinite(drawn).all() else float(drawn[0])
