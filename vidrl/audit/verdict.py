"""Decides whether the share of winning pairs is below the limit: PASS, FAIL or NOT SHOWN.

A pair is a clip and a detectable hack. Clips differ in how easily they are cheated, and
pieces of one video resemble each other, so the pairs of one source are not independent. The
interval of the share of wins is therefore that of a mean over sources,
`vidrl.inference.proportions.proportion_interval`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vidrl.inference.proportions import proportion_interval

Counts = np.ndarray  # (N,), one number a clip
PASS = "PASS"
FAIL = "FAIL"
OPEN = "NOT SHOWN"
STATUS = {PASS: 0, FAIL: 1, OPEN: 3}  # of the command; 2 is a wrong use of it
# The largest multiple of the present number of sources that `needed` tries.
MOST = 64


class Wins(NamedTuple):
    """Counts how many pairs of clip and hack win, with their share and its 95 % interval."""

    wins: int
    pairs: int
    sources: int
    rate: float
    low: float
    high: float

    @classmethod
    def of(cls, won: Counts, tried: Counts, sources: Sequence[str]) -> Wins:
        """Count from the wins, the tried pairs and the source of each clip.

        The interval is two-sided: the true share is below it in 2.5 % of audits and above it
        in 2.5 %. A single source has no interval. All numbers are NaN where nothing was tried.

        >>> Wins.of(np.array([0, 1]), np.array([2, 2]), ["a", "b"])[:4]
        (1, 4, 2, 0.25)
        """
        found = proportion_interval(*_pairs(won, tried, sources)) if tried.sum() else None
        rate, low, high = (found.mean, found.low, found.high) if found else (math.nan,) * 3
        return cls(
            int(won.sum()), int(tried.sum()), len(_tried_sources(tried, sources)), rate, low, high
        )

    def words(self, what: str = "") -> str:
        """Return a text as `3 of 600 (0.5 %, 95 % interval 0.1 to 1.9 %)`; `what` follows 600."""
        if not self.pairs:
            return "none tried"
        has_interval = math.isfinite(self.low)
        ends = (
            f"95 % interval {percent(self.low)} to {percent(self.high)} %"
            if has_interval
            else "no interval of one source"
        )
        return f"{self.wins} of {self.pairs}{what} ({percent(self.rate)} %, {ends})"


def outcome(found: Wins, limit: float) -> str:
    """Return PASS if the whole interval is at most the limit, FAIL if all of it is above.

    NOT SHOWN where the interval contains the limit, and where there is no interval.

    >>> outcome(Wins(0, 600, 200, 0.0, 0.0, 0.018), 0.02)
    'PASS'
    >>> outcome(Wins(0, 60, 20, 0.0, 0.0, 0.168), 0.02)
    'NOT SHOWN'
    """
    if found.high <= limit:
        return PASS
    return FAIL if found.low > limit else OPEN


def needed(won: Counts, tried: Counts, sources: Sequence[str], limit: float) -> int | None:
    """Return about how many sources would show a PASS if more of them were like these.

    The present sources are repeated until the interval is below the limit. None where their
    share is not below the limit, or where `MOST` times as many sources do not suffice.
    """
    count = len(_tried_sources(tried, sources))
    if not tried.sum() or won.sum() / tried.sum() >= limit:
        return None
    enough = [
        k
        for k in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, MOST)
        if _upper_end(won, tried, sources, k) <= limit
    ]
    return enough[0] * count if enough else None


def percent(x: float) -> str:
    """Return a share as a percentage with one decimal, with two below a tenth of a percent.

    >>> percent(0.0213), percent(0.0004), percent(0.0)
    ('2.1', '0.04', '0.0')
    """
    return f"{100 * x:.2f}" if 0 < x < 0.001 else f"{100 * x:.1f}"


def _upper_end(won: Counts, tried: Counts, sources: Sequence[str], times: int) -> float:
    """Return the upper end of the interval if there were `times` as many sources like these."""
    names = [f"{k} {name}" for k in range(times) for name in sources]
    return Wins.of(np.tile(won, times), np.tile(tried, times), names).high


def _pairs(won: Counts, tried: Counts, sources: Sequence[str]) -> tuple[list[float], list[str]]:
    """Return each pair as 1 (win) or 0, and the source of each pair."""
    rows = list(zip(won.tolist(), tried.tolist(), sources, strict=True))
    return [float(k < w) for w, n, _ in rows for k in range(n)], [
        name for _, n, name in rows for _ in range(n)
    ]


def _tried_sources(tried: Counts, sources: Sequence[str]) -> set[str]:
    """Return the sources that have at least one pair."""
    return {name for name, n in zip(sources, tried.tolist(), strict=True) if n}
