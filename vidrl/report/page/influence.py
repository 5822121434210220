"""The influence of each segment's noise on the reward of each frame, as heat maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..charts import heat, number
from ..run_folder import Run
from .film import film, frames

Matrix = Sequence[Sequence[float | None]]
Span = tuple[int, int]
COLUMN = 4  # pixels of a frame's column, at least: a longer clip scrolls inside its box
GUTTER = 76  # pixels left of the columns, for the names of the rows; as --gutter of report.css


def influence_section(run: Run) -> dict[str, Any] | None:
    """Return the data of the section; None where the run folder has no influence.json."""
    parts: Mapping[str, Matrix] = run.influence.get("parts") or {}
    pairs = run.influence.get("segments") or []
    spans: list[Span] = [(int(start), int(end)) for start, end in pairs]
    if not parts or not spans:
        return None
    complete = {name: matrix for name, matrix in parts.items() if _fits(matrix, spans)}
    # the large drawing is the composite's, or the first part's where there is no composite
    first = "composite" if "composite" in complete else next(iter(complete), None)
    drawn = {name: _part(name, matrix, spans) for name, matrix in complete.items()}
    clips = [run.clip(row["file"]) for row in run.credit if row.get("file")]
    length = spans[-1][1]
    return {
        "image": length == 1,
        "single": len(spans) == 1,
        "steps": run.influence.get("steps"),
        "main": drawn[first] if first is not None else None,
        "parts": [part for name, part in drawn.items() if name != first],
        "odd": ", ".join(name for name in parts if name not in complete),
        "film": film(next(filter(None, clips), None)),
        "covered": [f"{a}–{b - 1}" if b - a > 1 else str(a) for a, b in spans],
        "last": length - 1,
        "width": COLUMN * length + GUTTER,
    }


def local_share(matrix: Matrix, spans: Sequence[Span]) -> tuple[float, float] | None:
    """Return the fraction of Σ I² on the segments' own frames, and that of an even spread.

    The second number is what the fraction would be if each row were spread evenly over the
    frames. None where all influence is 0.

    >>> local_share([[3.0, 1.0], [1.0, 3.0]], [(0, 1), (1, 2)])
    (0.9, 0.5)
    """
    energy = [[(value or 0.0) ** 2 for value in row] for row in matrix]
    total, length = sum(map(sum, energy)), spans[-1][1]
    if total == 0:
        return None
    own = sum(sum(row[a:b]) for row, (a, b) in zip(energy, spans, strict=True))
    even = sum(sum(row) * (b - a) / length for row, (a, b) in zip(energy, spans, strict=True))
    return own / total, even / total


def _part(name: str, matrix: Matrix, spans: Sequence[Span]) -> dict[str, Any]:
    """Return the heat map of one part, its outlined blocks and its local share."""
    names = [f"segment {j + 1} ({frames(span)})" for j, span in enumerate(spans)]
    columns = [f"frame {i}" for i in range(spans[-1][1])]
    values = [value for row in matrix for value in row if value is not None]
    fractions = local_share(matrix, spans) if len(spans) > 1 else None
    own, even = (f"{100 * fraction:.0f} %" for fraction in fractions) if fractions else ("", "")
    return {
        "name": name,
        "heat": heat(matrix, names, columns, signed=False),
        "blocks": _blocks(spans) if len(spans) > 1 else [],
        "most": number(max(values, default=0.0)),
        "own": own,
        "even": even,
    }


def _blocks(spans: Sequence[Span]) -> list[dict[str, float]]:
    """Return the outline of each segment's own frames in its row, in percent of the map."""
    length, count = spans[-1][1], len(spans)
    return [
        {
            "left": 100 * a / length,
            "width": 100 * (b - a) / length,
            "top": 100 * j / count,
            "height": 100 / count,
        }
        for j, (a, b) in enumerate(spans)
    ]


def _fits(matrix: Any, spans: Sequence[Span]) -> bool:
    """Return whether a matrix has one row a segment and one column a frame."""
    return len(matrix) == len(spans) and all(len(row) == spans[-1][1] for row in matrix)
