"""Measure how fast raters answer, and how their answers drift from the first half to the second."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

Row = dict[str, Any]
QUICK = 1.0  # seconds; a faster answer cannot have seen the clips


@dataclass(frozen=True)
class Timed:
    """One answer of a rater, to a pair, a clip or a ranking: how long it took, and when it came.

    `choice` is that of the main question of a pair, 1 for the clip on the left; None for points
    and rankings. NaN and "" stand for times that are not known.
    """

    rater: str
    seconds: float = math.nan
    at: str = ""  # UTC, ISO 8601
    choice: int | None = None


def pace(rater: str, answers: Sequence[Timed]) -> Row:
    """Return a rater's median seconds, and how the second half differs from the first.

    Answers whose time is not known count as answers, but have no part in the seconds and halves.

    >>> found = pace("Ann", [Timed("Ann", 4.0, "2026-01-01"), Timed("Ann", 0.5, "2026-01-02")])
    >>> found["seconds"], found["quick"], [half["seconds"] for half in found["halves"]]
    (2.25, 1, [4.0, 0.5])
    """
    timed = sorted(
        (one for one in answers if one.at and math.isfinite(one.seconds)), key=lambda one: one.at
    )
    halves = (timed[: len(timed) // 2], timed[len(timed) // 2 :]) if len(timed) > 1 else ()
    few = "one answer has no two halves" if timed else "the file keeps no times"
    seconds = [one.seconds for one in answers if math.isfinite(one.seconds)]
    return {
        "rater": rater,
        "answers": len(answers),
        "seconds": round(median(seconds), 6) if seconds else None,
        "quick": sum(s < QUICK for s in seconds) if seconds else None,
        "halves": [_half(half) for half in halves],
        "why": "" if halves else few,
    }


def _half(answers: Sequence[Timed]) -> Row:
    """Return what may drift: seconds, and of pairs the shares of ties and of the left clip."""
    choices = [one.choice for one in answers if one.choice is not None]
    decided = [choice for choice in choices if choice]
    return {
        "seconds": round(median(one.seconds for one in answers), 6),
        "ties": round(1 - len(decided) / len(choices), 6) if choices else None,
        "left": round(decided.count(1) / len(decided), 6) if decided else None,
    }
