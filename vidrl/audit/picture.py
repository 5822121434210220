"""The audit as one SVG picture for a README: this module places, templates/picture.svg draws.

Hacks by strengths are in two blocks: hacks that count at the left, others at the right. Below the
right block are the curves of best-of-N, if the search was asked for. Lengths are pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vidrl.audit.figures import change_text
from vidrl.audit.page import FREQUENT, colour, ink, sides
from vidrl.audit.table import verdict
from vidrl.audit.verdict import FAIL, OPEN, PASS
from vidrl.report.charts import number
from vidrl.report.render import render

if TYPE_CHECKING:
    from vidrl.audit.report import Report, Row
    from vidrl.audit.search import Point, Range

CELL = 76  # the width of a strength's column
HEIGHT = 21  # of a hack's row
NAME = 92  # the width of the hacks' names
TOP = 94  # where the blocks begin
LEFT = 20
LETTER = 6  # the mean width of a letter of the verdict
GAP = 50  # between the two blocks
CURVE = 105  # the height of one curve of best-of-N with its title
OUTCOMES = {PASS: "#0b7a75", FAIL: "#c2571a", OPEN: "#62656b"}


def picture(report: Report) -> str:
    """Return the picture as SVG."""
    counted, not_counted = sides(report)
    block = NAME + len(report.strengths) * CELL
    right = LEFT + block + GAP
    # the curves begin under the right block
    below = TOP + (len(not_counted) + 2) * HEIGHT
    deepest = below + (2 * CURVE + 40 if report.search else 60)
    height = max(TOP + (len(counted) + 2) * HEIGHT, deepest) + 40
    blocks = [
        _block(report, "hacks that can be detected in the clip", counted, LEFT),
        _block(report, "hacks that cannot: not counted", not_counted, right),
    ]
    points = report.search.points if report.search else []
    # the verdict is too long for one line of a narrow picture
    first, _, rest = verdict(report).removeprefix(f"{report.reward}: ").partition("; ")
    text = render(
        "audit/picture.svg",
        width=max(right + block + LEFT, LETTER * max(len(first), len(rest)) + 2 * LEFT),
        height=height,
        left=LEFT,
        title=f"vidrl audit · {report.reward}",
        label=verdict(report),
        verdict={"first": first, "rest": rest, "fill": OUTCOMES[report.outcome]},
        blocks=[block for block in blocks if block["rows"]],
        legend=_legend(height - 22),
        frequent=f"{100 * FREQUENT:g}",
        curves=_curves(points, right, below + 20, block),
        counts=_counts(points, right, below + 20, block),
    )
    return text + "\n"


def _block(report: Report, title: str, hacks: Sequence[str], x: float) -> dict[str, Any]:
    heads = [
        {"x": x + NAME + (k + 0.5) * CELL, "y": TOP + 14, "words": f"{strength:g}"}
        for k, strength in enumerate(report.strengths)
    ]
    rows = [_row(report, hack, x, TOP + (k + 1) * HEIGHT) for k, hack in enumerate(hacks)]
    return {"x": x, "y": TOP - 2, "title": title, "heads": heads, "rows": rows}


def _row(report: Report, hack: str, x: float, y: float) -> dict[str, Any]:
    rows = {row.strength: row for row in report.of(hack)}
    places = {strength: x + NAME + k * CELL for k, strength in enumerate(report.strengths)}
    compared = {strength: row for strength, row in rows.items() if row.n}
    cells = [_cell(report, row, places[strength], y) for strength, row in compared.items()]
    return {"name": hack, "y": y + 15, "cells": cells}


def _cell(report: Report, row: Row, x: float, y: float) -> dict[str, Any]:
    """Return the rectangle of one hack at one strength, and the words in it."""
    change = report.null.sigmas(row.mean)
    frequent = row.rate > FREQUENT
    return {
        "x": x + 1.5,
        "y": y + 1.5,
        "width": CELL - 3,
        "height": HEIGHT - 3,
        "colour": colour(change),
        "framed": frequent,
        "faded": not row.detectable,
        "middle": x + CELL / 2,
        "line": y + 14.5,
        "words": change_text(change) + (f" {100 * row.rate:.0f}%" if frequent else ""),
        # white cannot be read on a faded cell
        "ink": ink(change) if row.detectable else "#1b1c1e",
    }


def _legend(y: float) -> list[dict[str, Any]]:
    return [
        {"x": LEFT + 26 * k, "y": y - 9, "colour": colour(change)}
        for k, change in enumerate((-20.0, -5.0, 0.0, 5.0, 20.0))
    ]


def _curves(points: Sequence[Point], x: float, y: float, width: float) -> list[dict[str, Any]]:
    """Return the curves of best-of-N: the reward, and below it the truth."""
    if not points:
        return []
    rewards, truths = [point.reward for point in points], [point.truth for point in points]
    return [
        _curve(rewards, "reward of the best of N", x, y, width) | {"ink": "#8b8f98"},
        _curve(truths, "truth of the best of N", x, y + CURVE, width) | {"ink": "#0b7a75"},
    ]


def _curve(ranges: Sequence[Range], title: str, x: float, y: float, width: float) -> dict[str, Any]:
    """Return the points of a curve and of the band around it, 62 pixels high."""
    # without an interval, of too few prompts, the band has no height
    ranges = [(m, low if low == low else m, high if high == high else m) for m, low, high in ranges]
    lowest, highest = min(r[1] for r in ranges), max(r[2] for r in ranges)
    step, scale = width / max(len(ranges) - 1, 1), 62 / ((highest - lowest) or 1)

    def points(values: Sequence[float]) -> list[str]:
        return [
            f"{x + k * step:.1f},{y + 80 - scale * (value - lowest):.1f}"
            for k, value in enumerate(values)
        ]

    mean, low, high = (points([r[i] for r in ranges]) for i in range(3))
    return {
        "x": x,
        "y": y + 8,
        "title": f"{title}: {number(ranges[0][0])} → {number(ranges[-1][0])}",
        # the band runs along the lower ends and back along the upper ends
        "band": " ".join([*low, *reversed(high)]),
        "line": " ".join(mean),
    }


def _counts(points: Sequence[Point], x: float, y: float, width: float) -> list[dict[str, Any]]:
    """Return the labels of N under the curves."""
    step = width / max(len(points) - 1, 1)
    return [
        {"x": x + k * step, "y": y + 2 * CURVE, "words": f"{point.n}"}
        for k, point in enumerate(points)
    ]
