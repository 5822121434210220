"""How well a number tells corrupted clips from sound ones: areas under ROC curves with intervals.

Legend: N source clips, K re-encodings of each. `null` (K, N) are the values of the clips after mild re-encodings,
`hacked` (N,) those of the same clips corrupted and then re-encoded; NaN where there is none. Higher values are better,
so that an area of 1 is a corruption that always costs, 0.5 one that is not noticed, and below 0.5 one that pays.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

Values = np.ndarray
LEAST = 6  # sources: of five that all agree, a two-sided test at 5 % can say nothing


@dataclass(frozen=True)
class Area:
    """An area under a ROC curve and its 95 % interval over `n` clips of `groups` sources; NaN where there are none."""

    value: float
    low: float
    high: float
    n: int
    groups: int

    @property
    def verdict(self) -> str:
        """`detects` where the interval is above 0.5, `pays` where it is below, else `blind`.

        `few` where there are fewer than 6 sources, `unscored` where there is none.

        >>> [Area(x, x - 0.1, x + 0.1, 12, 12).verdict for x in (0.9, 0.5, 0.1)], Area(0.9, 0.8, 1.0, 12, 4).verdict
        (['detects', 'blind', 'pays'], 'few')
        """
        if not self.n or self.groups < LEAST:
            return "few" if self.n else "unscored"
        return "detects" if self.low > 0.5 else "pays" if self.high < 0.5 else "blind"


def below(null: Values, hacked: Values) -> Values:
    """Share of the re-encodings of clip j that are above corrupted clip i, ties half, (N, N); NaN where one is missing.

    >>> below(np.array([[1.0, 3.0], [2.0, 3.0]]), np.array([1.5, 3.0]))
    array([[0.5, 1. ],
           [0. , 0.5]])
    """
    shares = (hacked[:, None] < null[:, None, :]) + 0.5 * (hacked[:, None] == null[:, None, :])  # (K, N, N)
    missing = np.isnan(hacked)[:, None] | np.isnan(null).any(0)[None, :]
    return np.where(missing, np.nan, shares.mean(0))


def paired(null: Values, hacked: Values) -> Values:
    """The same of each clip and its own re-encodings, (N,): what is left once clips are compared with themselves."""
    return np.diagonal(below(null, hacked)).copy()


def own_area(shares: Values, groups: Sequence[Hashable], draws: int = 2000) -> Area:
    """The mean of the clips' `paired` shares, its interval by a bootstrap over `groups` of clips.

    >>> own_area(np.array([1.0, 1.0, 0.0, np.nan]), "abcd").value
    0.6666666666666666
    """
    known = np.isfinite(shares)
    if not known.any():
        return Area(math.nan, math.nan, math.nan, 0, 0)
    at, count = _numbered(groups, known)
    sums, sizes = np.bincount(at, shares[known], count), np.bincount(at, minlength=count)
    means = np.concatenate([(drawn @ sums) / (drawn @ sizes) for drawn in _draws(count, draws)])
    return _area(float(shares[known].mean()), means, len(at), count)


def any_area(shares: Values, groups: Sequence[Hashable], draws: int = 1000) -> Area:
    """The mean over all pairs of a corrupted clip and another's re-encoding: the area without knowing the original.

    `shares` (N, N) are those of `below`. The interval is a bootstrap over `groups`: a clip and its corrupted self are
    drawn together.
    """
    known = np.isfinite(np.diagonal(shares))
    if not known.any():
        return Area(math.nan, math.nan, math.nan, 0, 0)
    (at, count), inner = _numbered(groups, known), shares[np.ix_(known, known)]
    weights = np.concatenate([drawn[:, at] for drawn in _draws(count, draws)])  # how often each clip is drawn
    means = ((weights @ inner) * weights).sum(1) / weights.sum(1) ** 2
    return _area(float(inner.mean()), means, len(at), count)


def _draws(count: int, draws: int) -> Iterator[Values]:
    """How often each of `count` groups is drawn, with replacement, seed 0: (draws, count) in pieces of 32 MB."""
    rng, piece = np.random.default_rng(0), max(1, 2**22 // count)
    for start in range(0, draws, piece):
        yield rng.multinomial(count, np.full(count, 1 / count), min(piece, draws - start)).astype(float)


def _numbered(groups: Sequence[Hashable], known: Values) -> tuple[Values, int]:
    """The group of each known entry as a number, and how many groups there are."""
    index: dict[Hashable, int] = {}
    at = [index.setdefault(group, len(index)) for group, k in zip(groups, known, strict=True) if k]
    return np.array(at), len(index)


def _area(value: float, means: Values, n: int, groups: int) -> Area:
    low, high = (float(x) for x in np.percentile(means, [2.5, 97.5]))
    edge = 0.025 ** (1 / groups)  # where all clips agree a bootstrap has no width: the exact bound of Clopper, Pearson
    if value == 1:
        low = min(low, edge)
    if value == 0:
        high = max(high, 1 - edge)
    return Area(value, low, high, n, groups)
