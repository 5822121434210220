"""Writes a run folder as one HTML page, and prints its before/after table as text."""

from __future__ import annotations

from pathlib import Path

from vidrl.training import checkpoint

from .page import page
from .page.headline import warnings
from .run_folder import Row, Run, read

HEADER = ("held out", "before", "after", "change", "95 % interval", "verdict")


def table(run_dir: str | Path) -> str:
    """Return the held-out measures before and after training, with paired 95 % intervals."""
    rows, notes = before_after(run_dir)
    if not rows:
        run = read(run_dir)
        return f"{run.folder}: no before/after table yet ({len(run.metrics)} rounds done)"
    width = max(len(row[0]) for row in rows)
    head = f"{HEADER[0]:{width}}  {'before':>9}  {'after':>9}  {'change':>9}   {HEADER[4]}"
    lines = [
        f"{name:{width}}  {before:>9}  {after:>9}  {change:>9}   {interval:18}  {verdict}"
        for name, before, after, change, interval, verdict in rows
    ]
    return "\n".join([head, "-" * len(head), *map(str.rstrip, lines), *notes])


def before_after(run_dir: str | Path) -> tuple[list[tuple[str, ...]], list[str]]:
    """Return the rows of the before/after table, with the columns `HEADER`, and its notes.

    There are no rows before the first evaluation after the start.
    """
    run = read(run_dir)
    rows: list[tuple[str, ...]] = [
        (
            name,
            f"{row['before']:.4f}",
            f"{row['after']:.4f}",
            f"{row['difference']:+.4f}",
            _interval(row),
            _verdicts(run, name),
        )
        for name, row in run.held_out.items()
    ]
    return rows, [f"note: {sentence}" for sentence in warnings(run)] if rows else []


def _interval(row: Row) -> str:
    """Return the 95 % interval of a row as text."""
    return "none" if row["low"] is None else f"[{row['low']:+.4f}, {row['high']:+.4f}]"


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
