"""Bounds of a mean whose range is known: one group more, at the end of the range, and
random weights for all.

Gaffke's bound (Learned-Miller and Thomas 2019, arXiv:1905.06208): weights of the G groups
and of one more at the end of the range are drawn from the flat Dirichlet distribution; a
percentile of the weighted means is the bound. Of zeros and ones it is the exact bound of
Clopper and Pearson. It holds where a bootstrap has nothing to draw from: where all values,
or nearly all, lie at one end. If any value rises, no bound falls. That it holds for every
distribution is not proven, but no exception is known; benchmarks/results/bench/bench_coverage.md
has ours.

Legend: as in `vidrl.inference.clusters`; w is the weight of the further group, and e its
value.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np

from vidrl.inference.clusters import Clusters, negated
from vidrl.inference.student import CELLS, Array


def lower_bounds(side: Clusters, end: float, draws: int, seed: int) -> Array:
    """Weighted means with one group more at the lower end of the range, (draws,), not
    sorted.

    The further group has as many values as a group has in the mean. Without an end, −∞, so
    are the means.
    """
    size = side.counts.mean()
    found = [
        (weights @ side.sums, weights @ side.counts, w)
        for weights, w in _weights(len(side.sums), draws, seed)
    ]
    sums, counts, w = (np.concatenate(column) for column in zip(*found, strict=True))
    return (sums + w * size * end) / (counts + w * size)


def upper_bounds(side: Clusters, end: float, draws: int, seed: int) -> Array:
    """The same at the upper end: those of the negated values, negated."""
    return -lower_bounds(negated(side), -end, draws, seed)


def _weights(G: int, draws: int, seed: int) -> Iterable[tuple[Array, Array]]:
    """Weights of the groups (draws, G) and of the further group (draws,), a block at a
    time."""
    if G * draws <= CELLS:
        return [_cached_weights(G, draws, seed)]
    block = max(1, CELLS // G)
    rng, w = np.random.default_rng([seed, G]), _extra_weights(G, draws, seed)
    return (
        _dirichlet_weights(rng, G, w[start : start + block]) for start in range(0, draws, block)
    )


@lru_cache(maxsize=8)
def _cached_weights(G: int, draws: int, seed: int) -> tuple[Array, Array]:
    """Kept: most shares of a table are of as many groups."""
    return _dirichlet_weights(np.random.default_rng([seed, G]), G, _extra_weights(G, draws, seed))


def _extra_weights(G: int, draws: int, seed: int) -> Array:
    """Weights of the further group, Beta(1, G): one in each of `draws` equal parts of the
    distribution, shuffled.

    Where all values are equal nothing else is random, and so the bound is exact.
    """
    u = (np.random.default_rng([seed, draws]).permutation(draws) + 0.5) / draws
    return 1 - u ** (1 / G)


def _dirichlet_weights(rng: np.random.Generator, G: int, w: Array) -> tuple[Array, Array]:
    drawn = rng.exponential(size=(len(w), G))
    return drawn * ((1 - w) / drawn.sum(1))[:, None], w
