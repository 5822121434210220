"""Format the table for the terminal: means, differences, and which sets differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vidrl.bench.caveats import caveats, detectable_differences
from vidrl.bench.page.rest import nearer
from vidrl.bench.verdicts import group_letters, margin_verdict, significant_side, verdict

DAGGER, NONE = "†", "-"
MARGIN_MARKS = {"equivalent": " =", "not worse": " >=", "not better": " <="}
MAX_SETS_COMPARED = 3  # more sets get letters instead of columns of differences


def table(results: Mapping[str, Any]) -> str:
    """Return lines of text: a row for each dim, a column for each set, legend and notes.

    Two or three sets also get columns of differences; more sets get letters that say which
    sets differ beyond doubt.
    """
    sets = [one["name"] for one in results["sets"]]
    pairs = (
        [(a, b) for i, a in enumerate(sets) for b in sets[i + 1 :]]
        if len(sets) <= MAX_SETS_COMPARED
        else []
    )
    head = [
        "",
        *(_head(one) for one in results["sets"]),
        *(f"{second} - {first}" for first, second in pairs),
    ]
    rows = [
        [
            _name(dim),
            *_cells(results, sets, dim["name"]),
            *(_difference(results, *pair, dim["name"]) for pair in pairs),
        ]
        for dim in results["dims"]
    ]
    return "\n".join(
        [
            _title(results),
            *_unfair(results),
            "",
            *_grid([head, *rows]),
            *_distances(results),
            *_totals(results),
            *_marks(results, rows),
            *(f"note: {note}" for note in caveats(results)),
            *(f"note: {note}" for note in (detectable_differences(results) if pairs else ())),
            *_notes(results),
        ]
    )


def _title(results: Mapping[str, Any]) -> str:
    """Return the line that names suite and protocol."""
    suite, protocol = results["suite"], results["protocol"]
    settings = [f"{key} {protocol[key]:g}" for key in ("fps", "side", "frames") if protocol[key]]
    protocol_text = ", ".join([*(settings or ["files as they are"]), protocol["decoder"]])
    return (
        f"{suite['name']} {suite['version']}, protocol {protocol['hash']} ({protocol_text}): "
        "mean [95 %], higher is better"
    )


def _unfair(results: Mapping[str, Any]) -> list[str]:
    """Return notes on what makes a comparison of the sets unfair."""
    return [f"note: {note}" for note in results.get("fairness", [])]


def _head(one: Mapping[str, Any]) -> str:
    """Return the head of a set's column."""
    clips, skipped = len(one["clips"]), len(one["skipped"])
    return (
        f"{one['name']} ({clips} "
        f"clip{'s' * (clips != 1)}{f', {skipped} skipped' if skipped else ''})"
    )


def _name(dim: Mapping[str, Any]) -> str:
    return dim["name"] + DAGGER * bool(dim["trained"])


def _cells(results: Mapping[str, Any], sets: Sequence[str], dim: str) -> list[str]:
    """Return a set's numbers; three or more sets also get their letters."""
    letter_of = group_letters(results, dim) if len(sets) > 2 else {}
    marks = {name: f" {{{letter}}}" for name, letter in letter_of.items()}
    return [_cell(results, name, dim) + marks.get(name, "") for name in sets]


def _cell(results: Mapping[str, Any], name: str, dim: str) -> str:
    """Return mean and interval of a set, with marks for few clips and saturated dims."""
    row = results["summary"][name][dim]
    if row["mean"] is None:
        return f"{NONE} (none of {row['unscored']} scored)"
    unscored = f" ({row['unscored']} unscored)" if row["unscored"] else ""
    marks = " few" * (not row["enough"]) + " full" * bool(row["saturated"])
    return f"{row['mean']:.3f} {_interval(row)}{unscored}{marks}"


def _difference(results: Mapping[str, Any], first: str, second: str, dim: str) -> str:
    """Return the difference of two sets with interval, wins and mark."""
    found = [
        row
        for row in results["comparisons"]
        if (row["first"], row["second"], row["dim"]) == (first, second, dim)
    ]
    if not found or found[0]["difference"] is None:
        return NONE
    row = found[0]
    mark = (
        " *"
        if verdict(results, row)
        else " ~"
        if significant_side(results, row)
        else MARGIN_MARKS.get(margin_verdict(results, row), "")
    )
    wins = "" if row["wins"] is None else f" {row['wins']}/{row['ties']}/{row['losses']}"
    return f"{row['difference']:+.3f} {_interval(row)}{wins}{mark}"


def _interval(row: Mapping[str, Any]) -> str:
    return (
        "[?]"
        if row["low"] is None or row["high"] is None
        else f"[{row['low']:.3f}, {row['high']:.3f}]"
    )


def _grid(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _totals(results: Mapping[str, Any]) -> list[str]:
    """Return VBench's totals of each set, and the missing dims."""
    lines = []
    for name, row in (results.get("totals") or {}).items():
        sums = ", ".join(
            f"{part} {'-' if value is None else f'{value:.4f}'}"
            for part, value in row.items()
            if part != "missing"
        )
        lost = f"; missing: {', '.join(row['missing'])}" if row["missing"] else ""
        lines.append(f"VBench's totals of {name}: {sums}{lost}")
    return ["", *lines] if lines else []


def _marks(results: Mapping[str, Any], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the legend of those marks that occur in the table."""
    text = "\n".join(cell for row in rows for cell in row)
    legend = {
        DAGGER: f"{DAGGER} was a training reward",
        " few": f"few: below the minimum of {results['suite']['least']} "
        "clips, or of one prompt alone",
        " full": "full: half of the clips lie at the end of its range",
        "[?]": "[?]: too few clips for an interval",
        " *": "*: beyond doubt: p < 0.05 after Holm's correction, also where clips without a "
        "number count as the worst; wins/ties/losses count prompts",
        " ~": "~: p < 0.05, but smaller than the change by a re-encoding that nobody sees: "
        "no relevant difference",
        " =": "=: equivalent: the difference is within its margin",
        " >=": ">=: not worse by more than its margin",
        " <=": "<=: not better by more than its margin",
        "{": "{a}, {ab} and so on: sets that share a letter are not distinguished; a is the best",
    }
    return ["", *(words for mark, words in legend.items() if mark in text)]


def _distances(results: Mapping[str, Any]) -> list[str]:
    """Return the distances between the sets as wholes; lower is nearer."""
    rows = [["distance", "published", "unbiased [95 %]", "of"]]
    for row in results["distances"]:
        if row.get("reference"):
            continue
        unbiased = "-" if row["unbiased"] is None else f"{row['unbiased']:.4g}"
        ends = "[?]" if row["low"] is None else f"[{row['low']:.4g}, {row['high']:.4g}]"
        value = "-" if row["value"] is None else f"{row['value']:.4g}"
        rows.append(
            [
                row["name"],
                value,
                f"{unbiased} {ends}",
                f"{row['first']} and {row['second']}, {row['n'][0]} and "
                f"{row['n'][1]} clips, {row['encoder']}",
            ]
        )
        rows += [["", "", "", note] for note in row["notes"]]
    nearness = [nearer(row) for row in results["distances"] if row.get("reference")]
    return ["", *_grid(rows), *nearness] if len(rows) > 1 else []


def _notes(results: Mapping[str, Any]) -> list[str]:
    """Return the notes of the results that were not printed above."""
    return [f"note: {note}" for note in results["notes"] if note not in results.get("fairness", [])]
