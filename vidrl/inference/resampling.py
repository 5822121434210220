"""Student's ratio in samples of whole groups drawn with replacement: a studentised cluster
bootstrap.

Bootstrap-t: Hall 1992, "The Bootstrap and Edgeworth Expansion"; over clusters: Cameron,
Gelbach and Miller 2008, doi:10.1162/rest.90.3.414. Groups are drawn with replacement, each
with all its values: the spread of the groups' means holds that of their values already, and
to draw those of a drawn group anew would count it twice (Davison and Hinkley 1997,
"Bootstrap Methods and their Application", 3.8).

Legend: as in `vidrl.inference.clusters`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np

from vidrl.inference.clusters import Clusters, negated
from vidrl.inference.student import CELLS, Array

DRAWS = 10_000  # by which the percentiles of one seed are right to 0.2 %


def bootstrap_ratios(sides: Sequence[Clusters], draws: int = DRAWS, seed: int = 0) -> Array:
    """Student's ratio of each draw, sorted, of one side's mean, or of the second's less the
    first's, (draws,) or fewer.

    Draws without any spread, which have no ratio, are left out. Negated values give exactly
    the negated ratios.
    """
    if len(sides) == 1 and ((sides[0].sums - sides[0].mean * sides[0].counts) ** 3).sum() < 0:
        return -_sorted_ratios([negated(sides[0])], draws, seed)[::-1]
    return _sorted_ratios(sides, draws, seed)


def _sorted_ratios(sides: Sequence[Clusters], draws: int, seed: int) -> Array:
    moved, variance = np.zeros(draws), np.zeros(draws)
    for number, side in enumerate(sides):
        found = [
            _deviations_and_variances(side, weights)
            for weights in _weights(len(side.sums), draws, seed, number)
        ]
        moved = np.concatenate([d for d, _ in found]) - moved
        variance += np.concatenate([v for _, v in found])
    spread = variance > 1e-12 * sum(side.variance for side in sides)
    return np.sort(moved[spread] / np.sqrt(variance[spread]))


def _deviations_and_variances(side: Clusters, weights: Array) -> tuple[Array, Array]:
    """How far the mean of each draw, under weights (draws, G), is from the mean, and its
    variance as of `Clusters`."""
    s, c, G = side.sums - side.mean * side.counts, side.counts, len(side.sums)
    moments = weights @ np.stack([s, c, s * s, s * c, c * c], 1)
    moved = moments[:, 0] / moments[:, 1]
    squares = moments[:, 2] - 2 * moved * moments[:, 3] + moved**2 * moments[:, 4]
    return moved, G / (G - 1) * np.maximum(squares, 0) / moments[:, 1] ** 2


def _weights(G: int, draws: int, seed: int, side: int) -> Iterable[Array]:
    """How often each group is drawn, (draws, G), a block of draws at a time."""
    if G * draws <= CELLS:
        return [_cached_counts(G, draws, seed, side)]
    rng, block = np.random.default_rng([seed, side]), max(1, CELLS // G)
    return (_counts(rng, G, min(block, draws - start)) for start in range(0, draws, block))


@lru_cache(maxsize=8)
def _cached_counts(G: int, draws: int, seed: int, side: int) -> Array:
    """Kept: all dims of a set, and most of its neighbour's, have as many groups."""
    return _counts(np.random.default_rng([seed, side]), G, draws)


def _counts(rng: np.random.Generator, G: int, draws: int) -> Array:
    drawn = rng.integers(0, G, (draws, G)) + G * np.arange(draws)[:, None]
    return np.bincount(drawn.ravel(), minlength=draws * G).reshape(draws, G).astype(float)
