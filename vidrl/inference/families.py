"""Several tests at once: p values corrected for how many they are, and intervals that hold
all together."""

from __future__ import annotations

from collections.abc import Sequence


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of p values, in their order.

    >>> [round(q, 6) for q in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    adjusted, highest = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        highest = max(highest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = highest
    return adjusted


def simultaneous_level(intervals: int, level: float = 0.95) -> float:
    """The level of each of so many intervals that hold all together in a share `level` of
    cases: 1 − (1 − level) / m.

    Bonferroni's, which holds however the dims depend on each other. `holm` rejects whatever
    such an interval excludes when p and interval are of one method, and some more.

    >>> round(simultaneous_level(10), 6)
    0.995
    """
    if intervals < 1:
        raise ValueError(f"expected at least one interval, got {intervals}")
    return 1 - (1 - level) / intervals
