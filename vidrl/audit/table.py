"""Writes the audit as text for a terminal, one line a hack."""

from __future__ import annotations

from vidrl.audit.figures import change_text, counts_from
from vidrl.audit.hacks import HACKS
from vidrl.audit.results import Check, Results, Row
from vidrl.audit.verdict import OPEN

ARROWS = {"falls": "↘ falls", "rises": "↗ rises", "mixed": "~ mixed", "flat": "= flat"}
LEGEND = """\
Wins: the percentage of the clips that gain more than 95 % of mild re-encodings do; in brackets
where the hack cannot be detected in the clip alone. Change: the mean at the greatest strength, with
its 95 % interval over sources (none where the sources are too few), in units of the change by
re-encoding (its root mean square)."""


def table(report: Results) -> str:
    """Return the whole text."""
    not_counted = [
        hack for hack in report.hacks if not any(row.detectable for row in report.of(hack))
    ]
    counted = [hack for hack in report.hacks if hack not in not_counted]
    lines = [verdict(report), "", _head(report), *(_line(report, hack) for hack in counted)]
    lines += (
        [
            "",
            "not counted: a clip like this might have been filmed",
            *(_line(report, h) for h in not_counted),
        ]
        if not_counted
        else []
    )
    lines += ["", *(_check(check) for check in report.checks)] if report.checks else []
    lines += ["", report.search.text()] if report.search else []
    lines += ["", *_missing(report)] if report.unscored or report.left else []
    return "\n".join([*lines, "", LEGEND])


def verdict(report: Results) -> str:
    """Return the outcome in one line."""
    if not report.pairs:
        return f"{report.reward}: FAIL, no clip was scored before and after a detectable hack"
    if not report.sees:
        return f"{report.reward}: FAIL, all {len(report.clips)} clips have the same value"
    share = report.share
    sides = "".join(f"; {side}: {found.words()}" for side, found in report.sources.items())
    found = share.words(" pairs of clip and detectable hack win")
    return (
        f"{report.reward}: {report.outcome}, {found}, allowed {100 * report.max_wins:g} %"
        f"{_why(report)}{sides}; "
        f"{len(report.clips)} clips of {share.sources} sources, {report.seconds:.0f} s"
    )


def _why(report: Results) -> str:
    """Explain an outcome that the interval alone does not: a failed search, or too few sources."""
    if report.search is not None and not report.search.passed:
        return ", and best-of-N loses the truth"
    if report.outcome != OPEN:
        return ""
    enough = report.needed
    if enough is None:
        return ": neither is shown, and more sources would not help unless fewer of their pairs win"
    return (
        f": neither is shown; about {enough} sources (scenes, videos) would show that it passes, "
        "if no larger share of their pairs wins"
    )


def _head(report: Results) -> str:
    wins = "".join(f"{f'{s:g}':>7}" for s in report.strengths)
    return f"{'':12} {'counts from':>11}{wins}   {'change at most':<22}   with strength"


def _line(report: Results, hack: str) -> str:
    rows = {row.strength: row for row in report.of(hack)}
    cells = "".join(f"{_cell(rows.get(s)):>7}" for s in report.strengths)
    last, unit = report.of(hack)[-1], report.null.sigmas
    mean, low, high = (change_text(unit(value)) for value in (last.mean, last.low, last.high))
    change = f"{mean:>6} [{low}, {high}]"
    lost = sum(row.unscored for row in rows.values())
    note = (
        f"   {lost} unscored: {last.why[0] if last.why else 'at a lower strength'}" if lost else ""
    )
    trend = ARROWS[report.trend(hack)] if len(rows) > 1 else ""
    return (
        f"{hack:12} {counts_from(HACKS[hack]):>11}{cells}   {change:<22}   {trend}{note}".rstrip()
    )


def _cell(row: Row | None) -> str:
    if row is None or not row.n:
        return "–"
    share = f"{100 * row.rate:.0f} %"
    return share if row.detectable else f"({share})"


def _check(check: Check) -> str:
    return f"{'ok  ' if check.passed else 'FLAG'} {check.name:14} {check.words}"


def _missing(report: Results) -> list[str]:
    unscored = [f"  {name}: {why}" for name, why in report.unscored]
    left = [f"  {one.name}: {one.why}" for one in report.left]
    return [
        *([f"not scored, {len(unscored)} of {len(report.clips)} clips:"] if unscored else []),
        *unscored,
        *([f"left out, {len(left)}:"] if left else []),
        *left,
    ]
