"""The short table that a terminal shows: means with their intervals, differences, and which
sets are told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vidrl.bench.caveats import caveats, detectable_differences
from vidrl.bench.page.rest import nearer
from vidrl.bench.verdicts import group_letters, margin_verdict, significant_side, verdict

DAGGER, NONE = "†", "-"
MARGIN_MARKS = {"equivalent": " =", "not worse": " >=", "not better": " <="}
MAX_SETS_COMPARED = 3  # sets whose differences stand beside them


def table(results: Mapping[str, Any]) -> str:
    """Lines of text: a row a dim, a column a set, then what the marks mean and the notes.

    Of two or three sets the differences stand beside them; of more, letters say which sets
    are told apart.
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
            *(f"note: {said}" for said in caveats(results)),
            *(f"note: {said}" for said in (detectable_differences(results) if pairs else ())),
            *_notes(results),
        ]
    )


def _title(results: Mapping[str, Any]) -> str:
    suite, protocol = results["suite"], results["protocol"]
    set_to = [f"{key} {protocol[key]:g}" for key in ("fps", "side", "frames") if protocol[key]]
    how = ", ".join([*(set_to or ["files as they are"]), protocol["decoder"]])
    return (
        f"{suite['name']} {suite['version']}, protocol {protocol['hash']} ({how}): mean [95 "
        "%], higher is better"
    )


def _unfair(results: Mapping[str, Any]) -> list[str]:
    """What forbids a comparison of the sets as they are."""
    return [f"note: {note}" for note in results.get("fairness", [])]


def _head(one: Mapping[str, Any]) -> str:
    clips, skipped = len(one["clips"]), len(one["skipped"])
    return (
        f"{one['name']} ({clips} "
        f"clip{'s' * (clips != 1)}{f', {skipped} skipped' if skipped else ''})"
    )


def _name(dim: Mapping[str, Any]) -> str:
    return dim["name"] + DAGGER * bool(dim["trained"])


def _cells(results: Mapping[str, Any], sets: Sequence[str], dim: str) -> list[str]:
    """The set's numbers, of three sets or more with the letters of those it is not told
    apart from."""
    told_apart = group_letters(results, dim) if len(sets) > 2 else {}
    marks = {name: f" {{{letter}}}" for name, letter in told_apart.items()}
    return [_cell(results, name, dim) + marks.get(name, "") for name in sets]


def _cell(results: Mapping[str, Any], name: str, dim: str) -> str:
    row = results["summary"][name][dim]
    if row["mean"] is None:
        return f"{NONE} (none of {row['unscored']} scored)"
    some = f" ({row['unscored']} unscored)" if row["unscored"] else ""
    marks = " few" * (not row["enough"]) + " full" * bool(row["saturated"])
    return f"{row['mean']:.3f} {_interval(row)}{some}{marks}"


def _difference(results: Mapping[str, Any], first: str, second: str, dim: str) -> str:
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
    """VBench's totals of each set, and which of its dimensions are missing."""
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
    text = "\n".join(cell for row in rows for cell in row)
    said = {
        DAGGER: f"{DAGGER} was a training reward",
        " few": f"few: below the minimum of {results['suite']['least']} "
        "clips, or of one prompt alone",
        " full": "full: half of the clips lie at the end of its range",
        "[?]": "[?]: too few clips for an interval",
        " *": "*: beyond doubt: p < 0.05 after Holm's correction, also where clips without a number count as the "
        "worst; wins/ties/losses count prompts",
        " ~": "~: p < 0.05, but less than a re-encoding that nobody sees makes: no relevant difference",
        " =": "=: equivalent: the difference is within its margin",
        " >=": ">=: not worse by more than its margin",
        " <=": "<=: not better by more than its margin",
        "{": "{a}, {ab} and so on: sets with a letter in common are not told apart; a is the best",
    }
    return ["", *(words for mark, words in said.items() if mark in text)]


def _distances(results: Mapping[str, Any]) -> list[str]:
    """Between sets as a whole: lower is nearer."""
    rows = [["distance", "published", "unbiased [95 %]", "of"]]
    for row in results["distances"]:
        if row.get("reference"):
            continue
        free = "-" if row["unbiased"] is None else f"{row['unbiased']:.4g}"
        ends = "[?]" if row["low"] is None else f"[{row['low']:.4g}, {row['high']:.4g}]"
        value = "-" if row["value"] is None else f"{row['value']:.4g}"
        rows.append(
            [
                row["name"],
                value,
                f"{free} {ends}",
                f"{row['first']} and {row['second']}, {row['n'][0]} and "
                f"{row['n'][1]} clips, {row['encoder']}",
            ]
        )
        rows += [["", "", "", note] for note in row["notes"]]
    told = [nearer(row) for row in results["distances"] if row.get("reference")]
    return ["", *_grid(rows), *told] if len(rows) > 1 else []


def _notes(results: Mapping[str, Any]) -> list[str]:
    return [f"note: {note}" for note in results["notes"] if note not in results.get("fairness", [])]
