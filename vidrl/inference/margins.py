"""Decide whether a difference is small enough: non-inferiority and equivalence.

A difference that is not significant is not shown to be small: the data may be too few. The
95 % interval answers both questions. Non-inferiority, the difference is above −margin: the
lower end is above −margin (one test at 2.5 %). Equivalence, the difference lies in
±margin: both ends do (two one-sided tests at 2.5 %; Schuirmann 1987,
doi:10.1007/BF01068419).
"""

from __future__ import annotations

import math

from vidrl.inference.means import Interval


def not_worse(difference: Interval, margin: float) -> bool:
    """Return whether the interval shows that the difference is above −margin.

    The difference is new minus old, and higher values are better. False where there is no
    interval. Raises ValueError for a margin that is not above 0.

    >>> not_worse(Interval(-0.1, -0.3, 0.1, 40, 40), 0.5)
    True
    >>> not_worse(Interval(0.1, -0.6, 0.8, 9, 9), 0.5)
    False
    """
    return difference.low > -_checked(margin)


def equivalent(difference: Interval, margin: float) -> bool:
    """Return whether the interval shows that the difference lies between −margin and margin.

    False where there is no interval. Raises ValueError for a margin that is not above 0.

    >>> equivalent(Interval(-0.1, -0.3, 0.1, 40, 40), 0.5)
    True
    >>> equivalent(Interval(0.4, 0.2, 0.6, 40, 40), 0.5)
    False
    """
    return difference.low > -_checked(margin) and difference.high < margin


def _checked(margin: float) -> float:
    """Return the margin, or raise ValueError if it is not a finite number above 0."""
    if not (math.isfinite(margin) and margin > 0):
        raise ValueError(
            f"expected a margin above 0, the largest difference that does not matter, got {margin}"
        )
    return margin
