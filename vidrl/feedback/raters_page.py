"""Write the raters' report as Markdown and as HTML, from the numbers of `vidrl.feedback.raters`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from vidrl.lookup.grammar import counted
from vidrl.report.render import inlined, macro, render

Row = Mapping[str, Any]


class Interval(NamedTuple):
    """A cell with a value and its interval: the words, and the places from −1 to 1 for a bar."""

    words: str
    low: float
    value: float
    high: float


Cell = str | Interval


@dataclass(frozen=True)
class Table:
    """A table is its columns and its rows."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Section:
    """A section has a title, and paragraphs and tables below it."""

    title: str
    parts: Sequence[str | Table]


def page(found: Row) -> str:
    """Return the page of raters.md; the same text is printed."""
    parts = ["# Raters", _plain(opening(found)), *(f"- {_plain(note)}" for note in found["notes"])]
    for section in sections(found):
        parts.append(f"## {section.title}")
        parts += [part if isinstance(part, str) else _markdown(part) for part in section.parts]
    return "\n\n".join(parts) + "\n"


def html(found: Row) -> str:
    """Return the report as one HTML page, which loads nothing; texts of others are escaped."""
    return render(
        "feedback/raters.html",
        style=inlined("report/templates/report.css"),
        opening=opening(found),
        notes=found["notes"],
        sections=sections(found),
        is_table=lambda part: isinstance(part, Table),
        bar=_bar,
    )


def opening(found: Row) -> str:
    """Return how many judgments there are, from where, and by whom."""
    kinds = "Choices" if found["votes"] else "Judgments"
    named = [f"{name or '(no name)'} {count}" for name, count in found["raters"].items()]
    return (
        f"{_kinds(found)}, from {found['source']}. An answer has a judgment for each answered "
        f"question. {kinds} by rater: {', '.join(named) or 'none'}."
    )


def sections(found: Row) -> list[Section]:
    """Return the sections of the report."""
    shown = (
        "on the left."
        if found["sides_known"]
        else "that the file names first; the file does not say which clip was on the left."
    )
    return [
        Section(
            "Agreement",
            [
                "1 is full agreement, 0 that of chance. Intervals are over prompts.",
                Table(
                    ("aspect", "of", "units", "alpha", "ordinal", "Cohen", "Fleiss"),
                    [_agreement(row) for row in found["agreement"]],
                ),
            ],
        ),
        Section(
            "Sides",
            [f"The share of decided choices of the clip {shown}", _shares(found["sides"])],
        ),
        Section(
            "Consistency",
            [
                "Pairs that a rater answered twice: the share of equal choices.",
                _shares(found["repeats"]),
                "Pairs whose answer is known: the share of right choices.",
                _shares(found["gold"]),
            ],
        ),
        _wins(found["wins"]),
        _pace(found["pace"]),
    ]


def _wins(rows: Sequence[Row]) -> Section:
    return Section(
        "Wins",
        [
            "The share of pairs, drawn at random, in which the first folder's clip is better; a "
            "tie counts half. The last column says how many more prompts would show the difference "
            "in four of five studies.",
            Table(
                ("aspect", "first", "second", "wins", "n", "p", "more prompts"),
                [
                    (row["aspect"], row["first"], row["second"], _share(row))
                    + (str(row["n"]), _number(row["p"]), _more(row))
                    for row in rows
                ],
            ),
        ],
    )


def _pace(rows: Sequence[Row]) -> Section:
    return Section(
        "Pace and drift",
        [
            "Median seconds an answer, and how many answers came in less than one second (quick). "
            "Ties and left are shares of the pairs in a rater's first and second half.",
            Table(
                ("rater", "answers", "seconds", "quick", "first half → second half"),
                [
                    (row["rater"], str(row["answers"]), _number(row["seconds"]))
                    + (_number(row["quick"]), _drift(row))
                    for row in rows
                ],
            ),
        ],
    )


def _kinds(found: Row) -> str:
    """Return how many judgments of each kind there are."""
    choices = f"{counted(found['votes'], 'choices')} between two clips"
    choices += f", {found['ties']} of them ties" if found["votes"] else ""
    names = {"points": "judgments in points", "rankings": "rankings"}
    others = [counted(found[kind], name) for kind, name in names.items() if found[kind]]
    return ", ".join([choices] * bool(found["votes"] or not others) + others)


def _agreement(row: Row) -> tuple[Cell, ...]:
    main = row.get("alpha_nominal") or row["alpha_interval"]
    kappas = [_value(row[name]) if name in row else "" for name in ("cohen", "fleiss")]
    alphas = (_interval(main), _interval(row["alpha_ordinal"]))
    return (row["aspect"], row["kind"], str(main["units"]), *alphas, *kappas)


def _shares(rows: Sequence[Row]) -> Table:
    """Return the table of the shares of raters, without those of whom nothing was counted."""
    shown = [
        (row["rater"] or "all", _share(row), str(row["n"]), _number(row["p"]))
        for row in rows
        if row["n"]
    ]
    return Table(("rater", "share", "n", "p of 1/2"), shown)


def _share(row: Row) -> Cell:
    """Return a share with its interval; its bar has a half in the middle."""
    return _interval(row, middle=0.5, reach=0.5)


def _interval(row: Row, middle: float = 0.0, reach: float = 1.0) -> Cell:
    """Return a value with its interval, or why there is none."""
    if row["value"] is None:
        return f"not known: {row['why']}"
    if row["low"] is None:
        return f"{_two(row['value'])} ({row['why']})"
    places = ((row[end] - middle) / reach for end in ("low", "value", "high"))
    words = {end: _two(row[end]) for end in ("low", "value", "high")}
    return Interval("{value} [{low}, {high}]".format(**words), *places)


def _value(row: Row) -> str:
    return f"not known: {row['why']}" if row["value"] is None else _two(row["value"])


def _two(value: float) -> str:
    """Return a number with two decimals, and no sign before a zero."""
    return f"{round(value, 2) + 0.0:.2f}"


def _more(row: Row) -> str:
    more = row["more_prompts"]
    return f"not known: {row['why_no_number']}" if more is None else str(more)


def _drift(row: Row) -> str:
    """Return what changed between a rater's halves."""
    if not row["halves"]:
        return f"not known: {row['why']}"
    first, second = row["halves"]
    known = [key for key in first if (first[key], second[key]) != (None, None)]
    return ", ".join(f"{key} {_number(first[key])} → {_number(second[key])}" for key in known)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


# --- Markdown


def _markdown(table: Table) -> str:
    """Return a table of Markdown, or "none"."""
    if not table.rows:
        return "none"
    lines = [table.header, ["---"] * len(table.header), *table.rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(cell: Cell) -> str:
    """Return a cell that cannot end its column."""
    words = cell.words if isinstance(cell, Interval) else cell
    return _plain(words).replace("|", "\\|")


def _plain(text: str) -> str:
    """Return a text that cannot begin HTML, nor a line of its own."""
    return text.replace("<", "&lt;").replace("\n", " ")


# --- HTML


def _bar(cell: Cell) -> Any:
    """Draw the interval of a cell on an axis from −1 to 1; nothing for a cell without one."""
    if not isinstance(cell, Interval):
        return ""

    def place(value: float) -> float:
        return 50 + 48 * max(-1.0, min(1.0, value))

    ends = (place(cell.low), place(cell.high))
    sure = "up" if cell.low > 0 else "down" if cell.high < 0 else ""
    return macro(
        "report/charts.html", "interval", style=sure, zone=None, bar=ends, dot=place(cell.value)
    )
