"""Student's t, and the percentiles of a bootstrap of few values that cover as Student's t does."""

from __future__ import annotations

from functools import lru_cache
from math import exp, lgamma, pi, sqrt
from statistics import NormalDist

import numpy as np

Array = np.ndarray
CELLS = 2_000_000  # numbers drawn at once


@lru_cache
def t_quantile(df: int, level: float = 0.975) -> float:
    """Student's t quantile, by integrating its density; for level above a half.

    Example:
        >>> round(t_quantile(5), 3), round(t_quantile(9), 3)
        (2.571, 2.262)
    """
    x = np.linspace(0.0, 100.0, 1_000_001)
    scale = exp(lgamma((df + 1) / 2) - lgamma(df / 2)) / sqrt(df * pi)
    density = scale * (1 + x * x / df) ** (-(df + 1) / 2)
    below = 0.5 + np.cumsum((density[1:] + density[:-1]) / 2) * (x[1] - x[0])
    return float(x[1 + int(np.searchsorted(below, level))])


def expanded(n: int) -> tuple[float, float]:
    """The two percentiles of a bootstrap of n that cover 95 %: Φ(±√(n / (n − 1)) t_{n−1}) (Hesterberg, 1411.5279).

    The plain 2.5 % and 97.5 % are too narrow for few: with six, by a quarter.

    Example:
        >>> [round(q, 4) for q in expanded(6)]
        [0.0024, 0.9976]
    """
    reach = sqrt(n / (n - 1)) * t_quantile(n - 1)
    return NormalDist().cdf(-reach), NormalDist().cdf(reach)
