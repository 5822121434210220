"""Intervals by drawing whole groups of values: a studentised cluster bootstrap.

Bootstrap-t: Hall 1992, "The Bootstrap and Edgeworth Expansion"; over clusters: Cameron, Gelbach and Miller 2008,
doi:10.1162/rest.90.3.414. Groups are drawn with replacement, each with all its values: the spread of the groups' means
holds that of their values already, and to draw those of a drawn group anew would count it twice (Davison and Hinkley
1997, "Bootstrap Methods and their Application", 3.8).

Legend: as in `vidrl.inference.clusters`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np

from vidrl.inference.clusters import Clusters
from vidrl.inference.student import CELLS, Array, t_quantile

STUDENT = 8  # groups below which a bootstrap has too few different draws: Student's t instead
DRAWS = 10_000  # by which the percentiles of one seed are right to 0.2 %
DEGENERATE = 0.005  # share of draws without spread that a bootstrap-t may have


def bounds(estimate: float, variance: float, sides: Sequence[Clusters], level: float, draws: int, seed: int
           ) -> tuple[float, float]:
    """The interval of the mean of one side, or of the second's less the first's.

    Bootstrap-t; Student's t, with Welch's degrees of freedom, where a side has few groups or many draws no spread.
    """
    if not math.isfinite(variance):
        return math.nan, math.nan
    error = math.sqrt(variance)
    drawn = _ratios(sides, draws, seed) if min(len(side.sums) for side in sides) >= STUDENT else None
    if drawn is None:
        reach = t_quantile(_freedom(sides), (1 + level) / 2)
        return estimate - reach * error, estimate + reach * error
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(estimate - high * error), float(estimate - low * error)


def _ratios(sides: Sequence[Clusters], draws: int, seed: int) -> Array | None:
    """Student's ratio of each draw, (draws,); None where too many draws have no spread."""
    moved, variance = np.zeros(draws), np.zeros(draws)
    for number, side in enumerate(sides):
        found = [_departure(side, weights) for weights in _weights(len(side.sums), draws, seed, number)]
        moved = np.concatenate([d for d, _ in found]) - moved
        variance += np.concatenate([v for _, v in found])
    least = 1e-12 * sum(side.variance for side in sides)
    spread = variance > least
    return moved[spread] / np.sqrt(variance[spread]) if spread.mean() >= 1 - DEGENERATE else None


def _departure(side: Clusters, weights: Array) -> tuple[Array, Array]:
    """How far the mean of each draw, under weights (draws, G), is from the mean, and its variance as of `Clusters`."""
    s, c, G = side.sums - side.mean * side.counts, side.counts, len(side.sums)
    moments = weights @ np.stack([s, c, s * s, s * c, c * c], 1)
    moved = moments[:, 0] / moments[:, 1]
    squares = moments[:, 2] - 2 * moved * moments[:, 3] + moved**2 * moments[:, 4]
    return moved, G / (G - 1) * np.maximum(squares, 0) / moments[:, 1] ** 2


def _weights(G: int, draws: int, seed: int, side: int) -> Iterable[Array]:
    """How often each group is drawn, (draws, G), a block of draws at a time."""
    if G * draws <= CELLS:
        return [_drawn(G, draws, seed, side)]
    rng, block = np.random.default_rng([seed, side]), max(1, CELLS // G)
    return (_counts(rng, G, min(block, draws - start)) for start in range(0, draws, block))


@lru_cache(maxsize=8)
def _drawn(G: int, draws: int, seed: int, side: int) -> Array:
    """Kept: all dims of a set, and most of its neighbour's, have as many groups."""
    return _counts(np.random.default_rng([seed, side]), G, draws)


def _counts(rng: np.random.Generator, G: int, draws: int) -> Array:
    drawn = rng.integers(0, G, (draws, G)) + G * np.arange(draws)[:, None]
    return np.bincount(drawn.ravel(), minlength=draws * G).reshape(draws, G).astype(float)


def _freedom(sides: Sequence[Clusters]) -> int:
    """Degrees of freedom, of two sides by Welch and Satterthwaite, rounded down."""
    if len(sides) == 1:
        return len(sides[0].sums) - 1
    whole = sum(side.variance for side in sides) ** 2
    parts = sum(side.variance**2 / (len(side.sums) - 1) for side in sides)
    return max(1, int(whole / parts)) if parts > 0 else min(len(side.sums) for side in sides) - 1
