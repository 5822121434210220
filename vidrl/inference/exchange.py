"""Test exactly whether two unpaired sets are alike, by exchanging prompts between the sets.

Under the null hypothesis that all prompts come from one distribution, each division of the
prompts into two sets of these sizes is equally probable. The p value is the fraction of
divisions that look at least as different as the data. A prompt moves with all its clips.
Use it for sets without common prompts where exactness matters; for the interval of a
difference of means use `vidrl.inference.means.difference`.

Legend: G1, G2 groups of the two sides; s, c their sums and counts; K divisions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations

import numpy as np

from vidrl.inference.clusters import Clusters
from vidrl.inference.student import CELLS, Array

DRAWS = 20_000  # up to so many divisions all are counted; of more, so many are drawn at random
MAX_RATIO = 1e6  # ratios above are equal: they differ by the rounding of a std near 0


def exchange_p(first: Clusters, second: Clusters, draws: int = DRAWS) -> float:
    """Return the two-sided p value of the permutation test with Student's ratio.

    p is the fraction of the divisions whose |mean₁ − mean₂| / standard error is at least
    that of the data. All divisions are counted where there are at most `draws`; of more,
    `draws` are drawn at random (seed 0), and the data's own division is counted among them.
    The test is exact if both sides have the same distribution. Because its statistic is a
    ratio, the test is also valid for large sets of equal means and unequal variances (Chung
    and Romano, arXiv:1304.5939). NaN where a side has fewer than two groups.

    >>> from vidrl.inference.clusters import clusters
    >>> low, high = np.array([1.0, 2.0, 3.0]), np.array([7.0, 8.0, 9.0])
    >>> exchange_p(clusters(low, range(3)), clusters(high, range(3)))
    0.1
    """
    sizes = len(first.sums), len(second.sums)
    if min(sizes) < 2:
        return math.nan
    counts = np.concatenate([first.counts, second.counts])
    sums = np.concatenate([first.sums, second.sums])
    # Centred first: the variance is a difference of squares, which cancels for a large mean.
    sums = sums - counts * sums.sum() / counts.sum()
    own = np.arange(len(sums))[None] < sizes[0]
    found = [_ratios(sides, sums, counts) for sides in [own, *_divisions(*sizes, draws)]]
    # A complete enumeration contains the data's own division, so that found[0] is left out.
    ratios = np.concatenate(found if math.comb(sum(sizes), sizes[0]) > draws else found[1:])
    return float((ratios >= found[0][0] - 1e-9 * (1 + found[0][0])).mean())


def _divisions(G1: int, G2: int, draws: int) -> Iterator[Array]:
    """Yield blocks of divisions (K, G1 + G2); True marks the groups of the first side."""
    G = G1 + G2
    if math.comb(G, G1) <= draws:
        chosen = np.array(list(combinations(range(G), G1)))
        sides = np.zeros((len(chosen), G), bool)
        np.put_along_axis(sides, chosen, True, 1)
        yield sides
        return
    rng, block = np.random.default_rng(0), max(1, CELLS // G)
    for start in range(0, draws, block):
        # The ranks of random numbers are a random permutation of 0 .. G − 1 in each row.
        yield rng.random((min(block, draws - start), G)).argsort(1) < G1


def _ratios(sides: Array, sums: Array, counts: Array) -> Array:
    """Return |mean₁ − mean₂| / standard error of each division, (K,), at most `MAX_RATIO`.

    The limit is reached where the means differ and neither side has any variance.
    """
    (mean, variance), (other_mean, other_variance) = (
        _moments(w.astype(float), sums, counts) for w in (sides, ~sides)
    )
    gap, error = np.abs(mean - other_mean), np.sqrt(variance + other_variance)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(
            gap > 1e-12 * np.abs(sums).max(initial=0), np.minimum(gap / error, MAX_RATIO), 0.0
        )


def _moments(weights: Array, s: Array, c: Array) -> tuple[Array, Array]:
    """Return mean and variance, as in `Clusters`, of the groups with weight 1 in (K, G)."""
    # One matrix product gives Σs, Σc, Σs², Σsc and Σc² of every division; then
    # Σ(s − mean c)² = Σs² − 2 mean Σsc + mean² Σc².
    moments, G = weights @ np.stack([s, c, s * s, s * c, c * c], 1), weights.sum(1)
    mean = moments[:, 0] / moments[:, 1]
    squares = moments[:, 2] - 2 * mean * moments[:, 3] + mean**2 * moments[:, 4]
    return mean, G / (G - 1) * np.maximum(squares, 0) / moments[:, 1] ** 2
