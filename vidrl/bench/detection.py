"""How well a number tells corrupted clips from sound ones: areas under ROC curves with
intervals.

Legend: N source clips, K re-encodings of each. `null` (K, N) are the values of the clips
after mild re-encodings, `hacked` (N,) those of the same clips corrupted and then
re-encoded; NaN where there is none. Higher values are better, so that an area of 1 is a
corruption that always lowers the number, 0.5 one that leaves it where saving does, and
below 0.5 one that raises it.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from vidrl.inference.flips import sign_flip_p
from vidrl.inference.shares import proportion, share

Values = np.ndarray
FEWEST_SOURCES = 6  # sources: of five that all agree, a two-sided test at 5 % can say nothing


@dataclass(frozen=True)
class Area:
    """An area under a ROC curve and its 95 % interval over `n` clips of `groups` sources;
    NaN where there are none."""

    value: float
    low: float
    high: float
    n: int
    groups: int

    @property
    def verdict(self) -> str:
        """What the corruption does to the number: `lowers` it where the interval is above
        0.5, `raises` it where the interval is below, else `open`: neither is shown.

        `few` where there are fewer than 6 sources, `unscored` where there is none.

        >>> [Area(x, x - 0.1, x + 0.1, 12, 12).verdict for x in (0.9, 0.5, 0.1)], Area(0.9, 0.8, 1.0, 12, 4).verdict
        (['lowers', 'open', 'raises'], 'few')
        """
        if not self.n or self.groups < FEWEST_SOURCES:
            return "few" if self.n else "unscored"
        return "lowers" if self.low > 0.5 else "raises" if self.high < 0.5 else "open"


def shares_below(null: Values, hacked: Values) -> Values:
    """Share of the re-encodings of clip j that are above corrupted clip i, ties half, (N,
    N); NaN where one is missing.

    >>> shares_below(np.array([[1.0, 3.0], [2.0, 3.0]]), np.array([1.5, 3.0]))
    array([[0.5, 1. ],
           [0. , 0.5]])
    """
    # (K, N, N)
    shares = (hacked[:, None] < null[:, None, :]) + 0.5 * (hacked[:, None] == null[:, None, :])
    missing = np.isnan(hacked)[:, None] | np.isnan(null).any(0)[None, :]
    return np.where(missing, np.nan, shares.mean(0))


def own_shares(null: Values, hacked: Values) -> Values:
    """The same of each clip and its own re-encodings, (N,): what is left once clips are
    compared with themselves."""
    return np.diagonal(shares_below(null, hacked)).copy()


def paired_area(shares: Values, groups: Sequence[Hashable], draws: int = 0) -> Area:
    """The mean of the clips' `own_shares` shares, its interval over `groups` of clips by
    `vidrl.inference.shares.share`.

    >>> paired_area(np.array([1.0, 1.0, 0.0, np.nan]), "abcd").value
    0.6666666666666666
    """
    found = share(shares, list(groups), draws=draws)
    return Area(found.mean, found.low, found.high, found.n, found.groups)


def unpaired_area(shares: Values, groups: Sequence[Hashable], draws: int = 0) -> Area:
    """The mean over all pairs of a corrupted clip and a re-encoded clip of another source:
    the original is not known.

    `shares` (N, N) are those of `shares_below`. Clips of one source (`groups`) are never compared
    with each other. The variance is that of a jackknife that leaves out each source in
    turn, in both roles, because the mean is a U-statistic (Arvesen 1969,
    doi:10.1214/aoms/1177697287); the interval is that of a proportion of this variance
    (`proportion`). NaN where there is one source. `draws`, as of `paired_area`, changes
    nothing: the jackknife is exact.

    >>> unpaired_area(np.array([[1.0, 0.5, 0.0], [0.5, 1.0, 1.0], [1.0, 0.5, 1.0]]), "aab").value  # of a and b only
    0.625
    """
    known = np.isfinite(np.diagonal(shares))
    if not known.any():
        return Area(math.nan, math.nan, math.nan, 0, 0)
    (at, count), inner = _numbered(groups, known), shares[np.ix_(known, known)]
    member = (at[:, None] == np.arange(count)).astype(float)
    sums, pairs = member.T @ inner @ member, np.outer(member.sum(0), member.sum(0))
    np.fill_diagonal(sums, 0)
    np.fill_diagonal(pairs, 0)
    if count < 2:
        return Area(math.nan, math.nan, math.nan, len(at), count)
    value, variance = float(sums.sum() / pairs.sum()), _jackknife(sums, pairs)
    return Area(value, *proportion(value, variance, count), len(at), count)


def _jackknife(sums: Values, pairs: Values) -> float:
    """The variance of Σ sums / Σ pairs, (G, G) each, from its values without each group;
    NaN for two groups."""
    without = lambda table: table.sum() - table.sum(0) - table.sum(1)  # noqa: E731
    G = len(sums)
    if G < 3:
        return math.nan
    left = without(sums) / without(pairs)
    return float((G - 1) / G * ((left - left.mean()) ** 2).sum())


def chance_p(shares: Values, groups: Sequence[Hashable]) -> float:
    """Two-sided p of "a corrupted clip is as often below its sound self as above it", by
    sign flips over sources.

    Where a corruption does no more than another saving, shares of `own_shares` lie
    symmetrically about 1/2. NaN without any.

    >>> chance_p(np.ones(8), range(8)) == 2 / 2**8
    True
    """
    known = np.isfinite(shares)
    if not known.any():
        return math.nan
    at, count = _numbered(groups, known)
    return sign_flip_p(np.bincount(at, shares[known] - 0.5, count))


def _numbered(groups: Sequence[Hashable], known: Values) -> tuple[Values, int]:
    """The group of each known entry as a number, and how many groups there are."""
    index: dict[Hashable, int] = {}
    at = [index.setdefault(group, len(index)) for group, k in zip(groups, known, strict=True) if k]
    return np.array(at), len(index)
