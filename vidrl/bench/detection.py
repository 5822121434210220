"""Measure how well a number separates corrupted clips from sound ones: ROC areas.

Legend: N source clips, K re-encodings of each. `null` (K, N) are the values of the clips
after mild re-encodings, `hacked` (N,) those of the same clips after corruption and
re-encoding; NaN where there is none. Higher values are better: an area of 1 means that the
corruption always lowers the number, 0.5 that it changes the number no more than saving
does, and less than 0.5 that it raises the number.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from vidrl.inference.flips import sign_flip_p
from vidrl.inference.proportions import proportion_interval, wilson_interval

Values = np.ndarray
# With five sources that all agree, a two-sided test cannot reach p < 0.05 (2 / 2^5 = 0.06).
FEWEST_SOURCES = 6


@dataclass(frozen=True)
class Area:
    """An area under a ROC curve with its 95 % interval over `n` clips of `groups` sources.

    NaN where there are no values.
    """

    value: float
    low: float
    high: float
    n: int
    groups: int

    @property
    def verdict(self) -> str:
        """Say whether the corruption lowers the number, raises it, or neither is shown.

        `lowers` if the interval lies above 0.5, `raises` if below, else `open`; `few` with
        fewer than 6 sources, `unscored` without values.

        >>> [Area(x, x - 0.1, x + 0.1, 12, 12).verdict for x in (0.9, 0.5, 0.1)]
        ['lowers', 'open', 'raises']
        >>> Area(0.9, 0.8, 1.0, 12, 4).verdict
        'few'
        """
        if not self.n or self.groups < FEWEST_SOURCES:
            return "few" if self.n else "unscored"
        return "lowers" if self.low > 0.5 else "raises" if self.high < 0.5 else "open"


def shares_below(null: Values, hacked: Values) -> Values:
    """Return for clips i and j how often the corrupted i is below a re-encoding of j, (N, N).

    Ties count 1/2; NaN where a value is missing. The mean of the entries is the area under
    the ROC curve (Mann and Whitney 1947).

    >>> shares_below(np.array([[1.0, 3.0], [2.0, 3.0]]), np.array([1.5, 3.0]))
    array([[0.5, 1. ],
           [0. , 0.5]])
    """
    # (K, N, N)
    shares = (hacked[:, None] < null[:, None, :]) + 0.5 * (hacked[:, None] == null[:, None, :])
    missing = np.isnan(hacked)[:, None] | np.isnan(null).any(0)[None, :]
    return np.where(missing, np.nan, shares.mean(0))


def own_shares(null: Values, hacked: Values) -> Values:
    """Return the diagonal of `shares_below`, (N,): each clip against its own re-encodings.

    Comparing a clip with itself removes the variation between clips.
    """
    return np.diagonal(shares_below(null, hacked)).copy()


def paired_area(shares: Values, groups: Sequence[Hashable], draws: int = 0) -> Area:
    """Return the mean of the clips' `own_shares`, with its interval over groups of clips.

    The interval is that of `vidrl.inference.proportions.proportion_interval`.

    >>> paired_area(np.array([1.0, 1.0, 0.0, np.nan]), "abcd").value
    0.6666666666666666
    """
    found = proportion_interval(shares, list(groups), draws=draws)
    return Area(found.mean, found.low, found.high, found.n, found.groups)


def unpaired_area(shares: Values, groups: Sequence[Hashable], draws: int = 0) -> Area:
    """Return the mean over pairs of a corrupted clip and a sound clip of another source.

    It is the area where the original of a clip is not known. `shares` (N, N) are those of
    `shares_below`; clips of one source (`groups`) are not compared with each other. The
    mean is a U-statistic, so its variance is that of a jackknife that leaves out each
    source in turn, as corrupted and as sound clip (Arvesen 1969,
    doi:10.1214/aoms/1177697287); the interval is a proportion's with this variance
    (`wilson_interval`). NaN with a single source. `draws` is accepted as by `paired_area`, and
    changes nothing: the jackknife draws no random numbers.

    >>> shares = np.array([[1.0, 0.5, 0.0], [0.5, 1.0, 1.0], [1.0, 0.5, 1.0]])
    >>> unpaired_area(shares, "aab").value  # pairs of a source a and a source b only
    0.625
    """
    scored = np.isfinite(np.diagonal(shares))
    if not scored.any():
        return Area(math.nan, math.nan, math.nan, 0, 0)
    (source_of, count), scored_shares = _numbered(groups, scored), shares[np.ix_(scored, scored)]
    member = (source_of[:, None] == np.arange(count)).astype(float)
    share_sums, pair_counts = (
        member.T @ scored_shares @ member,
        np.outer(member.sum(0), member.sum(0)),
    )
    np.fill_diagonal(share_sums, 0)
    np.fill_diagonal(pair_counts, 0)
    if count < 2:
        return Area(math.nan, math.nan, math.nan, len(source_of), count)
    value, variance = (
        float(share_sums.sum() / pair_counts.sum()),
        _jackknife(share_sums, pair_counts),
    )
    return Area(value, *wilson_interval(value, variance, count), len(source_of), count)


def _jackknife(sums: Values, pairs: Values) -> float:
    """Return the variance of Σ sums / Σ pairs, both (G, G), by leaving out each group.

    (G − 1) / G · Σ_g (value_g − mean)², with value_g the ratio without row and column g.
    NaN for two groups.
    """
    without = lambda table: table.sum() - table.sum(0) - table.sum(1)  # noqa: E731
    G = len(sums)
    if G < 3:
        return math.nan
    leave_one_out = without(sums) / without(pairs)
    return float((G - 1) / G * ((leave_one_out - leave_one_out.mean()) ** 2).sum())


def chance_p(shares: Values, groups: Sequence[Hashable]) -> float:
    """Return the two-sided p value of "a corrupted clip is below its sound self half the time".

    The signs of the sources' sums of (share − 1/2) are flipped: if a corruption does no
    more than a re-encoding, the shares are symmetric about 1/2. NaN without values.

    >>> chance_p(np.ones(8), range(8)) == 2 / 2**8
    True
    """
    scored = np.isfinite(shares)
    if not scored.any():
        return math.nan
    source_of, count = _numbered(groups, scored)
    return sign_flip_p(np.bincount(source_of, shares[scored] - 0.5, count))


def _numbered(groups: Sequence[Hashable], known: Values) -> tuple[Values, int]:
    """Return the group of each known entry as a number, and the number of groups."""
    index: dict[Hashable, int] = {}
    at = [index.setdefault(group, len(index)) for group, k in zip(groups, known, strict=True) if k]
    return np.array(at), len(index)
