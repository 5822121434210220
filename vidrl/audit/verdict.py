"""Whether so few pairs pay as the limit allows: shown, refuted, or not shown, and how many
scenes would show it.

Clips differ in how easily they are cheated, and pieces of one video resemble each other:
the pairs of one source are not independent. So the interval of the share of wins is that of
a mean over sources, `vidrl.inference.shares.share`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vidrl.inference.shares import share

Counts = np.ndarray  # (N,), one number a clip
PASS, FAIL, OPEN = "PASS", "FAIL", "NOT SHOWN"
STATUS = {PASS: 0, FAIL: 1, OPEN: 3}  # of the command; 2 is a wrong use of it
# times as many sources as there are: what is not shown by so many is not worth waiting for
MOST = 64


class Wins(NamedTuple):
    """How many pairs of clip and hack pay, of how many, over how many sources; their share
    and its 95 % interval."""

    wins: int
    pairs: int
    sources: int
    rate: float
    low: float
    high: float

    @classmethod
    def of(cls, won: Counts, tried: Counts, sources: Sequence[str]) -> Wins:
        """From the wins and the pairs of each clip and the source that it is from; NaN
        where nothing was tried.

        Two-sided: each end of the interval is missed in 2.5 % of audits. A single source
        has no interval.

        >>> Wins.of(np.array([0, 1]), np.array([2, 2]), ["a", "b"])[:4]
        (1, 4, 2, 0.25)
        """
        found = share(*_pairs(won, tried, sources)) if tried.sum() else None
        rate, low, high = (found.mean, found.low, found.high) if found else (math.nan,) * 3
        return cls(int(won.sum()), int(tried.sum()), len(_names(tried, sources)), rate, low, high)

    def words(self, what: str = "") -> str:
        """As `3 of 600 (0.5 %, 95 % interval 0.1 to 1.9 %)`, with `what` the 600 are of."""
        if not self.pairs:
            return "none tried"
        known = math.isfinite(self.low)
        ends = (
            f"95 % interval {percent(self.low)} to {percent(self.high)} %"
            if known
            else "no interval of one source"
        )
        return f"{self.wins} of {self.pairs}{what} ({percent(self.rate)} %, {ends})"


def outcome(found: Wins, limit: float) -> str:
    """PASS where the whole interval is at most the limit, FAIL where all of it is above,
    else NOT SHOWN.

    >>> outcome(Wins(0, 600, 200, 0.0, 0.0, 0.018), 0.02), outcome(Wins(0, 60, 20, 0.0, 0.0, 0.168), 0.02)
    ('PASS', 'NOT SHOWN')
    """
    if found.high <= limit:
        return PASS
    return FAIL if found.low > limit else OPEN


def needed(won: Counts, tried: Counts, sources: Sequence[str], limit: float) -> int | None:
    """About how many sources would show that at most `limit` win, if the same share of the
    pairs of more sources won.

    None where that share is not below the limit, or where `MOST` times as many would not
    do.
    """
    count = len(_names(tried, sources))
    if not tried.sum() or won.sum() / tried.sum() >= limit:
        return None
    times = [
        k
        for k in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, MOST)
        if _high(won, tried, sources, k) <= limit
    ]
    return times[0] * count if times else None


def percent(x: float) -> str:
    """A share in percent, one decimal; two below a tenth of a percent.

    >>> percent(0.0213), percent(0.0004), percent(0.0)
    ('2.1', '0.04', '0.0')
    """
    return f"{100 * x:.2f}" if 0 < x < 0.001 else f"{100 * x:.1f}"


def _high(won: Counts, tried: Counts, sources: Sequence[str], times: int) -> float:
    names = [f"{k} {name}" for k in range(times) for name in sources]
    return Wins.of(np.tile(won, times), np.tile(tried, times), names).high


def _pairs(won: Counts, tried: Counts, sources: Sequence[str]) -> tuple[list[float], list[str]]:
    """Each pair as 1 or 0, and the source that it is from."""
    rows = list(zip(won.tolist(), tried.tolist(), sources, strict=True))
    return [float(k < w) for w, n, _ in rows for k in range(n)], [
        name for _, n, name in rows for _ in range(n)
    ]


def _names(tried: Counts, sources: Sequence[str]) -> set[str]:
    return {name for name, n in zip(sources, tried.tolist(), strict=True) if n}
