"""The credit of two clips by segment: the best and the worst clip of the last round."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..charts import Line, bars, chart, heat, number
from ..run_folder import Row, Run
from .film import borders, film, frames, given, player
from .reading import LOCAL, reading, spans_of

Span = tuple[int, int]
RANKS = {"best": "Best of its round", "worst": "Worst of its round"}  # by the stem of the file


def credit_section(run: Run) -> dict[str, Any] | None:
    """Return the data of the section; None where the run folder records no credit."""
    if not run.credit:
        return None
    return {
        "others": any(row.get("others") for row in run.credit),
        "clips": [_clip(run, row) for row in run.credit],
    }


def _clip(run: Run, row: Row) -> dict[str, Any]:
    path = run.clip(row["file"]) if row.get("file") else None
    spans, curve = spans_of(row), row.get("curve") or []
    length = max([len(curve), *(end for _, end in spans)], default=1) or 1
    # an image has no curve over time: its parts are listed as numbers
    is_image = length == 1
    return {
        "rank": RANKS.get(Path(str(row.get("file"))).stem, ""),
        "prompt": row.get("prompt", ""),
        "value": number(row.get("value")),
        "reading": reading(row),
        "given": given(run, row, "clips", "train"),
        "player": player(path) if row.get("file") else "",
        "film": film(path),
        "bars": bars(row.get("advantage") or [], spans, length) if spans else "",
        "density": _density(spans),
        "steps": _steps(row, spans),
        "reward": _curve(row, "composite", curve),
        "borders": borders(spans, length),
        "facts": _values(row) if is_image else [],
        "parts": [] if is_image else _parts(row),
        "everywhere": "" if is_image else ", ".join(_everywhere(row)),
    }


def _density(spans: Sequence[Span]) -> str:
    """Return the CSS class of the bars: with many segments the numbers below them are hidden."""
    return "" if len(spans) <= 8 else "many" if len(spans) <= 24 else "very many"


def _curve(row: Row, name: str, curve: Sequence[Any]) -> str:
    """Draw a curve over the frames, with the mean of the group's other clips if it is known."""
    if len(curve) < 2:
        return ""
    middles = [frame + 0.5 for frame in range(len(curve))]
    others = (row.get("others") or {}).get(name)
    lines = [Line("the group's others", middles, others, "before")] if others else []
    return chart(
        [*lines, Line(name, middles, curve)],
        span=(0, len(curve)),
        axis="frame",
        cells=True,
        title=f"{name}, frame by frame",
    )


def _steps(row: Row, spans: Sequence[Span]) -> dict[str, Any] | None:
    """Return the advantage of each segment at each denoising step; the noisiest step is first."""
    rows = row.get("advantage_steps") or []
    if not rows or not spans:
        return None
    times = [f"t {number(time)}" for time in row.get("times") or []]
    names = times if len(times) == len(rows) else [f"step {k + 1}" for k in range(len(rows))]
    widths = [end - start for start, end in spans]
    return {
        "heat": heat(rows, names, [frames(span) for span in spans], widths),
        "height": max(4, min(14, 120 // len(rows))),  # pixels of a row: 120 for all rows
        "first": names[0],
        "last": names[-1] if len(names) > 1 else "",
    }


def _parts(row: Row) -> list[tuple[str, str]]:
    """Return the name and the chart of each part that has a curve."""
    curves = row.get("curves") or {}
    drawn = [(name, _curve(row, name, curve or [])) for name, curve in curves.items()]
    return [(name, chart) for name, chart in drawn if chart and name != "composite"]


def _values(row: Row) -> list[tuple[str, str]]:
    """Return the parts of an image: each is one number."""
    return [(name, number(value)) for name, value in (row.get("parts") or {}).items()]


def _everywhere(row: Row) -> list[str]:
    """Return the parts that were credited to all segments alike: they have no local curve."""
    supports, curves = row.get("supports") or {}, row.get("curves") or {}
    local = [
        name for name, curve in curves.items() if curve and supports.get(name, "frame") in LOCAL
    ]
    return [name for name in row.get("parts") or {} if name not in local]
