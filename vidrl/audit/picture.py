"""The audit as one SVG picture, for a README: hacks by strengths in colour, winners framed,
best-of-N beside."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from vidrl.audit.figures import change_text
from vidrl.audit.page import colour, ink, sides
from vidrl.audit.table import verdict
from vidrl.audit.verdict import FAIL, OPEN, PASS
from vidrl.report.charts import number

if TYPE_CHECKING:
    from vidrl.audit.report import Report, Row
    from vidrl.audit.search import Point

CELL, HEIGHT, NAME, TOP, LEFT = 76, 21, 92, 78, 20
FONT = "font-family='ui-sans-serif,system-ui,Segoe UI,Helvetica,Arial,sans-serif'"


def picture(report: Report) -> str:
    """The whole picture."""
    counted, apart = sides(report)
    block = NAME + len(report.strengths) * CELL
    right = LEFT + block + 50
    below = TOP + (len(apart) + 2) * HEIGHT
    high = max(TOP + (len(counted) + 2) * HEIGHT, below + (250 if report.search else 60)) + 40
    width = max(right + block + LEFT, 640)
    parts = [
        _text(LEFT, 28, f"vidrl audit · {report.reward}", size=17, bold=True),
        _lines(report),
        _block(report, "what can be told from the clip", counted, LEFT),
        _block(report, "what cannot: not counted", apart, right),
        _legend(LEFT, high - 22),
    ]
    parts += [_curves(report.search.points, right, below + 20, block)] if report.search else []
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {high}" width="{width}" height="{high}" '
        f'role="img" aria-label="{escape(verdict(report))}" {FONT}>'
        f'<rect width="{width}" height="{high}" rx="10" fill="#ffffff"/>{"".join(parts)}</svg>\n'
    )


def _lines(report: Report) -> str:
    said = verdict(report).removeprefix(f"{report.reward}: ")
    return _text(
        LEFT,
        48,
        said,
        size=12,
        fill={PASS: "#0b7a75", FAIL: "#c2571a", OPEN: "#62656b"}[report.outcome],
    )


def _block(report: Report, title: str, hacks: Sequence[str], x: float) -> str:
    if not hacks:
        return ""
    heads = "".join(
        _text(x + NAME + (k + 0.5) * CELL, TOP + 14, f"{s:g}", anchor="middle", fill="#62656b")
        for k, s in enumerate(report.strengths)
    )
    rows = "".join(_row(report, hack, x, TOP + (k + 1) * HEIGHT) for k, hack in enumerate(hacks))
    return _text(x, TOP - 2, title, fill="#62656b") + heads + rows


def _row(report: Report, hack: str, x: float, y: float) -> str:
    rows = {row.strength: row for row in report.of(hack)}
    cells = "".join(
        _cell(report, rows.get(s), x + NAME + k * CELL, y) for k, s in enumerate(report.strengths)
    )
    return _text(x, y + 15, hack, size=12.5) + cells


def _cell(report: Report, row: Row | None, x: float, y: float) -> str:
    if row is None or not row.n:
        return ""
    change = report.null.sigmas(row.mean)
    frame = ' stroke="#1b1c1e" stroke-width="2"' if row.rate > 0.05 else ""
    share = f" {100 * row.rate:.0f}%" if row.rate > 0.05 else ""
    fade = "" if row.detectable else ' opacity=".55"'
    return (
        f'<rect x="{x + 1.5}" y="{y + 1.5}" width="{CELL - 3}" height="{HEIGHT - 3}" rx="3" '
        f'fill="{colour(change)}"{frame}{fade}/>'
        + _text(
            x + CELL / 2,
            y + 14.5,
            change_text(change) + share,
            size=10.5,
            anchor="middle",
            fill=ink(change) if row.detectable else "#1b1c1e",
        )
    )


def _legend(x: float, y: float) -> str:
    boxes = "".join(
        f'<rect x="{x + 26 * k}" y="{y - 9}" width="24" height="11" rx="2" fill="{colour(change)}"/>'
        for k, change in enumerate((-20.0, -5.0, 0.0, 5.0, 20.0))
    )
    words = "mean change of the reward, in units of a mild re-encoding's; framed: more than 5 % of the clips win"
    return boxes + _text(x + 140, y, words, fill="#62656b")


def _curves(points: Sequence[Point], x: float, y: float, width: float) -> str:
    """Reward and truth of best-of-N, one below the other."""
    labels = "".join(
        _text(
            x + width * k / max(len(points) - 1, 1),
            y + 210,
            str(p.n),
            size=10,
            anchor="middle",
            fill="#62656b",
        )
        for k, p in enumerate(points)
    )
    one = _curve([p.reward for p in points], "reward of the best of N", x, y, width, "#8b8f98")
    return (
        one + _curve([p.truth for p in points], "its truth", x, y + 105, width, "#0b7a75") + labels
    )


def _curve(
    found: Sequence[tuple[float, float, float]],
    title: str,
    x: float,
    y: float,
    width: float,
    ink: str,
) -> str:
    low, high = min(f[1] for f in found), max(f[2] for f in found)

    def at(k: int, v: float) -> tuple[float, float]:
        return (
            x + width * k / max(len(found) - 1, 1),
            y + 80 - 62 * (v - low) / ((high - low) or 1),
        )

    join = lambda points: " ".join(f"{a:.1f},{b:.1f}" for a, b in points)  # noqa: E731
    band = [at(k, f[1]) for k, f in enumerate(found)] + [
        at(k, f[2]) for k, f in reversed(list(enumerate(found)))
    ]
    line = [at(k, f[0]) for k, f in enumerate(found)]
    ends = f"{title}: {number(found[0][0])} → {number(found[-1][0])}"
    return (
        _text(x, y + 8, ends, fill="#62656b")
        + f'<polygon points="{join(band)}" fill="{ink}" opacity=".18"/>'
        f'<polyline points="{join(line)}" fill="none" stroke="{ink}" stroke-width="2"/>'
    )


def _text(
    x: float,
    y: float,
    words: str,
    size: float = 11,
    fill: str = "#1b1c1e",
    anchor: str = "start",
    bold: bool = False,
) -> str:
    weight = ' font-weight="650"' if bold else ""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{fill}" text-anchor="{anchor}"{weight}>'
        f"{escape(words)}</text>"
    )
