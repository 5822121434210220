"""Writes a run folder as one HTML page, and prints its before/after table as text."""

from __future__ import annotations

from pathlib import Path

from vidrl.training import checkpoint

from .page import page
from .page.headline import warnings
from .run_folder import Row, Run, read


def table(run_dir: str | Path) -> str:
    """Return the held-out measures before and after training, with paired 95 % intervals."""
    run = read(run_dir)
    if not run.held_out:
        return f"{run.folder}: no before/after table yet ({len(run.metrics)} rounds done)"
    width = max(len(name) for name in run.held_out)
    head = f"{'held out':{width}}  {'before':>9}  {'after':>9}  {'change':>9}   95 % interval"
    rows = [
        f"{name:{width}}  {row['before']:9.4f}  {row['after']:9.4f}  {row['difference']:+9.4f}   "
        f"{_interval(row)}  {_verdicts(run, name)}"
        for name, row in run.held_out.items()
    ]
    notes = [f"note: {sentence}" for sentence in warnings(run)]
    return "\n".join([head, "-" * len(head), *map(str.rstrip, rows), *notes])


def _interval(row: Row) -> str:
    """Return the 95 % interval of a row as text, padded to the width of the column."""
    return f"{'none':18}" if row["low"] is None else f"[{row['low']:+.4f}, {row['high']:+.4f}]"


def _verdicts(run: Run, name: str) -> str:
    """Return the verdict of the guard, the change beyond doubt and a note, where there are any."""
    return ", ".join(
        filter(None, [run.verdict(name), run.change(name), run.held_out[name].get("note")])
    )


def write(run_dir: str | Path) -> Path:
    """Write `report.html` into the run folder and return its path.

    Raises `checkpoint.WriteError` where the disk is full or refuses to write.
    """
    run = read(run_dir)
    path = run.folder / "report.html"
    text = page(run)
    with checkpoint.writing(run.folder, "the page"):
        checkpoint.write_text(path, text)
    return path
