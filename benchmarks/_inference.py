"""What intervals and tests of few values need: Student's t, expanded percentiles, sign flips, Holm. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from math import exp, lgamma, pi, sqrt
from statistics import NormalDist

import numpy as np

Array = np.ndarray
EXACT = 14  # pairs up to which all sign changes are counted
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


def sign_flip_p(d: Sequence[float] | Array, draws: int = 20_000) -> float:
    """Two-sided p of "paired differences are symmetric about 0": share of sign changes with a sum as far from 0.

    All 2^n of them to n = 14, else `draws` at random (seed 0), the data's own counted among them: (k + 1) /
    (draws + 1). Ties, differences of 0, are kept. The least p that n pairs can give is 2 / 2^n.

    Example:
        >>> sign_flip_p([1.0, 2.0, 3.0])
        0.25
    """
    d = np.asarray(d, float)
    if len(d) <= EXACT:
        sums = np.array(list(product((1.0, -1.0), repeat=len(d)))) @ d
    else:
        sums = np.concatenate([[d.sum()], _random_signs(d, draws)])
    return float((np.abs(sums) >= abs(d.sum()) - 1e-12 * (1 + np.abs(d).sum())).mean())


def _random_signs(d: Array, draws: int) -> Array:
    """Sums (draws,) under random signs, a block at a time."""
    rng, block = np.random.default_rng(0), max(1, CELLS // len(d))
    sizes = [min(block, draws - start) for start in range(0, draws, block)]
    return np.concatenate([rng.choice((1.0, -1.0), (size, len(d))) @ d for size in sizes])


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of p values, in their order.

    Example:
        >>> [round(q, 6) for q in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
    """
    adjusted, highest = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        highest = max(highest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = highest
    return adjusted
