"""Whether a difference is small enough: non-inferiority and equivalence, from its 95 %
interval.

A difference that is not significant is not shown to be small. Both questions are answered
by the interval: that a difference is above −margin, by its lower end (one test at 2.5 %);
that it is within ±margin, by both ends (two one-sided tests at 2.5 %; Schuirmann 1987,
doi:10.1007/BF01068419).
"""

from __future__ import annotations

import math

from vidrl.inference.means import Interval


def not_worse(difference: Interval, margin: float) -> bool:
    """Whether the difference, better is higher, is shown to be above −margin: the lower end
    of its interval is.

    False where there is no interval, since nothing is shown then. Raises ValueError for a
    margin that is not above 0.

    >>> not_worse(Interval(-0.1, -0.3, 0.1, 40, 40), 0.5), not_worse(Interval(0.1, -0.6, 0.8, 9, 9), 0.5)
    (True, False)
    """
    return difference.low > -_checked(margin)


def equivalent(difference: Interval, margin: float) -> bool:
    """Whether the difference is shown to be within ±margin: its interval is. Raises as
    `not_worse` does.

    >>> equivalent(Interval(-0.1, -0.3, 0.1, 40, 40), 0.5), equivalent(Interval(0.4, 0.2, 0.6, 40, 40), 0.5)
    (True, False)
    """
    return difference.low > -_checked(margin) and difference.high < margin


def _checked(margin: float) -> float:
    if not (math.isfinite(margin) and margin > 0):
        raise ValueError(
            f"expected a margin above 0, the largest difference that does not matter, got {margin}"
        )
    return margin
