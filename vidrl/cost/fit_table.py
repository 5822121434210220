"""Print the result of a search for memory options as a table of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from . import ESTIMATE
from .fit import Fit
from .table import scaled

HEADER = ("option", "saves", "a round takes", "peak", "")


class FitBlock(NamedTuple):
    """A table whose rows have one cell for each name of `HEADER`, and lines of text below."""

    title: str
    rows: Sequence[tuple[str, ...]]
    notes: list[str]


def block(found: Fit, command: str) -> FitBlock:
    """Return the table of a search; `command` begins the line that applies the overrides."""
    card = found.before.card["name"]
    before = scaled(found.before.memory["peak"], "B")
    rows = [
        (
            row.option.override,
            scaled(row.saved, "B") if row.saved > 0 else "0 B",
            f"{row.slower:+.1%}",
            scaled(row.peak, "B"),
            row.option.about,
        )
        for row in found.rows
    ]
    return FitBlock(f"{card}, peak as it is: {before} ({ESTIMATE})", rows, _notes(found, command))


def _notes(found: Fit, command: str) -> list[str]:
    """Return the lines below the table: what to run, or which card would do."""
    peak = scaled(found.after.memory["peak"], "B")
    if not found.fits:
        cards = ", ".join(found.larger) or "no card that is known"
        return [
            f"  NOTHING FITS: the smallest peak is {peak}, with all options. It fits {cards}.",
            "  Fewer frames, a smaller height and width, or a smaller model need less.",
        ]
    if not found.rows:
        return ["  fits as it is: no option is needed"]
    return [
        f"  fits with {peak} ({ESTIMATE}, without the reward's own networks):",
        "  " + " ".join([command, *found.overrides]),
    ]


def text(block: FitBlock) -> str:
    """Return the text that `vidrl cost --fit` prints to a pipe or a file."""
    cells = [HEADER, *block.rows] if block.rows else []
    widths = [max(len(row[i]) for row in cells) for i in range(len(HEADER))] if cells else []
    lines = [
        "  " + "  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    return "\n".join([block.title, *lines, *block.notes])
