"""Count clips without a number, so that a set does not gain by failing.

Clips fail to be scored because they are broken, so the missing numbers are not missing at
random: leaving them out would favour the set that fails more often. Therefore every
difference over scored clips comes with a second one, in which every clip without a number
counts as the worst value, and a verdict needs both. A clip that could not be read at all
has no number on any dim.

A clip to which a dim does not apply (reason "inapplicable: ...", for example "nothing moves
alone") is left out if the dim does not apply to its partner either. If its partner is
scored, the clip counts as unscored: otherwise a model that stops moving would escape the
dim.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vidrl.bench.pairing import Clip, Clips, Match, clip_value

RELATIVE_TIE = 1e-9  # two values whose relative difference is smaller are equal but for rounding
Range = tuple[float | None, float | None]


def all_clips(one: Mapping[str, Any]) -> list[Clip]:
    """Return the clips of a set, with the files that could not be read as clips without numbers."""
    unreadable = [
        {
            "path": row["path"],
            "prompt": row.get("prompt"),
            "seed": row.get("seed"),
            "value": {},
            "why": {},
        }
        for row in one.get("skipped") or []
    ]
    return [*one["clips"], *unreadable]


def is_inapplicable(clip: Clip, dim: str) -> bool:
    """Return whether the dim has no meaning for this clip, as its reason says.

    >>> is_inapplicable({"why": {"jerk": "inapplicable: needs 4 frames, got 2"}}, "jerk")
    True
    """
    return str((clip.get("why") or {}).get(dim)).startswith("inapplicable")


def counted_clips(match: Match, dim: str) -> Match | None:
    """Return the clips of a match that count on a dim, or None if one side has none."""
    sides = [
        [clip for clip in side if _counts(clip, dim, other)]
        for side, other in ((match.first, match.second), (match.second, match.first))
    ]
    return Match(match.prompt, tuple(sides[0]), tuple(sides[1])) if all(sides) else None


def _counts(clip: Clip, dim: str, others: Clips) -> bool:
    """Return whether a clip counts: it is scored, it failed, or its partner is scored."""
    scored_or_failed = clip_value(clip, dim) is not None or not is_inapplicable(clip, dim)
    return scored_or_failed or any(clip_value(other, dim) is not None for other in others)


def count_unscored(clips: Iterable[Clip], dim: str) -> int:
    """Count the clips without a number on the dim."""
    return sum(clip_value(clip, dim) is None for clip in clips)


def worst_value(sets: Sequence[Clips], dim: str, limits: Range = (None, None)) -> float:
    """Return the lower end of the dim's range, or the worst value of all clips if it is open.

    NaN where no clip has a number.

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
    """Return the mean of clips, with the value `instead` for those without a number."""
    values = [clip_value(clip, dim) for clip in clips]
    return sum(instead if value is None else value for value in values) / len(values)


def mean_difference(match: Match, dim: str, instead: float) -> float:
    """Return the mean of the second side less that of the first, 0 if equal to rounding.

    Without the rule for rounding, a sum in another order would turn a tie into a win.
    """
    before, after = mean_value(match.first, dim, instead), mean_value(match.second, dim, instead)
    return (
        0.0
        if abs(after - before) <= RELATIVE_TIE * max(abs(before), abs(after))
        else after - before
    )


def win_share(match: Match, dim: str) -> float:
    """Return how often a clip of the second side is better than one of the first.

    All pairs of a first and a second clip are compared; a tie counts 1/2. A clip without a
    number loses against a clip with one; two clips without a number are a tie. It is the
    Mann-Whitney statistic divided by the number of pairs.

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
    # Clips without a number are −inf here: they lose against all numbers and tie with each
    # other, by `a == b` below. −inf − −inf is NaN, which np.isfinite excludes.
    with np.errstate(invalid="ignore"):
        close = (
            np.isfinite(a[:, None])
            & np.isfinite(b)
            & (np.abs(b - a[:, None]) <= RELATIVE_TIE * np.maximum(np.abs(b), np.abs(a[:, None])))
        )
    tied = close | (a[:, None] == b)
    return float(np.where(tied, 0.5, b > a[:, None]).mean())
