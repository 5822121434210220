"""Charts as HTML and SVG: this module computes places in percent, charts.html draws them.

All pages share these charts. The HTML is in templates/charts.html; colours are CSS classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .render import macro

if TYPE_CHECKING:
    from markupsafe import Markup

TEMPLATE = "report/charts.html"
MOST_HOVERS = 400  # points of a chart above which no point has a hover label: pages stay small

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
    """Return a number as people write it: three significant digits, a dash for None and NaN.

    >>> number(0.12345), number(-1234.5), number(0.5, sign=True), number(None), number(2e-9)
    ('0.123', '−1234', '+0.5', '–', '2e-09')
    """
    if value is None or value != value:
        return "–"
    text = f"{value:+.{digits}g}" if sign else f"{value:.{digits}g}"
    if "e" in text and 1e-4 <= abs(value) < 1e6:
        text = f"{value:+.0f}" if sign else f"{value:.0f}"
    # only the sign becomes a true minus: the hyphen of an exponent such as 2e-09 stays
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
) -> Markup:
    """Draw curves in one frame, with the ends of their range at its left.

    Args:
        lines: the curves; a point without neighbours is drawn as a dot.
        borders: x values of vertical lines.
        span: the ends of the x axis; by default the range of all x.
        axis: what x counts, such as "round".
        title: what a screen reader says about the chart.
        level: y value of a horizontal line.
        digits: significant digits of the labels.
        cells: x runs through cells [n, n + 1), as frames do, and a label names the cell.
    """
    x_low, x_high = span or _range([x for line in lines for x in line.x])
    values = [y for line in lines for y in (*line.y, *line.low, *line.high)] + [level]
    low, high = _range([y for y in values if y is not None])
    frame = _Frame(x_low, x_high, low, high)
    under = [{"style": "border", "d": f"M{frame.x(x):.2f},0V100"} for x in borders]
    if level is not None:
        under.append({"style": "level", "d": _path(frame, [x_low, x_high], [level, level])})
    drawn = {
        "title": title,
        "axis": axis,
        "low": number(low, digits=digits),
        "high": number(high, digits=digits),
        "start": number(x_low) if axis else "",
        "end": number(x_high - cells) if axis else "",
        "under": under,
        "bands": [_band(frame, line) for line in lines if line.low],
        "lines": [
            {"style": f"line {line.style}", "d": _path(frame, line.x, line.y)} for line in lines
        ],
        "marks": [mark for line in lines for mark in _marks(frame, line)],
        "hovers": _hovers(frame, lines, axis, digits, cells),
    }
    return macro(TEMPLATE, "chart", drawn=drawn)


def interval(
    low: Number,
    high: Number,
    difference: float,
    zone: tuple[float, float] | None = None,
    style: str = "",
) -> Markup:
    """Draw one row of a forest plot: a dot at the difference and a bar over its interval.

    Zero is in the middle. `zone` is shaded: the differences that a guard allows. Where
    `low` or `high` is None or NaN, there is no interval, and the bar has no length.
    """
    low, high = (difference if end is None or end != end else end for end in (low, high))
    # 15 % of room, so that the end of the longest bar is seen; a row of zeros has reach 1
    reach = 1.15 * max(abs(low), abs(high), abs(difference)) or 1.0

    def place(value: float) -> float:
        return min(100.0, max(0.0, 50 + 50 * value / reach))

    shaded = None if zone is None else (place(zone[0]), place(zone[1]))
    bar = (place(low), place(high))
    return macro(TEMPLATE, "interval", style=style, zone=shaded, bar=bar, dot=place(difference))


def decimals(value: Number, sign: bool = False, places: int = 3) -> str:
    """Return a number with a fixed count of decimals, for a column of a table.

    >>> decimals(0.4), decimals(-0.0004), decimals(0.12, sign=True), decimals(float("nan"))
    ('0.400', '−0.000', '+0.120', '–')
    """
    if value is None or value != value:
        return "–"
    return (f"{value:+.{places}f}" if sign else f"{value:.{places}f}").replace("-", "−")


def places(width: float) -> int:
    """Return how many decimals show an interval of this width with two digits: 3 to 6.

    >>> places(0.04), places(0.00012), places(0.0)
    (3, 5, 3)
    """
    return min(6, max(3, 1 - math.floor(math.log10(width)))) if width > 0 else 3


def bars(values: Sequence[Number], spans: Sequence[tuple[float, float]], total: float) -> Markup:
    """Draw a signed bar over each span of [0, total]: the advantage of each segment of a clip."""
    most = max((abs(value) for value in values if value is not None), default=0) or 1.0
    pairs = zip(values, spans, strict=False)
    segments = [_bar(value, span, total, most) for value, span in pairs]
    return macro(TEMPLATE, "bars", segments=segments)


def heat(
    values: Sequence[Sequence[Number]],
    rows: Sequence[str],
    columns: Sequence[str],
    widths: Sequence[float] = (),
    signed: bool = True,
) -> Markup:
    """Draw cells whose opacity is the size of their number; a cell without one is hatched.

    `rows` and `columns` name the cells in their hover labels; `widths` are the relative
    widths of the columns; `signed` writes a plus before positive numbers.

    >>> values, steps = [[0.5, -1.0], [None, 0.0]], ["t 1", "t 0.5"]
    >>> drawn = heat(values, steps, ["frame 0", "frames 1 to 4"], [1, 4])
    >>> drawn.count('class="plus"'), drawn.count('class="minus"'), drawn.count('class="none"')
    (2, 1, 1)
    """
    sizes = [abs(value) for row in values for value in row if value is not None]
    most = max(sizes, default=0.0) or 1.0
    cells = [
        _cell(value, most, f"{rows[i]}, {columns[j]}", signed)
        for i, row in enumerate(values)
        for j, value in enumerate(row[: len(columns)])
    ]
    fractions = " ".join(f"{width:g}fr" for width in widths) or f"repeat({len(columns)},1fr)"
    return macro(TEMPLATE, "heat", columns=fractions, cells=cells)


@dataclass(frozen=True)
class _Frame:
    """The ranges of both axes, and the places of values in percent of the drawing."""

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
    """Return the ends of an axis that shows all finite values."""
    finite = [value for value in values if abs(value) < float("inf")]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    if low < high:
        return low, high
    # A constant has no range. A constant c is drawn in the middle between 0 and 2 c, and a
    # constant 0 at the bottom of [0, 1].
    return min(0.0, 2 * low), max(0.0, 2 * high) or (1.0 if low == 0 else 0.0)


def _runs(x: Sequence[float], y: Sequence[Number]) -> list[list[tuple[float, float]]]:
    """Split a curve at its missing values, so that no line is drawn across a gap."""
    runs: list[list[tuple[float, float]]] = [[]]
    for at, value in zip(x, y, strict=False):
        if value is None or value != value:
            runs.append([])
        else:
            runs[-1].append((at, value))
    return [run for run in runs if run]


def _path(frame: _Frame, x: Sequence[float], y: Sequence[Number]) -> str:
    """Return a curve as the commands of an SVG path."""
    return "".join(
        "M" + "L".join(frame.point(*point) for point in run) for run in _runs(x, y) if len(run) > 1
    )


def _band(frame: _Frame, line: Line) -> dict[str, str]:
    """Return the polygon between `low` and `high`: along the upper edge and back."""
    upper = [point for run in _runs(line.x, line.high) for point in run]
    lower = [point for run in _runs(line.x, line.low) for point in run]
    points = " ".join(frame.point(*point) for point in [*upper, *reversed(lower)])
    return {"style": line.style, "points": points}


def _marks(frame: _Frame, line: Line) -> list[dict[str, object]]:
    """Return a dot for every point if the line asks for dots, else for points without neighbour."""
    runs = [run for run in _runs(line.x, line.y) if line.dots or len(run) == 1]
    return [
        {"style": line.style, "left": frame.x(x), "top": frame.y(y)} for run in runs for x, y in run
    ]


def _hovers(
    frame: _Frame, lines: Sequence[Line], axis: str, digits: int, cells: bool
) -> list[dict[str, object]]:
    """Return an invisible strip around each x, whose hover label has the values of all lines."""
    at = sorted({x for line in lines for x in line.x})
    if len(at) > MOST_HOVERS:
        return []
    labels: dict[float, list[str]] = {x: [] for x in at}
    for line in lines:
        for x, y in zip(line.x, line.y, strict=False):
            labels[x].append(f"{line.name} {number(y, digits=digits)}")
    # the border between two strips is halfway between their points
    edges = [frame.x_low, *((a + b) / 2 for a, b in zip(at, at[1:], strict=False)), frame.x_high]
    return [
        {
            "left": frame.x(a),
            "width": frame.x(b) - frame.x(a),
            "title": f"{axis} {number(math.floor(x) if cells else x)}: " + ", ".join(labels[x]),
        }
        for x, a, b in zip(at, edges, edges[1:], strict=False)
    ]


def _cell(value: Number, most: float, name: str, signed: bool) -> dict[str, object]:
    """Return one cell of `heat`."""
    if value is None:
        return {"opacity": None, "title": f"{name}: not scored"}
    sign = "plus" if value >= 0 else "minus"
    title = f"{name}: {number(value, sign=signed)}"
    return {"sign": sign, "opacity": abs(value) / most, "title": title}


def _bar(value: Number, span: tuple[float, float], total: float, most: float) -> dict[str, object]:
    """Return one bar of `bars`; the longest fills 46 of the 50 percent above or below zero."""
    first, last = span[0], span[1] - 1
    where = f"frames {first:.0f} to {last:.0f}" if last > first else f"frame {first:.0f}"
    return {
        "sign": "none" if value is None else "plus" if value >= 0 else "minus",
        "width": 100 * (span[1] - span[0]) / total,
        "height": 0 if value is None else 46 * abs(value) / most,
        "title": f"{where}: advantage {number(value, sign=True)}",
        "label": number(value, sign=True, digits=2),
    }
