"""An exact test of symmetric paired differences: their signs change in every way.

Its null is symmetry about 0, not a mean of 0: of skewed differences of mean 0 it calls 10
to 13 % significant. Of means ask `vidrl.inference.means.interval`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from vidrl.inference.student import CELLS, Array

EXACT = 14  # pairs up to which all sign changes are counted


def sign_flip_p(d: Sequence[float] | Array, draws: int = 20_000) -> float:
    """Two-sided p of "paired differences are symmetric about 0": share of sign changes with
    a sum as far from 0.

    All 2^n of them to n = 14, else `draws` at random (seed 0), the data's own counted among
    them: (k + 1) / (draws + 1). Ties, differences of 0, are kept. The least p that n pairs
    can give is 2 / 2^n.

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
