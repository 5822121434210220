"""Test exactly whether paired differences are symmetric about 0, by changing their signs.

The null hypothesis is symmetry about 0, not a mean of 0: of skewed differences with mean 0
the test calls 10 to 13 % significant at 5 %. For the mean of differences use
`vidrl.inference.means.interval`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from vidrl.inference.student import CELLS, Array

EXACT = 14  # pairs up to which all 2^n sign changes are counted


def sign_flip_p(d: Sequence[float] | Array, draws: int = 20_000) -> float:
    """Return the two-sided p value of the sign-flip test of paired differences d.

    p is the fraction of sign changes whose |Σ ±d| is at least |Σ d|. All 2^n sign changes
    are counted up to n = 14; for more pairs `draws` are drawn at random (seed 0), and the
    data's own signs are counted among them: (k + 1) / (draws + 1). Differences of 0 (ties)
    stay in the sample. The least p value of n pairs is 2 / 2^n. Source: Fisher 1935, "The
    Design of Experiments", 21.

    Example:
        >>> sign_flip_p([1.0, 2.0, 3.0])
        0.25
    """
    d = np.asarray(d, float)
    if len(d) <= EXACT:
        sums = np.array(list(product((1.0, -1.0), repeat=len(d)))) @ d
    else:
        sums = np.concatenate([[d.sum()], _random_signs(d, draws)])
    # The tolerance counts sums that are equal except for rounding as equal.
    return float((np.abs(sums) >= abs(d.sum()) - 1e-12 * (1 + np.abs(d).sum())).mean())


def _random_signs(d: Array, draws: int) -> Array:
    """Return the sums (draws,) of d under random signs, computed in blocks to bound memory."""
    rng, block = np.random.default_rng(0), max(1, CELLS // len(d))
    sizes = [min(block, draws - start) for start in range(0, draws, block)]
    return np.concatenate([rng.choice((1.0, -1.0), (size, len(d))) @ d for size in sizes])
