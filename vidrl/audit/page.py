"""The audit as one HTML page that holds everything it shows, and its picture as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING

from vidrl.audit.figures import change_text, detectable_from
from vidrl.audit.hacks import HACKS
from vidrl.audit.table import ARROWS, LEGEND, verdict
from vidrl.audit.verdict import FAIL, OPEN, PASS
from vidrl.report.charts import Line, chart, interval, number

if TYPE_CHECKING:
    from vidrl.audit.report import Check, Report, Row
    from vidrl.audit.search import Point

SAYS = {PASS: "pass", FAIL: "fail", OPEN: ""}  # the colour of the verdict
STYLES = ("report/templates/report.css", "audit/page.css")
LOSS, GAIN, NONE = (194, 87, 26), (11, 122, 117), (245, 245, 242)


def page(report: Report) -> str:
    """The whole page."""
    style = "".join(files("vidrl").joinpath(name).read_text(encoding="utf-8") for name in STYLES)
    sections = (_header, _heat, _search, _checks, _wins, _card, _clips)
    body = "\n".join(section(report) for section in sections)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>audit of {escape(report.reward)} · vidrl</title><style>{style}</style></head>\n"
        f"<body><main>{body}</main></body></html>\n"
    )


def colour(change: float, most: float = 20.0) -> str:
    """A change in noises as a colour: teal where the hack costs, orange where it pays, pale
    where nothing happens.

    >>> colour(0.0), colour(-100.0)
    ('#f5f5f2', '#0b7a75')
    """
    share = min(1.0, (abs(change) / most) ** 0.5) if change == change else 0.0
    end = LOSS if change > 0 else GAIN
    return "#" + "".join(
        f"{round(a + (b - a) * share):02x}" for a, b in zip(NONE, end, strict=True)
    )


def ink(change: float) -> str:
    """Black or white, whichever is readable on `colour(change)`."""
    return "#ffffff" if abs(change) > 9 else "#1b1c1e"


# --- sections
# --------------------------------------------------------------------------------------------------------


def _header(report: Report) -> str:
    say = SAYS[report.outcome]
    facts = {
        "clips": len(report.clips),
        "unscored": len(report.unscored),
        "left out": len(report.left),
        "null: noise": number(report.null.noise),
        "null: 95th percentile": number(report.null.threshold),
        "spread of the clips": number(report.null.spread),
        "seed": report.seed,
        "time": f"{report.seconds:.0f} s",
    }
    told = "".join(
        f"<div><dt>{name}</dt><dd>{escape(str(value))}</dd></div>" for name, value in facts.items()
    )
    return (
        f'<header><div class="eyebrow">vidrl audit</div><h1>{escape(report.reward)}</h1>'
        f'<p class="verdict {say}">{escape(verdict(report))}</p><dl class="facts">{told}</dl></header>'
    )


def _heat(report: Report) -> str:
    columns = f"max-content max-content repeat({len(report.strengths)}, minmax(74px, 1fr)) max-content 140px"
    head = [
        "",
        "told from",
        *(f"strength {s:g}" for s in report.strengths),
        "with strength",
        "change at most",
    ]
    cells = "".join(f'<span class="top">{word}</span>' for word in head)
    counted, apart = sides(report)
    body = "".join(_heat_row(report, hack) for hack in counted)
    rest = "".join(_heat_row(report, hack) for hack in apart)
    title = (
        '<span class="top" style="grid-column:1/-1;text-align:left;padding-top:16px">Not counted: a clip like '
        "this one might have been filmed</span>"
        if apart
        else ""
    )
    return (
        f'<section><h2>Hacks</h2><p class="note">Each cell: the mean change of the reward in units of what '
        f"a re-encoding does, and below it the share of the clips that win; framed where more than 5 % do. "
        f"Teal: the hack costs. Orange: it pays. "
        f'{escape(LEGEND)}</p><div class="heat" style="grid-template-columns:{columns}">{cells}{body}{title}{rest}'
        f"</div></section>"
    )


def _heat_row(report: Report, hack: str) -> str:
    rows = {row.strength: row for row in report.of(hack)}
    cells = "".join(_cell(report, rows.get(s)) for s in report.strengths)
    last, unit = report.of(hack)[-1], report.null.sigmas
    known = math.isfinite(last.low) and math.isfinite(last.high)
    style = "down" if last.low > 0 else "up" if last.high < 0 else ""
    plot = (
        interval(unit(last.low), unit(last.high), unit(last.mean), style=style)
        if known
        else "<span></span>"
    )
    return (
        f'<span title="{escape(HACKS[hack].why)}">{escape(hack)}</span><span class="soft">'
        f'{detectable_from(HACKS[hack])}</span>{cells}<span class="soft">'
        f"{escape(ARROWS[report.trend(hack)]) if len(rows) > 1 else ''}</span>{plot}"
    )


def _cell(report: Report, row: Row | None) -> str:
    if row is None or not row.n:
        return '<span class="cell soft">–</span>'
    change = report.null.sigmas(row.mean)
    title = (
        f"{number(row.mean, sign=True)} [{number(row.low)}, {number(row.high)}] over {row.n} clips"
        + (f"; {row.unscored} unscored: {row.why[0]}" if row.unscored else "")
    )
    kind = " won" if row.rate > 0.05 else ""
    return (
        f'<span class="cell{kind}{"" if row.detectable else " apart"}" title="{escape(title)}" '
        f'style="background:{colour(change)};color:{ink(change)}">{change_text(change)}<br>'
        f"<small>{100 * row.rate:.0f} % win</small></span>"
    )


def _search(report: Report) -> str:
    found = report.search
    if found is None:
        return ""
    pools = "".join(
        f'<div class="card"><h3>{title}</h3>{_curve(points, "reward", 1)}{_curve(points, "truth", 2)}</div>'
        for title, points in (
            ("best of N", found.points),
            ("random search over hacks", found.climb),
        )
    )
    return (
        f'<section><h2>Under optimisation</h2><p class="note">Candidates are clips under random mixtures of hacks. '
        f"Truth: what the verifier reads right, and how much of the true motion is kept.</p>"
        f'<p class="verdict {"pass" if found.passed else "fail"}">{escape(found.verdict())}</p>'
        f'<div class="grid wide">{pools}</div></section>'
    )


def _curve(points: Sequence[Point], name: str, shift: int) -> str:
    picked = [getattr(point, name) for point in points]
    x = [float(k) for k in range(len(points))]
    line = Line(
        name,
        x,
        [p[0] for p in picked],
        "after",
        [p[1] for p in picked],
        [p[2] for p in picked],
        dots=True,
    )
    labels = ", ".join(f"{point.n}" for point in points)
    return f'<p class="key">{name} at N = {labels}</p>' + str(
        chart([line], title=f"{name} against N")
    )


def _checks(report: Report) -> str:
    if not report.checks:
        return ""
    rows = "".join(
        f"<tr><td>{_mark(check)}</td><td>{escape(check.name)}</td><td>{escape(check.words)}</td></tr>"
        for check in report.checks
    )
    return f"<section><h2>What else it must keep</h2><table>{rows}</table></section>"


def _mark(check: Check) -> str:
    return "ok" if check.passed else '<span class="flag">flagged</span>'


def _wins(report: Report) -> str:
    if not report.wins:
        return ""
    rows = "".join(
        f"<tr><td>{escape(win.hack)} {win.strength:g}</td><td>{number(win.gain, sign=True)}</td>"
        f"<td>{escape(win.clip)}</td></tr>"
        for win in report.wins[:40]
    )
    more = (
        f'<p class="note">… and {len(report.wins) - 40} more</p>' if len(report.wins) > 40 else ""
    )
    head = "<tr><th>hack</th><th>gain</th><th>clip</th></tr>"
    return f"<section><h2>What pays</h2><table>{head}{rows}</table>{more}</section>"


def _card(report: Report) -> str:
    if report.card is None:
        return ""
    told = {
        "sees": "Sees",
        "blind_to": "Blind to",
        "hacks": "Known hacks",
        "input": "Input",
        "cost": "Cost",
    }
    rows = "".join(
        f"<tr><td>{title}</td><td>{escape(getattr(report.card, key))}</td></tr>"
        for key, title in told.items()
        if getattr(report.card, key)
    )
    return f"<section><h2>Its card</h2><table>{rows}</table></section>"


def _clips(report: Report) -> str:
    rows = "".join(
        f"<tr><td>{escape(clip.name)}</td><td>{number(float(value))}</td><td>{escape(why or '')}</td></tr>"
        for clip, value, why in zip(report.clips, report.clean, report.why, strict=True)
    )
    rows += "".join(
        f"<tr><td>{escape(one.name)}</td><td>–</td><td>left out: {escape(one.why)}</td></tr>"
        for one in report.left
    )
    return (
        f"<section><h2>Clips</h2><details><summary>{len(report.clips)} clips, {len(report.left)} left out</summary>"
        f"<table><tr><th>clip</th><th>value</th><th>why not</th></tr>{rows}</table></details></section>"
    )


def sides(report: Report) -> tuple[list[str], list[str]]:
    """The hacks that count, and those that cannot be told at any strength tried."""
    counted = [hack for hack in report.hacks if any(row.detectable for row in report.of(hack))]
    return counted, [hack for hack in report.hacks if hack not in counted]
