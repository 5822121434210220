"""What so many prompts can show: the least difference that a comparison finds, and how many
prompts one needs.

By `vidrl.inference.power`, for paired sets, at 80 % power after Holm's correction.
"""

from __future__ import annotations

import math
from functools import lru_cache

from vidrl.inference.power import least_detectable, reachable

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
    """The least mean difference found in 80 % of such comparisons; `std` is of prompts'
    differences. None: none is.

    >>> round(detectable_difference(1.0, 100, 1), 2), detectable_difference(1.0, 8, 12)
    (0.29, None)
    """
    found = _detectable_in_stds(groups, family) * std if math.isfinite(std) else math.inf
    return found if math.isfinite(found) else None


def prompts_needed(std: float, difference: float, family: int) -> int | None:
    """About how many prompts find this difference in 80 % of comparisons, of `PROMPTS`;
    None where all are too few.

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
    """The fewest prompts by which anything can be beyond doubt in a family of so many
    comparisons.

    >>> fewest_prompts(1), fewest_prompts(12)
    (8, 12)
    """
    return next(groups for groups in range(2, 200) if reachable(groups, family))


@lru_cache(maxsize=1000)
def _detectable_in_stds(groups: int, family: int) -> float:
    return least_detectable(1.0, groups, family) if groups > 1 else math.inf
