"""An exact test of two unpaired sets that are alike: prompts change sides, each with all
its clips.

Its null is that both are of one distribution. Of means ask
`vidrl.inference.means.difference`.

Legend: G1, G2 groups of the two sides; s, c their sums and counts; K ways to divide them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations

import numpy as np

from vidrl.inference.clusters import Clusters
from vidrl.inference.student import CELLS, Array

DRAWS = 20_000  # ways to divide the groups up to which all are counted, else so many at random
MAX_RATIO = 1e6  # standard errors from which on only rounding tells two ratios apart


def exchange_p(first: Clusters, second: Clusters, draws: int = DRAWS) -> float:
    """Two-sided p of "the means are equal": share of the divisions with a Student's ratio
    as far from 0.

    All of them to `draws`, else `draws` at random (seed 0), the data's own counted among
    them. By its ratio the test is exact where the sides are alike, and holds for large ones
    of unequal spreads (Chung and Romano, arXiv:1304.5939). NaN where a side has fewer than
    two groups.

    >>> from vidrl.inference.clusters import clusters
    >>> exchange_p(clusters(np.array([1.0, 2.0, 3.0]), range(3)), clusters(np.array([7.0, 8.0, 9.0]), range(3)))
    0.1
    """
    sizes = len(first.sums), len(second.sums)
    if min(sizes) < 2:
        return math.nan
    counts = np.concatenate([first.counts, second.counts])
    sums = np.concatenate([first.sums, second.sums])
    sums = sums - counts * sums.sum() / counts.sum()  # less to cancel
    own = np.arange(len(sums))[None] < sizes[0]
    found = [_ratios(sides, sums, counts) for sides in [own, *_divisions(*sizes, draws)]]
    ratios = np.concatenate(found if math.comb(sum(sizes), sizes[0]) > draws else found[1:])
    return float((ratios >= found[0][0] - 1e-9 * (1 + found[0][0])).mean())


def _divisions(G1: int, G2: int, draws: int) -> Iterator[Array]:
    """Which groups are on the first side, (K, G1 + G2), a block of divisions at a time."""
    G = G1 + G2
    if math.comb(G, G1) <= draws:
        chosen = np.array(list(combinations(range(G), G1)))
        sides = np.zeros((len(chosen), G), bool)
        np.put_along_axis(sides, chosen, True, 1)
        yield sides
        return
    rng, block = np.random.default_rng(0), max(1, CELLS // G)
    for start in range(0, draws, block):
        yield rng.random((min(block, draws - start), G)).argsort(1) < G1


def _ratios(sides: Array, sums: Array, counts: Array) -> Array:
    """|mean − mean| by its standard error, (K,), `MAX_RATIO` at most: both sides have no
    spread, but other means."""
    (mean, variance), (other, another) = (
        _moments(w.astype(float), sums, counts) for w in (sides, ~sides)
    )
    gap, error = np.abs(mean - other), np.sqrt(variance + another)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(
            gap > 1e-12 * np.abs(sums).max(initial=0), np.minimum(gap / error, MAX_RATIO), 0.0
        )


def _moments(weights: Array, s: Array, c: Array) -> tuple[Array, Array]:
    """Mean and variance, as of `Clusters`, of the groups chosen by weights (K, G) of 0 and
    1."""
    moments, G = weights @ np.stack([s, c, s * s, s * c, c * c], 1), weights.sum(1)
    mean = moments[:, 0] / moments[:, 1]
    squares = moments[:, 2] - 2 * mean * moments[:, 3] + mean**2 * moments[:, 4]
    return mean, G / (G - 1) * np.maximum(squares, 0) / moments[:, 1] ** 2
