"""Charts as HTML and SVG text, for the report; the standard library only.

Nothing drawn holds text: labels are HTML around it, so that a chart may be stretched to any
width and stay readable. Colours are CSS classes of the page.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

Number = float | None  # None: not scored


@dataclass(frozen=True)
class Line:
    """A named curve; `low` and `high`, if given, bound a shaded band around it."""

    name: str
    x: Sequence[float]
    y: Sequence[Number]
    style: str = "after"  # a CSS class: before, after, part
    low: Sequence[Number] = ()
    high: Sequence[Number] = ()
    dots: bool = False


def number(value: Number, sign: bool = False, digits: int = 3) -> str:
    """A number for people: three significant digits, a true minus, a dash where there is
    none.

    >>> number(0.12345), number(-1234.5), number(0.5, sign=True), number(None), number(2e-9)
    ('0.123', '−1234', '+0.5', '–', '2e-09')
    """
    if value is None or value != value:
        return "–"
    text = f"{value:+.{digits}g}" if sign else f"{value:.{digits}g}"
    if "e" in text and 1e-4 <= abs(value) < 1e6:
        text = f"{value:+.0f}" if sign else f"{value:.0f}"
    return text.replace("-", "−", 1) if text.startswith("-") else text


def chart(
    lines: Sequence[Line],
    *,
    borders: Sequence[float] = (),
    span: tuple[float, float] | None = None,
    axis: str = "",
    title: str = "",
    level: float | None = None,
    digits: int = 3,
    cells: bool = False,
) -> str:
    """Curves in one frame with their range beside it; `borders` are vertical lines, `level`
    a horizontal one.

    `span` fixes the x axis, `axis` says what x counts, `digits` are those of the labels.
    `cells`: x runs through cells [n, n + 1), as frames do, and a label names the cell. A
    point without neighbours is a dot.
    """
    x_low, x_high = span or _range([x for line in lines for x in line.x])
    values = [y for line in lines for y in (*line.y, *line.low, *line.high)] + (
        [] if level is None else [level]
    )
    low, high = _range([y for y in values if y is not None])
    frame = _Frame(x_low, x_high, low, high)
    drawn = [_rule(frame, x, "border") for x in borders]
    drawn += [] if level is None else [_path(frame, [x_low, x_high], [level, level], "level")]
    drawn += [_band(frame, line) for line in lines if line.low]
    drawn += [_path(frame, line.x, line.y, f"line {line.style}") for line in lines]
    over = "".join(_dots(frame, line, 0 if line.dots else 1) for line in lines)
    over += _hover(frame, lines, axis, digits, cells)
    return (
        f'<div class="chart"><span class="top">{number(high, digits=digits)}</span>'
        f'<span class="bottom">{number(low, digits=digits)}</span>'
        f'<div class="plot"><svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(title)}">{"".join(drawn)}</svg>{over}</div>'
        f'<span class="from">{number(x_low) if axis else ""}</span>'
        f'<span class="to">{escape(axis)} {number(x_high - cells) if axis else ""}</span></div>'
    )


def interval(
    low: Number,
    high: Number,
    difference: float,
    zone: tuple[float, float] | None = None,
    style: str = "",
) -> str:
    """One row of a forest plot: a dot at the difference, a bar over its interval, zero in
    the middle.

    `zone` is shaded: the differences that a guard allows. Without an interval, None, there
    is no bar.
    """
    low, high = (difference if end is None or end != end else end for end in (low, high))
    reach = 1.15 * max(abs(low), abs(high), abs(difference)) or 1.0
    place = lambda value: min(100.0, max(0.0, 50 + 50 * value / reach))  # noqa: E731
    shaded = "" if zone is None else _span("zone", place(zone[0]), place(zone[1]))
    return (
        f'<div class="forest {style}">{shaded}<i class="zero"></i>{_span("bar", place(low), place(high))}'
        f'<i class="dot" style="left:{place(difference):.2f}%"></i></div>'
    )


def decimals(value: Number, sign: bool = False, places: int = 3) -> str:
    """A number of a table's column, with so many decimals.

    >>> decimals(0.4), decimals(-0.0004), decimals(0.12, sign=True), decimals(float("nan"))
    ('0.400', '−0.000', '+0.120', '–')
    """
    if value is None or value != value:
        return "–"
    return (f"{value:+.{places}f}" if sign else f"{value:.{places}f}").replace("-", "−")


def places(width: float) -> int:
    """How many decimals show an interval of this width: three, or as many as give it two
    digits, up to six.

    >>> places(0.04), places(0.00012), places(0.0)
    (3, 5, 3)
    """
    return min(6, max(3, 1 - math.floor(math.log10(width)))) if width > 0 else 3


def bars(values: Sequence[Number], spans: Sequence[tuple[float, float]], total: float) -> str:
    """A signed bar over each span of [0, total], with its value: what each segment of a
    clip was credited."""
    most = max((abs(value) for value in values if value is not None), default=0) or 1.0
    return "".join(
        _bar(value, span, total, most) for value, span in zip(values, spans, strict=False)
    )


def heat(
    values: Sequence[Sequence[Number]],
    rows: Sequence[str],
    columns: Sequence[str],
    widths: Sequence[float] = (),
    signed: bool = True,
) -> str:
    """Cells as strong as their number is large, by sign where `signed`; what is not there
    is hatched.

    `rows` and `columns` name them, for the hover; `widths` are the columns' shares.

    >>> drawn = heat([[0.5, -1.0], [None, 0.0]], ["t 1", "t 0.5"], ["frame 0", "frames 1 to 4"], [1, 4])
    >>> drawn.count('class="plus"'), drawn.count('class="minus"'), drawn.count('class="none"')
    (2, 1, 1)
    """
    most = (
        max((abs(value) for row in values for value in row if value is not None), default=0.0)
        or 1.0
    )
    cells = "".join(
        _cell(value, most, f"{rows[i]}, {columns[j]}", signed)
        for i, row in enumerate(values)
        for j, value in enumerate(row[: len(columns)])
    )
    shares = " ".join(f"{width:g}fr" for width in widths) or f"repeat({len(columns)},1fr)"
    return f'<div class="heat" style="grid-template-columns:{shares}">{cells}</div>'


@dataclass(frozen=True)
class _Frame:
    x_low: float
    x_high: float
    low: float
    high: float

    def x(self, value: float) -> float:
        return 100 * (value - self.x_low) / ((self.x_high - self.x_low) or 1)

    def y(self, value: float) -> float:
        return 100 - 100 * (value - self.low) / ((self.high - self.low) or 1)

    def point(self, x: float, y: float) -> str:
        return f"{self.x(x):.2f},{self.y(y):.2f}"


def _range(values: Sequence[float]) -> tuple[float, float]:
    finite = [value for value in values if abs(value) < float("inf")]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    # A constant has no range of its own: it is drawn halfway to zero's side of its frame,
    # and zero on the floor.
    return (
        (low, high)
        if low < high
        else (min(0.0, 2 * low), max(0.0, 2 * high) or (1.0 if low == 0 else 0.0))
    )


def _runs(x: Sequence[float], y: Sequence[Number]) -> list[list[tuple[float, float]]]:
    """The stretches without a gap; a value that is not there is never drawn."""
    runs: list[list[tuple[float, float]]] = [[]]
    for at, value in zip(x, y, strict=False):
        if value is None or value != value:
            runs.append([])
        else:
            runs[-1].append((at, value))
    return [run for run in runs if run]


def _path(frame: _Frame, x: Sequence[float], y: Sequence[Number], style: str) -> str:
    path = "".join(
        "M" + "L".join(frame.point(*point) for point in run) for run in _runs(x, y) if len(run) > 1
    )
    return f'<path class="{style}" d="{path}"/>'


def _band(frame: _Frame, line: Line) -> str:
    upper = [point for run in _runs(line.x, line.high) for point in run]
    lower = [point for run in _runs(line.x, line.low) for point in run]
    points = " ".join(frame.point(*point) for point in [*upper, *reversed(lower)])
    return f'<polygon class="band {line.style}" points="{points}"/>'


def _rule(frame: _Frame, x: float, style: str) -> str:
    return f'<path class="{style}" d="M{frame.x(x):.2f},0V100"/>'


def _dots(frame: _Frame, line: Line, longest: int = 0) -> str:
    """A mark on every point, or on those of runs of `longest` points at most."""
    points = [
        point
        for run in _runs(line.x, line.y)
        if not longest or len(run) <= longest
        for point in run
    ]
    return "".join(
        f'<i class="mark {line.style}" style="left:{frame.x(x):.2f}%;top:{frame.y(y):.2f}%"></i>'
        for x, y in points
    )


def _hover(frame: _Frame, lines: Sequence[Line], axis: str, digits: int, cells: bool) -> str:
    at = sorted({x for line in lines for x in line.x})
    if len(at) > 400:
        return ""
    told: dict[float, list[str]] = {x: [] for x in at}
    for line in lines:
        for x, y in zip(line.x, line.y, strict=False):
            told[x].append(f"{line.name} {number(y, digits=digits)}")
    edges = [frame.x_low, *((a + b) / 2 for a, b in zip(at, at[1:], strict=False)), frame.x_high]
    return "".join(
        f'<b style="left:{frame.x(a):.2f}%;width:{frame.x(b) - frame.x(a):.2f}%" '
        f'title="{escape(f"{axis} {number(math.floor(x) if cells else x)}: " + ", ".join(told[x]))}"></b>'
        for x, a, b in zip(at, edges, edges[1:], strict=False)
    )


def _span(style: str, left: float, right: float) -> str:
    return f'<i class="{style}" style="left:{left:.2f}%;width:{max(right - left, 0.6):.2f}%"></i>'


def _cell(value: Number, most: float, name: str, signed: bool) -> str:
    if value is None:
        return f'<i class="none" title="{escape(name)}: not scored"></i>'
    style = "plus" if value >= 0 else "minus"
    return (
        f'<i class="{style}" style="opacity:{abs(value) / most:.2g}" '
        f'title="{escape(name)}: {number(value, sign=signed)}"></i>'
    )


def _bar(value: Number, span: tuple[float, float], total: float, most: float) -> str:
    width = 100 * (span[1] - span[0]) / total
    sign = "none" if value is None else "plus" if value >= 0 else "minus"
    height = 0 if value is None else 46 * abs(value) / most
    where = (
        f"frames {span[0]:.0f} to {span[1] - 1:.0f}"
        if span[1] - span[0] > 1
        else f"frame {span[0]:.0f}"
    )
    title = f"{where}: advantage {number(value, sign=True)}"
    return (
        f'<div class="credit {sign}" style="width:{width:.3f}%" title="{title}">'
        f'<i style="height:{height:.1f}%"></i><span>{number(value, sign=True, digits=2)}</span></div>'
    )
