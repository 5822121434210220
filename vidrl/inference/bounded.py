"""Bound a mean whose values have a known range, by one extra group at the end of the range.

Use it where all values, or nearly all, lie at one end of the range, such as a dim that is
saturated at 1: a bootstrap of equal values has no variance, and its interval would be a
point.

Gaffke's bound (Learned-Miller and Thomas 2019, arXiv:1905.06208): the weights of the G
groups and of an extra group at the end of the range are drawn from the flat Dirichlet
distribution; a percentile of the weighted means is the bound. For zeros and ones the bound
is the exact one of Clopper and Pearson. If any value rises, no bound falls. It is not
proven that the bound holds for every distribution, but no exception is known; our
simulations are in benchmarks/results/bench/bench_coverage.md.

Legend: as in `vidrl.inference.clusters`; w is the weight of the extra group.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np

from vidrl.inference.clusters import Clusters, negated
from vidrl.inference.student import CELLS, Array


def lower_bounds(side: Clusters, end: float, draws: int, seed: int) -> Array:
    """Return draws of the lower bound of the mean, (draws,), unsorted; `end` is the least value.

    Each draw is a weighted mean of the groups and of the extra group, which has the mean
    number of values of a group. If `end` is −∞, all draws are −∞.
    """
    size = side.counts.mean()
    blocks = [
        (weights @ side.sums, weights @ side.counts, w)
        for weights, w in _weights(len(side.sums), draws, seed)
    ]
    sums, counts, w = (np.concatenate(column) for column in zip(*blocks, strict=True))
    return (sums + w * size * end) / (counts + w * size)


def upper_bounds(side: Clusters, end: float, draws: int, seed: int) -> Array:
    """Return draws of the upper bound, (draws,): the lower bound of −x with opposite sign."""
    return -lower_bounds(negated(side), -end, draws, seed)


def _weights(G: int, draws: int, seed: int) -> Iterable[tuple[Array, Array]]:
    """Return blocks of the weights of the groups (draws, G) and of the extra group (draws,)."""
    if G * draws <= CELLS:
        return [_cached_weights(G, draws, seed)]
    block = max(1, CELLS // G)
    rng, extra = np.random.default_rng([seed, G]), _extra_weights(G, draws, seed)
    return (
        _dirichlet_weights(rng, G, extra[start : start + block]) for start in range(0, draws, block)
    )


@lru_cache(maxsize=8)
def _cached_weights(G: int, draws: int, seed: int) -> tuple[Array, Array]:
    """Return the weights, cached because most proportions of a table have as many groups."""
    return _dirichlet_weights(np.random.default_rng([seed, G]), G, _extra_weights(G, draws, seed))


def _extra_weights(G: int, draws: int, seed: int) -> Array:
    """Return the weights of the extra group, a stratified sample of Beta(1, G), shuffled.

    One weight lies in each of `draws` equal parts of the distribution. Where all values are
    equal, nothing else is random, and so the bound has no simulation error.
    """
    u = (np.random.default_rng([seed, draws]).permutation(draws) + 0.5) / draws
    return 1 - u ** (1 / G)


def _dirichlet_weights(rng: np.random.Generator, G: int, w: Array) -> tuple[Array, Array]:
    """Return weights (draws, G) with sum 1 − w, flat Dirichlet, and w itself (draws,)."""
    exponential = rng.exponential(size=(len(w), G))  # normalised exponentials are Dirichlet
    return exponential * ((1 - w) / exponential.sum(1))[:, None], w
