"""How far the noise of each segment moves the reward of each frame, as heat maps over the
clip's frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ..charts import heat, number
from ..run_folder import Run
from .film import breaking, film, frames, lane, lanes

Matrix = Sequence[Sequence[float | None]]
Span = tuple[int, int]
COLUMN = 4  # pixels of a frame's column, at least: a longer clip scrolls inside its box


def influenced(run: Run) -> str:
    """The section; empty where the run folder has no influence.json."""
    parts: Mapping[str, Matrix] = run.influence.get("parts") or {}
    spans: list[Span] = [
        (int(start), int(end)) for start, end in run.influence.get("segments") or []
    ]
    if not parts or not spans:
        return ""
    fit = {name: matrix for name, matrix in parts.items() if _fits(matrix, spans)}
    odd = [name for name in parts if name not in fit]
    first = next(iter([name for name in fit if name == "composite"] or fit), None)
    whole = "" if first is None else _whole(run, first, fit[first], spans)
    rest = "".join(_small(name, matrix, spans) for name, matrix in fit.items() if name != first)
    missing = (
        _note(f"Not drawn, because rows or columns are missing: {', '.join(odd)}.") if odd else ""
    )
    if spans[-1][1] == 1:
        return _section(
            _note("An image is one segment of one frame: all its noise moves all its reward.")
        )
    rest = f'<h4>Part by part</h4><div class="grid">{rest}</div>' if rest else ""
    return _section(f"{_note(_how(run, spans))}{whole}{rest}{missing}")


def local_share(matrix: Matrix, spans: Sequence[Span]) -> tuple[float, float] | None:
    """Which share of Σ I² falls on the segments' own frames, and which would, were each row
    spread evenly.

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


def _section(body: str) -> str:
    return f"<section><h2>What the noise of a segment moves</h2>{body}</section>"


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def _how(run: Run, spans: Sequence[Span]) -> str:
    steps = run.influence.get("steps")
    over = f" ({steps})" if steps else ""
    if len(spans) == 1:
        return (
            f"The clip is one segment, so that the whole clip was credited. The row says how far its noise moves "
            f"the reward of each frame{over}."
        )
    return (
        f"Row j: how far the noise of segment j moves the reward of each frame{over}. A row that is strong only in "
        f"its own block, which is outlined, can be credited locally; one that is strong elsewhere too earns or "
        f"loses reward on other segments' frames."
    )


def _whole(run: Run, name: str, matrix: Matrix, spans: Sequence[Span]) -> str:
    paths = [run.clip(row["file"]) for row in run.credit if row.get("file")]
    rows = [
        lane("", film(next(filter(None, paths), None))),
        lane(_labels(spans), _cells(matrix, spans)),
        lane("", _axis(spans[-1][1])),
    ]
    width = COLUMN * spans[-1][1] + 76
    return (
        f'<div class="card"><div class="head2"><h3>{breaking(name)}</h3>{_share(matrix, spans, long=True)}</div>'
        f'<div class="scroll"><div style="min-width:{width}px">{lanes(rows, [], spans[-1][1])}</div></div>'
        f"{_legend(matrix)}</div>"
    )


def _small(name: str, matrix: Matrix, spans: Sequence[Span]) -> str:
    return (
        f'<div class="card"><div class="head2"><h3>{breaking(name)}</h3>{_share(matrix, spans)}</div>'
        f'<div class="smaller">{_cells(matrix, spans)}</div>{_legend(matrix)}</div>'
    )


def _cells(matrix: Matrix, spans: Sequence[Span]) -> str:
    length, count = spans[-1][1], len(spans)
    blocks = "".join(
        f'<u class="block" style="left:{100 * a / length:.3f}%;width:{100 * (b - a) / length:.3f}%;'
        f'top:{100 * j / count:.3f}%;height:{100 / count:.3f}%"></u>'
        for j, (a, b) in enumerate(spans)
    )
    names = [f"segment {j + 1} ({frames(span)})" for j, span in enumerate(spans)]
    drawn = heat(matrix, names, [f"frame {i}" for i in range(length)], signed=False)
    return f'<div class="matrix">{drawn}{blocks if count > 1 else ""}</div>'


def _labels(spans: Sequence[Span]) -> str:
    covered = [f"{a}–{b - 1}" if b - a > 1 else str(a) for a, b in spans]
    rows = "".join(f"<span>{j + 1}<em>{text}</em></span>" for j, text in enumerate(covered))
    return f'<div class="rows">{rows}</div>'


def _axis(length: int) -> str:
    return f'<div class="ends"><span>0</span><span>frame {length - 1}</span></div>'


def _share(matrix: Matrix, spans: Sequence[Span], long: bool = False) -> str:
    share = local_share(matrix, spans) if len(spans) > 1 else None
    if share is None:
        return ""
    own, even = (f"{100 * one:.0f} %" for one in share)
    return (
        f'<span class="soft"><b>{own}</b> of the effect (I²) falls on own frames; {even} if spread evenly</span>'
        if long
        else f'<span class="soft" title="if spread evenly: {even}">{own} on own frames</span>'
    )


def _legend(matrix: Matrix) -> str:
    most = max((value for row in matrix for value in row if value is not None), default=0.0)
    return f'<div class="legend"><span>0</span><i></i><span>{number(most)}</span></div>'


def _fits(matrix: Any, spans: Sequence[Span]) -> bool:
    return len(matrix) == len(spans) and all(len(row) == spans[-1][1] for row in matrix)
