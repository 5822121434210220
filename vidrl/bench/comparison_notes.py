"""Write the notes of a comparison of two sets on one dim.

`numbers` is the row of the comparison that `vidrl.bench.difference` builds, `names` are the
names of the two sets.
"""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]


def few_clips_note(names: tuple[str, str], numbers: Row, least: int) -> list[str]:
    """Return a note if the difference rests on fewer clips than the suite's minimum."""
    counts = numbers["clips"]
    note = (
        f"the difference rests on {counts[0]} clips of {names[0]} and {counts[1]} of "
        f"{names[1]}, fewer than the minimum of {least}"
    )
    return [note] if min(counts) < least else []


def equality_notes(numbers: Row) -> list[str]:
    """Return notes if all clips are of one prompt, or if all pairs are equal."""
    notes = (
        ["one prompt: nothing is said of other prompts"]
        if numbers["n"] > 1 and numbers["groups"] == 1
        else []
    )
    return notes + [f"all {numbers['n']} pairs are equal"] * numbers["equal"]


def unscored_note(names: tuple[str, str], numbers: Row) -> list[str]:
    """Return a note on clips without a number, and the difference if they were the worst."""
    counts, of = numbers["unscored"]["counts"], numbers["unscored"]["of"]
    worst = numbers["worst"]
    if not any(counts):
        return []
    counted = " and ".join(
        f"{count} of {total} clips of {name}"
        for count, total, name in zip(counts, of, names, strict=True)
        if count
    )
    if worst is None or worst["difference"] is None:
        return [f"{counted} have no number"]
    ends = "" if worst["low"] is None else f" [{worst['low']:.4g}, {worst['high']:.4g}]"
    return [
        f"{counted} have no number: count as worst ({worst['value']:.4g}), the difference would be "
        f"{worst['difference']:+.4g}{ends}"
    ]
