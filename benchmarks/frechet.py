"""The Fréchet distance of features: FID of frames, FVD of clips.

Legend: N clips, D features, μ their mean, S their covariance, R a root of it: RᵀR = S.
"""

from __future__ import annotations

import numpy as np

from vidrl.inference.student import Array

from .base import Benchmark


class Frechet(Benchmark):
    """|μ1 − μ2|² + tr(S1 + S2 − 2 (S1 S2)^½), the squared 2-Wasserstein distance of two
    normal distributions.

    It grows as clips get fewer. With no more clips than features S is singular, and there
    is no distance; from twice as many clips as features on the intervals hold the truth
    (tests/bench/test_distances.py), below there is none. S is divided by N − 1. tr (S1
    S2)^½ is the sum of the singular values of R1 R2ᵀ, with roots R of either shape, so that
    no square root of a matrix that is not symmetric is taken. Source: arXiv:1706.08500; of
    videos, arXiv:1812.01717.

    >>> x = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])
    >>> round(Frechet().biased(x, x + [3.0, 4.0]), 6), round(Frechet().biased(x, 2 * x), 6)  # 25; |(1, 1)|² + 2 · 4/3
    (25.0, 4.666667)
    """

    least = 2048
    instead = "; the kernel distance has no such limit"

    def fewest_for(self, D: int) -> tuple[int, int]:
        """More clips than features for a covariance that is not singular, twice as many for
        an interval."""
        return max(self.fewest, D + 1), max(self.fewest, 2 * D)

    def biased(self, first: Array, second: Array) -> float:
        """The distance of the sets' own means and covariances."""
        shift = first.mean(0) - second.mean(0)
        roots = [root(side) for side in (first, second)]
        shared = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
        return float(shift @ shift + sum((one * one).sum() for one in roots) - 2 * shared)


def root(features: Array) -> Array:
    """R of features (N, D) with RᵀR their covariance: (N, D), or (D, D) where that is less.

    >>> x = np.random.default_rng(0).normal(size=(9, 3))
    >>> all(np.allclose(root(y).T @ root(y), np.cov(y.T)) for y in (x, x[:3]))
    True
    """
    centred = (features - features.mean(0)) / np.sqrt(len(features) - 1)
    if len(features) <= features.shape[1]:
        return centred
    values, vectors = np.linalg.eigh(centred.T @ centred)
    return np.sqrt(np.maximum(values, 0))[:, None] * vectors.T
