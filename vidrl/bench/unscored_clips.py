"""Clips without a number: a set must not gain by them.

Clips fail to be scored because they are broken: they are not missing at random. So beside
the difference over scored clips stands the one in which every clip without a number counts
as the worst, and a verdict needs both. A clip that could not be read at all has no number
on any dim.

A clip to which a dim does not apply ("inapplicable: nothing moves alone") is left out where
the dim does not apply to its partner either; where its partner is scored, it counts as
unscored.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vidrl.bench.pairing import Clip, Clips, Match, clip_value

RELATIVE_TIE = 1e-9  # of the larger of two values: differences below are rounding
Range = tuple[float | None, float | None]


def all_clips(one: Mapping[str, Any]) -> list[Clip]:
    """The clips of a set, and those that could not be read, as clips without a number."""
    unread = [
        {
            "path": row["path"],
            "prompt": row.get("prompt"),
            "seed": row.get("seed"),
            "value": {},
            "why": {},
        }
        for row in one.get("skipped") or []
    ]
    return [*one["clips"], *unread]


def is_inapplicable(clip: Clip, dim: str) -> bool:
    """Whether a dimension has no meaning for this clip, as its reason says.

    >>> is_inapplicable({"why": {"jerk": "inapplicable: needs a clip of at least 4 frames, got 2"}}, "jerk")
    True
    """
    return str((clip.get("why") or {}).get(dim)).startswith("inapplicable")


def counted_clips(match: Match, dim: str) -> Match | None:
    """The clips of a match that count on a dim, scored or not; None where a side has
    none."""
    sides = [
        [clip for clip in side if _counts(clip, dim, other)]
        for side, other in ((match.first, match.second), (match.second, match.first))
    ]
    return Match(match.prompt, tuple(sides[0]), tuple(sides[1])) if all(sides) else None


def _counts(clip: Clip, dim: str, others: Clips) -> bool:
    known = clip_value(clip, dim) is not None or not is_inapplicable(clip, dim)
    return known or any(clip_value(other, dim) is not None for other in others)


def count_unscored(clips: Iterable[Clip], dim: str) -> int:
    """How many of the clips have no number."""
    return sum(clip_value(clip, dim) is None for clip in clips)


def worst_value(sets: Sequence[Clips], dim: str, limits: Range = (None, None)) -> float:
    """The lower end of the dim's range, or, where it is open, the worst value of all clips;
    NaN where there is none.

    >>> clips = [{"value": {"flicker": x}} for x in (-0.5, None, -2.0)]
    >>> worst_value([clips], "flicker"), worst_value([clips], "flicker", (-20.0, 0.0))
    (-2.0, -20.0)
    """
    if limits[0] is not None and math.isfinite(limits[0]):
        return float(limits[0])
    return min(
        (known for clips in sets for clip in clips if (known := clip_value(clip, dim)) is not None),
        default=math.nan,
    )


def mean_value(clips: Clips, dim: str, instead: float) -> float:
    """The mean of clips, those without a number counted as the value `instead`."""
    known = [clip_value(clip, dim) for clip in clips]
    return sum(instead if one is None else one for one in known) / len(known)


def mean_difference(match: Match, dim: str, instead: float) -> float:
    """The second side's mean less the first's, the same to rounding counted as 0."""
    before, after = mean_value(match.first, dim, instead), mean_value(match.second, dim, instead)
    return (
        0.0
        if abs(after - before) <= RELATIVE_TIE * max(abs(before), abs(after))
        else after - before
    )


def win_share(match: Match, dim: str) -> float:
    """How often a clip of the second side is better than one of the first, over all pairs
    of them, ties half.

    A clip without a number loses against one with a number; two without a number are a tie.

    >>> clips = [{"value": {"flicker": x}} for x in (1.0, 2.0, None)]
    >>> win_share(Match("", tuple(clips[:1]), tuple(clips)), "flicker")  # a tie, a win, a loss
    0.5
    """
    a, b = (
        np.array(
            [-math.inf if (known := clip_value(clip, dim)) is None else known for clip in side]
        )
        for side in (match.first, match.second)
    )
    with np.errstate(invalid="ignore"):
        close = (
            np.isfinite(a[:, None])
            & np.isfinite(b)
            & (np.abs(b - a[:, None]) <= RELATIVE_TIE * np.maximum(np.abs(b), np.abs(a[:, None])))
        )
    tied = close | (a[:, None] == b)
    return float(np.where(tied, 0.5, b > a[:, None]).mean())
