"""The audit as one HTML page: this module prepares the data, templates/audit.html draws it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vidrl.audit.figures import change_text, counts_from
from vidrl.audit.hacks import HACKS
from vidrl.audit.table import ARROWS, LEGEND, verdict
from vidrl.audit.verdict import FAIL, OPEN, PASS
from vidrl.report.charts import Line, chart, interval, number
from vidrl.report.render import inlined, render

if TYPE_CHECKING:
    from vidrl.audit.report import Report, Row
    from vidrl.audit.search import Point, Search

OUTCOMES = {PASS: "pass", FAIL: "fail", OPEN: ""}  # the CSS class of the verdict
STYLES = ("report/templates/report.css", "audit/templates/audit.css")
# The colours, as RGB, of a large gain, of a large loss and of no change.
LOSS = (194, 87, 26)
GAIN = (11, 122, 117)
NONE = (245, 245, 242)
FREQUENT = 0.05  # share of the clips above which a cell is framed
MOST_WINS = 40  # rows of the table of wins
CARD = {
    "sees": "Sees",
    "blind_to": "Blind to",
    "hacks": "Known hacks",
    "input": "Input",
    "cost": "Cost",
}


def page(report: Report) -> str:
    """Return the page as HTML."""
    counted, not_counted = sides(report)
    return render(
        "audit/audit.html",
        style=inlined(*STYLES),
        reward=report.reward,
        outcome=OUTCOMES[report.outcome],
        verdict=verdict(report),
        facts=_facts(report),
        legend=LEGEND,
        frequent=f"{100 * FREQUENT:g}",
        strengths=report.strengths,
        counted=[_hack(report, hack) for hack in counted],
        not_counted=[_hack(report, hack) for hack in not_counted],
        search=None if report.search is None else _search(report.search),
        checks=report.checks,
        wins=_wins(report),
        more_wins=max(0, len(report.wins) - MOST_WINS),
        card=_card(report),
        clips=_clips(report),
        left_out=report.left,
    )


def colour(change: float, most: float = 20.0) -> str:
    """Return the colour of a change in units of the noise: orange for gains, teal for losses.

    The colour is pale where nothing changes and full from `most` on; the square root makes
    small changes visible.

    >>> colour(0.0), colour(-100.0)
    ('#f5f5f2', '#0b7a75')
    """
    strength = min(1.0, (abs(change) / most) ** 0.5) if change == change else 0.0
    end = LOSS if change > 0 else GAIN
    return "#" + "".join(
        f"{round(a + (b - a) * strength):02x}" for a, b in zip(NONE, end, strict=True)
    )


def ink(change: float) -> str:
    """Return black or white, whichever can be read on `colour(change)`."""
    return "#ffffff" if abs(change) > 9 else "#1b1c1e"


def sides(report: Report) -> tuple[list[str], list[str]]:
    """Return the hacks that count, and those that cannot be detected at any strength tried."""
    counted = [hack for hack in report.hacks if any(row.detectable for row in report.of(hack))]
    return counted, [hack for hack in report.hacks if hack not in counted]


def _facts(report: Report) -> dict[str, Any]:
    return {
        "clips": len(report.clips),
        "unscored": len(report.unscored),
        "left out": len(report.left),
        "null: noise": number(report.null.noise),
        "null: 95th percentile": number(report.null.threshold),
        "standard deviation between clips": number(report.null.spread),
        "seed": report.seed,
        "time": f"{report.seconds:.0f} s",
    }


def _hack(report: Report, hack: str) -> dict[str, Any]:
    """Return the row of a hack: a cell for each strength, and the change at the strongest."""
    rows = {row.strength: row for row in report.of(hack)}
    return {
        "name": hack,
        "why": HACKS[hack].why,
        "counts_from": counts_from(HACKS[hack]),
        "cells": [_cell(report, rows.get(strength)) for strength in report.strengths],
        "trend": ARROWS[report.trend(hack)] if len(rows) > 1 else "",
        "plot": _plot(report, report.of(hack)[-1]),
    }


def _plot(report: Report, row: Row) -> str:
    """Draw the mean change with its interval; "" where too few sources give no interval."""
    if not (math.isfinite(row.low) and math.isfinite(row.high)):
        return ""
    style = "down" if row.low > 0 else "up" if row.high < 0 else ""
    low, high, mean = (report.null.sigmas(value) for value in (row.low, row.high, row.mean))
    return interval(low, high, mean, style=style)


def _cell(report: Report, row: Row | None) -> dict[str, Any] | None:
    """Return one hack at one strength; None where no clip was compared."""
    if row is None or not row.n:
        return None
    change = report.null.sigmas(row.mean)
    ends = f"[{number(row.low)}, {number(row.high)}]"
    unscored = f"; {row.unscored} unscored: {row.why[0]}" if row.unscored else ""
    return {
        "change": change_text(change),
        "colour": colour(change),
        "ink": ink(change),
        "wins": f"{100 * row.rate:.0f}",
        "frequent": row.rate > FREQUENT,
        "counts": row.detectable,
        "title": f"{number(row.mean, sign=True)} {ends} over {row.n} clips{unscored}",
    }


def _search(found: Search) -> dict[str, Any]:
    """Return the curves of reward and truth for both ways of optimising."""
    pools = {"best of N": found.points, "random search over hacks": found.climb}
    return {
        "passed": found.passed,
        "verdict": found.verdict(),
        "pools": [
            {"title": title, "curves": [_curve(points, name) for name in ("reward", "truth")]}
            for title, points in pools.items()
        ],
    }


def _curve(points: Sequence[Point], name: str) -> dict[str, Any]:
    ranges = [getattr(point, name) for point in points]
    mean, low, high = ([values[i] for values in ranges] for i in range(3))
    # N doubles from point to point, so that equal steps of x are a logarithmic axis
    x = [float(k) for k in range(len(points))]
    line = Line(name, x, mean, "after", low, high, dots=True)
    return {
        "name": name,
        "counts": ", ".join(f"{point.n}" for point in points),
        "chart": chart([line], title=f"{name} against N"),
    }


def _wins(report: Report) -> list[dict[str, Any]]:
    return [
        {
            "hack": win.hack,
            "strength": win.strength,
            "gain": number(win.gain, sign=True),
            "clip": win.clip,
        }
        for win in report.wins[:MOST_WINS]
    ]


def _card(report: Report) -> list[tuple[str, str]] | None:
    if report.card is None:
        return None
    texts = {title: getattr(report.card, key) for key, title in CARD.items()}
    return [(title, text) for title, text in texts.items() if text]


def _clips(report: Report) -> list[dict[str, str]]:
    return [
        {"name": clip.name, "value": number(float(value)), "why": why or ""}
        for clip, value, why in zip(report.clips, report.clean, report.why, strict=True)
    ]
