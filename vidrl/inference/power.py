"""Compute the least difference that G prompts can detect, and how many prompts one needs.

Use it to plan a comparison of paired sets before the clips are sampled: power is the
probability that a true difference becomes significant.

Legend: G prompts; std is the standard deviation of the prompts' differences (of their means,
where a prompt has several clips); m tests in the family; δ is the true difference in
standard errors, difference / (std / √G).
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import nctdtr

from vidrl.inference.confidence import least_p, p_before_inflation
from vidrl.inference.means import LEAST_GROUPS
from vidrl.inference.resampling import DRAWS
from vidrl.inference.student import t_quantile

POWER = 0.8  # the usual convention
MOST_PROMPTS = 1_000_000  # the search ends here


def power(delta: float, groups: int, alpha: float) -> float:
    """Return how often a two-sided t test at alpha finds a true difference.

    `delta` is the difference in standard errors. The test statistic has the noncentral t
    distribution with groups − 1 degrees of freedom, and the power is P(|T| > t_{1−α/2}).

    >>> round(power(3.0, 20, 0.05), 3), round(power(0.0, 20, 0.05), 3)
    (0.812, 0.05)
    """
    freedom = groups - 1
    critical = t_quantile(freedom, 1 - alpha / 2)
    below = nctdtr(freedom, delta, [-critical, critical])
    lower, upper = np.nan_to_num(below)  # scipy returns NaN for some values below 1e-14
    return float(lower + 1 - upper)


def least_detectable(
    std: float, groups: int, family: int = 1, alpha: float = 0.05, wanted: float = POWER
) -> float:
    """Return the least true difference that is significant with probability `wanted`.

    The difference is one of `family` tests, so that its p value must be below alpha /
    family, Holm's first step, after `inflated_p`. Solved for δ by bisection of `power`, then
    δ std / √G. The factor 1 + 1 / G accounts for the bootstrap, whose interval is a little
    wider than Student's t. Infinite where so few prompts can never be significant. Skewed
    differences need somewhat more; benchmarks/results/bench/bench_coverage.md has the
    simulated detection rates.

    >>> round(least_detectable(1.0, 100), 3), least_detectable(1.0, 8, family=12)
    (0.291, inf)
    """
    level = required_p(groups, family, alpha)
    if not level:
        return math.inf
    low, high = 0.0, 4.0
    while power(high, groups, level) < wanted:
        high *= 2
    for _ in range(30):  # the width 4 · 2^-30 is far below what anybody prints
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle, groups, level) >= wanted else (middle, high)
    return high * (1 + 1 / groups) * std / math.sqrt(groups)


def prompts_needed(
    std: float, difference: float, family: int = 1, alpha: float = 0.05, wanted: float = POWER
) -> int:
    """Return the least number of prompts for which `least_detectable` is at most `difference`.

    Raises ValueError for a difference or std that is not above 0, and if more than a million
    prompts are needed.

    >>> prompts_needed(1.0, 0.5), prompts_needed(1.0, 5.0, family=12)
    (39, 12)
    """
    if not (difference > 0 and std > 0):
        raise ValueError(f"expected a difference and a std above 0, got {difference} and {std}")
    # Double the number until it is enough, then bisect between the last two numbers.
    low, high = LEAST_GROUPS - 1, LEAST_GROUPS
    while least_detectable(std, high, family, alpha, wanted) > difference:
        low, high = high, 2 * high
        if high > MOST_PROMPTS:
            raise ValueError(
                f"a difference of {difference} at a std of {std} needs more than "
                f"{MOST_PROMPTS:,} prompts"
            )
    while high - low > 1:
        middle = (low + high) // 2
        enough = least_detectable(std, middle, family, alpha, wanted) <= difference
        low, high = (low, middle) if enough else (middle, high)
    return high


def required_p(groups: int, family: int = 1, alpha: float = 0.05) -> float:
    """Return the p value, before `inflated_p`, that makes one of `family` tests significant.

    0 where so few prompts cannot reach it: p is at least `least_p` of the prompts and at
    least 2 / (draws + 1) of the bootstrap.

    >>> required_p(8, 12), round(required_p(20, 4), 5)
    (0.0, 0.00459)
    """
    if groups < LEAST_GROUPS:
        return 0.0
    level = p_before_inflation(alpha / family, groups)
    draws = max(DRAWS, 250 * family)  # the number of draws in vidrl.bench.difference
    return level if max(least_p(groups), 2 / (draws + 1)) < level else 0.0
