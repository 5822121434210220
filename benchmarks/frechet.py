"""Compute the Fréchet distance of features: FID of frames, FVD of clips.

Legend: N clips, D features, μ their mean, S their covariance, R a root of it: RᵀR = S.
"""

from __future__ import annotations

import numpy as np

from vidrl.inference.student import Array

from .base import Benchmark


class Frechet(Benchmark):
    """The squared 2-Wasserstein distance of two normal distributions fitted to the features.

    The formula is |μ1 − μ2|² + tr(S1 + S2 − 2 (S1 S2)^½). It grows as clips get fewer. With
    no more clips than features S is singular, and there is no distance; with at least twice
    as many clips as features the intervals contain the truth
    (tests/bench/test_distances.py), with fewer there is no interval. S is divided by N − 1.
    tr (S1 S2)^½ is the sum of the singular values of R1 R2ᵀ, so that no square root of a
    non-symmetric matrix is needed, which is numerically unstable. Source: arXiv:1706.08500;
    of videos, arXiv:1812.01717.

    >>> x = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])
    >>> round(Frechet().biased(x, x + [3.0, 4.0]), 6)  # |(3, 4)|²
    25.0
    >>> round(Frechet().biased(x, 2 * x), 6)  # |(1, 1)|² + 2 · 4/3
    4.666667
    """

    least = 2048  # FID of fewer clips is dominated by its bias
    instead = "; the kernel distance has no such limit"

    def fewest_for(self, D: int) -> tuple[int, int]:
        """Return the fewest clips of D features for a distance, and the fewest for an interval.

        More clips than features make the covariance regular; twice as many give an
        interval.
        """
        return max(self.fewest, D + 1), max(self.fewest, 2 * D)

    def biased(self, first: Array, second: Array) -> float:
        """Return the distance of the sets' own means and covariances."""
        # tr S = Σ R², and tr (S1 S2)^½ is the sum of the singular values of R1 R2ᵀ.
        shift = first.mean(0) - second.mean(0)
        roots = [root(side) for side in (first, second)]
        shared = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
        return float(shift @ shift + sum((side * side).sum() for side in roots) - 2 * shared)


def root(features: Array) -> Array:
    """Return R with RᵀR the covariance of features (N, D); R is (N, D), or (D, D) if D < N.

    >>> x = np.random.default_rng(0).normal(size=(9, 3))
    >>> all(np.allclose(root(y).T @ root(y), np.cov(y.T)) for y in (x, x[:3]))
    True
    """
    centred = (features - features.mean(0)) / np.sqrt(len(features) - 1)
    if len(features) <= features.shape[1]:
        return centred  # already a root, and smaller than (D, D)
    # The (D, D) root costs less than (N, D) in the singular values that `biased` needs.
    values, vectors = np.linalg.eigh(centred.T @ centred)
    # Rounding can make eigenvalues of a singular covariance slightly negative.
    return np.sqrt(np.maximum(values, 0))[:, None] * vectors.T
