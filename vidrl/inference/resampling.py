"""Draw whole groups with replacement and compute Student's ratio of each draw.

This is the studentised cluster bootstrap, or bootstrap-t: Hall 1992, "The Bootstrap and
Edgeworth Expansion"; over clusters: Cameron, Gelbach and Miller 2008,
doi:10.1162/rest.90.3.414. The ratio (mean of the draw − mean) / (standard error of the draw)
has nearly the same distribution whatever the variance, so that its percentiles are more
precise than those of the means.

A drawn group keeps all its values. To draw values within a drawn group as well would count
their variance twice, because the variance of the groups' means contains the variance of
their values (Davison and Hinkley 1997, "Bootstrap Methods and their Application", 3.8).

Legend: as in `vidrl.inference.clusters`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np

from vidrl.inference.clusters import Clusters, negated
from vidrl.inference.student import CELLS, Array

DRAWS = 10_000  # the percentiles of one seed are then right to 0.2 %


def bootstrap_ratios(sides: Sequence[Clusters], draws: int = DRAWS, seed: int = 0) -> Array:
    """Return the sorted ratios of one side's mean, or of the second mean minus the first.

    Shape (draws,) or shorter, because a draw without any variance has no ratio and is left
    out. Values with opposite sign give exactly the negated ratios.
    """
    # Of x and −x, the one whose third moment is positive is drawn, and the result negated:
    # the same random groups would give other ratios for −x.
    if len(sides) == 1 and ((sides[0].sums - sides[0].mean * sides[0].counts) ** 3).sum() < 0:
        return -_sorted_ratios([negated(sides[0])], draws, seed)[::-1]
    return _sorted_ratios(sides, draws, seed)


def _sorted_ratios(sides: Sequence[Clusters], draws: int, seed: int) -> Array:
    """Return the sorted ratios of all draws that have a variance above rounding."""
    deviation, variance = np.zeros(draws), np.zeros(draws)
    for number, side in enumerate(sides):
        blocks = [
            _deviations_and_variances(side, weights)
            for weights in _weights(len(side.sums), draws, seed, number)
        ]
        # The second side minus the first: each pass subtracts what the former pass left.
        deviation = np.concatenate([d for d, _ in blocks]) - deviation
        variance += np.concatenate([v for _, v in blocks])
    varies = variance > 1e-12 * sum(side.variance for side in sides)
    return np.sort(deviation[varies] / np.sqrt(variance[varies]))


def _deviations_and_variances(side: Clusters, weights: Array) -> tuple[Array, Array]:
    """Return each draw's mean minus the mean, and its variance; weights have shape (draws, G).

    The variance is that of `Clusters.variance`, from Σs, Σc, Σs², Σsc and Σc² of each draw.
    """
    s, c = side.sums - side.mean * side.counts, side.counts
    G = len(s)
    moments = weights @ np.stack([s, c, s * s, s * c, c * c], 1)
    deviation = moments[:, 0] / moments[:, 1]
    squares = moments[:, 2] - 2 * deviation * moments[:, 3] + deviation**2 * moments[:, 4]
    return deviation, G / (G - 1) * np.maximum(squares, 0) / moments[:, 1] ** 2


def _weights(G: int, draws: int, seed: int, side: int) -> Iterable[Array]:
    """Return how often each group is drawn, (draws, G), in blocks of draws to bound memory."""
    if G * draws <= CELLS:
        return [_cached_counts(G, draws, seed, side)]
    rng, block = np.random.default_rng([seed, side]), max(1, CELLS // G)
    return (_counts(rng, G, min(block, draws - start)) for start in range(0, draws, block))


@lru_cache(maxsize=8)
def _cached_counts(G: int, draws: int, seed: int, side: int) -> Array:
    """Return the counts, cached because all dims of a set have nearly always as many groups."""
    return _counts(np.random.default_rng([seed, side]), G, draws)


def _counts(rng: np.random.Generator, G: int, draws: int) -> Array:
    """Return random counts (draws, G): each row counts G draws of one of G groups."""
    # The offset gives each row its own range of numbers, so that one bincount counts all rows.
    drawn = rng.integers(0, G, (draws, G)) + G * np.arange(draws)[:, None]
    return np.bincount(drawn.ravel(), minlength=draws * G).reshape(draws, G).astype(float)
