"""Compute what a number of prompts can show: detectable differences and prompts needed.

For paired sets, with 80 % power after Holm's correction, by `vidrl.inference.power`.
"""

from __future__ import annotations

import math
from functools import lru_cache

from vidrl.inference.power import least_detectable, required_p

# The sizes that are tried: round numbers, about 25 % apart.
PROMPTS = (
    6,
    8,
    10,
    12,
    14,
    16,
    20,
    25,
    30,
    40,
    50,
    60,
    80,
    100,
    125,
    150,
    200,
    250,
    300,
    400,
    500,
    750,
    1000,
)


def detectable_difference(std: float, groups: int, family: int) -> float | None:
    """Return the smallest mean difference that 80 % of such comparisons find, or None.

    `std` is the standard deviation of the prompts' differences, `groups` the number of
    prompts, `family` the number of comparisons that p is corrected for.

    >>> round(detectable_difference(1.0, 100, 1), 2), detectable_difference(1.0, 8, 12)
    (0.29, None)
    """
    found = _detectable_in_stds(groups, family) * std if math.isfinite(std) else math.inf
    return found if math.isfinite(found) else None


def prompts_needed(std: float, difference: float, family: int) -> int | None:
    """Return about how many prompts find this difference in 80 % of comparisons.

    The answer is one of `PROMPTS`, by bisection; None if the largest of them is too small.

    >>> prompts_needed(1.0, 0.5, 1), prompts_needed(1.0, 0.01, 1)
    (40, None)
    """
    if not (math.isfinite(std) and std > 0 and difference):
        return None
    low, high = 0, len(PROMPTS)
    while low < high:
        middle = (low + high) // 2
        low, high = (
            (low, middle)
            if _detectable_in_stds(PROMPTS[middle], family) * std <= abs(difference)
            else (middle + 1, high)
        )
    return PROMPTS[low] if low < len(PROMPTS) else None


@lru_cache
def fewest_prompts(family: int) -> int:
    """Return the smallest number of prompts with which a family can have a verdict at all.

    >>> fewest_prompts(1), fewest_prompts(12)
    (8, 12)
    """
    return next(groups for groups in range(2, 200) if required_p(groups, family))


@lru_cache(maxsize=1000)
def _detectable_in_stds(groups: int, family: int) -> float:
    """Return the detectable difference in units of the standard deviation."""
    return least_detectable(1.0, groups, family) if groups > 1 else math.inf
