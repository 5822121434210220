"""Write the raters' report as Markdown, from the numbers of `vidrl.feedback.raters`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vidrl.lookup.grammar import counted

Row = Mapping[str, Any]


def page(found: Row) -> str:
    """Return the page of raters.md; the same text is printed."""
    parts = [
        "# Raters",
        f"{_kinds(found)}, from {found['source']}. An answer has a judgment for each answered "
        f"question. {'Choices' if found['votes'] else 'Judgments'} by rater: "
        f"{_raters(found['raters'])}.",
        *(f"- {note}" for note in found["notes"]),
        "## Agreement",
        "1 is full agreement, 0 that of chance. Intervals are over prompts.",
        _table(
            ("aspect", "of", "units", "alpha", "ordinal", "Cohen", "Fleiss"),
            [_agreement(row) for row in found["agreement"]],
        ),
        "## Sides",
        "The share of decided choices of the clip "
        + (
            "on the left."
            if found["sides_known"]
            else "that the file names first; the file does not say which clip was on the left."
        ),
        _shares("rater", found["sides"]),
        "## Consistency",
        "Pairs that a rater answered twice: the share of equal choices.",
        _shares("rater", found["repeats"]),
        "Pairs whose answer is known: the share of right choices.",
        _shares("rater", found["gold"]),
        "## Wins",
        "The share of pairs, drawn at random, in which the first folder's clip is better; a tie "
        "counts half. `more prompts`: so many more would show the difference in four of five "
        "studies.",
        _table(
            ("aspect", "first", "second", "wins", "n", "p", "more prompts"),
            [
                (row["aspect"], row["first"], row["second"], _interval(row), row["n"])
                + (_cell(row["p"]), _more(row))
                for row in found["wins"]
            ],
        ),
        "## Pace and drift",
        "Median seconds an answer; `quick` counts answers below one second. Ties and left are "
        "shares of the pairs in a rater's first and second half.",
        _table(
            ("rater", "answers", "seconds", "quick", "first half → second half"),
            [
                (
                    row["rater"],
                    row["answers"],
                    _cell(row["seconds"]),
                    _cell(row["quick"]),
                    _drift(row),
                )
                for row in found["pace"]
            ],
        ),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _kinds(found: Row) -> str:
    """Return how many judgments of each kind there are."""
    choices = f"{counted(found['votes'], 'choices')} between two clips"
    choices += f", {found['ties']} of them ties" if found["votes"] else ""
    names = {"points": "judgments in points", "rankings": "rankings"}
    others = [counted(found[kind], name) for kind, name in names.items() if found[kind]]
    return ", ".join([choices] * bool(found["votes"] or not others) + others)


def _agreement(row: Row) -> tuple[Any, ...]:
    main = row.get("alpha_nominal") or row["alpha_interval"]
    kappas = [_value(row[name]) if name in row else "" for name in ("cohen", "fleiss")]
    return (
        row["aspect"],
        row["kind"],
        main["units"],
        _interval(main),
        _interval(row["alpha_ordinal"]),
    ) + (*kappas,)


def _shares(name: str, rows: Sequence[Row]) -> str:
    """Return a table of shares; "none" where nothing was counted."""
    shown = [(row["rater"] or "all", _interval(row), row["n"], _cell(row["p"])) for row in rows]
    return _table((name, "share", "n", "p of 1/2"), [row for row in shown if row[2]])


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table of Markdown, or "none"."""
    if not rows:
        return "none"
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_plain(cell) for cell in line) + " |" for line in lines)


def _plain(cell: Any) -> str:
    """Return a cell that cannot end its column, nor begin HTML."""
    return str(cell).replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def _interval(row: Row) -> str:
    """Return a value with its interval, or why there is none."""
    if row["value"] is None:
        return f"not known: {row['why']}"
    if row["low"] is None:
        return f"{row['value']:.2f} ({row['why']})"
    return f"{row['value']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"


def _value(row: Row) -> str:
    return f"not known: {row['why']}" if row["value"] is None else f"{row['value']:.2f}"


def _more(row: Row) -> str:
    more = row["more_prompts"]
    return f"not known: {row['why_no_number']}" if more is None else str(more)


def _drift(row: Row) -> str:
    """Return what changed between a rater's halves."""
    if not row["halves"]:
        return f"not known: {row['why']}"
    first, second = row["halves"]
    known = [key for key in first if (first[key], second[key]) != (None, None)]
    return ", ".join(f"{key} {_cell(first[key])} → {_cell(second[key])}" for key in known)


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _raters(raters: Mapping[str, int]) -> str:
    named = [f"{_plain(name) or '(no name)'} {count}" for name, count in raters.items()]
    return ", ".join(named) or "none"
