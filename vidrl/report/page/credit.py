"""Where the credit went: the best and the worst clip, and over their frames the reward and
what each segment got."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ..charts import Line, bars, chart, heat, number
from ..run_folder import Row, Run
from .film import breaking, film, frames, given, lane, lanes, player
from .reading import LOCAL, reading, spans_of

Span = tuple[int, int]


def credited(run: Run) -> str:
    """The section; empty where the run folder tells nothing of credit."""
    if not run.credit:
        return ""
    entries = "".join(_entry(run, row) for row in run.credit)
    others = '<span class="swatch before"></span>the mean of the group\'s other clips. '
    told = others if any(row.get("others") for row in run.credit) else ""
    return (
        f'<section><h2>Where the credit went</h2><p class="note">Clips of the last training round. All that stands '
        f"under a clip's frames shares their time axis; dashed lines are the borders of the segments. Advantage: "
        f'<span class="swatch"></span>made more likely, <span class="swatch minus"></span>made less likely. {told}'
        f'Move over a drawing to hold the clip at that frame.</p><div class="grid one">{entries}</div></section>'
    )


def _entry(run: Run, row: Row) -> str:
    path = run.clip(row["file"]) if row.get("file") else None
    rank = {"best": "Best of its round", "worst": "Worst of its round"}.get(
        Path(str(row.get("file"))).stem, ""
    )
    head = (
        f"<h3>{f'<small>{rank}</small>' if rank else ''}{escape(row.get('prompt', ''))}</h3>"
        f'<span title="the clip\'s reward">{number(row.get("value"))}</span>'
    )
    clip, bare = (f"<figure>{player(path)}</figure>", "") if row.get("file") else ("", " bare")
    return (
        f'<div class="card"><div class="head2">{head}</div><p class="reading">{escape(reading(row))}</p>'
        f"{given(run, row, 'clips', 'train')}"
        f'<div class="timeline{bare}">{clip}<div>{_drawn(row, path)}</div></div></div>'
    )


def _drawn(row: Row, path: Path | None) -> str:
    spans, curve = spans_of(row), row.get("curve") or []
    length = max([len(curve), *(end for _, end in spans)], default=1) or 1
    few = "" if len(spans) <= 8 else "many" if len(spans) <= 24 else "very many"
    signed = (
        f'<div class="bars {few}">{bars(row.get("advantage") or [], spans, length)}</div>'
        if spans
        else ""
    )
    main = [
        lane("", film(path)),
        lane("advantage", signed),
        _steps(row, spans),
        _curve(row, "composite", curve),
    ]
    return lanes(main, spans, length) + _parts(row, spans, length)


def _curve(row: Row, name: str, curve: Sequence[Any]) -> str:
    if len(curve) < 2:
        return ""
    middles, others = (
        [frame + 0.5 for frame in range(len(curve))],
        (row.get("others") or {}).get(name),
    )
    lines = [Line("the group's others", middles, others, "before")] if others else []
    drawn = chart(
        [*lines, Line(name, middles, curve)],
        span=(0, len(curve)),
        axis="frame",
        cells=True,
        title=f"{name}, frame by frame",
    )
    return lane("reward" if name == "composite" else breaking(name), drawn)


def _steps(row: Row, spans: Sequence[Span]) -> str:
    """Steps × segments: what each segment got at each denoising step, the noisiest on
    top."""
    rows = row.get("advantage_steps") or []
    if not rows or not spans:
        return ""
    times = [f"t {number(time)}" for time in row.get("times") or []]
    names = times if len(times) == len(rows) else [f"step {k + 1}" for k in range(len(rows))]
    drawn = heat(
        rows, names, [frames(span) for span in spans], [end - start for start, end in spans]
    )
    sized = f'<div style="--row:{max(4, min(14, 120 // len(rows)))}px">{drawn}</div>'
    return lane("by step", sized, names[0], names[-1] if len(names) > 1 else "")


def _parts(row: Row, spans: Sequence[Span], length: int) -> str:
    curves: Mapping[str, Sequence[Any]] = row.get("curves") or {}
    if length == 1:
        return _values(row)
    drawn = [
        _curve(row, name, curve) for name, curve in curves.items() if name != "composite" and curve
    ]
    told = _elsewhere(row, curves)
    if not drawn and not told:
        return ""
    return f"<details><summary>parts, frame by frame</summary>{lanes(drawn, spans, length)}{told}</details>"


def _values(row: Row) -> str:
    """An image's parts: each is one number."""
    told = "".join(
        f"<div><dt>{breaking(name)}</dt><dd>{number(value)}</dd></div>"
        for name, value in (row.get("parts") or {}).items()
    )
    return f'<dl class="facts">{told}</dl>' if told else ""


def _elsewhere(row: Row, curves: Mapping[str, Any]) -> str:
    """The parts that could not be credited where they are."""
    supports = row.get("supports") or {}
    local = [
        name for name, curve in curves.items() if curve and supports.get(name, "frame") in LOCAL
    ]
    whole = [name for name in row.get("parts") or {} if name not in local]
    if not whole:
        return ""
    return (
        f'<p class="note">Credited to every segment alike, because no frames of their own earn them: '
        f"{escape(', '.join(whole))}.</p>"
    )
