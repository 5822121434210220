"""The short table that a terminal shows: means with their intervals, and differences from the first set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vidrl.bench.page.facts import relevant
from vidrl.bench.page.rest import nearer

DAGGER, NONE = "†", "-"


def table(results: Mapping[str, Any]) -> str:
    """Lines of text: a row a dim, a column a set, then what the marks mean and the notes."""
    sets = [one["name"] for one in results["sets"]]
    head = ["", *(_head(one) for one in results["sets"]), *(f"{name} - {sets[0]}" for name in sets[1:])]
    rows = [[_name(dim), *(_cell(results, name, dim["name"]) for name in sets),
             *(_difference(results, sets[0], name, dim["name"]) for name in sets[1:])] for dim in results["dims"]]
    return "\n".join([_title(results), *_unfair(results), "", *_grid([head, *rows]), *_distances(results),
                      *_totals(results), *_marks(results, rows), *_notes(results)])


def _title(results: Mapping[str, Any]) -> str:
    suite, protocol = results["suite"], results["protocol"]
    set_to = [f"{key} {protocol[key]:g}" for key in ("fps", "side", "frames") if protocol[key]]
    how = ", ".join([*(set_to or ["files as they are"]), protocol["decoder"]])
    return f"{suite['name']} {suite['version']}, protocol {protocol['hash']} ({how}): mean [95 %], higher is better"


def _unfair(results: Mapping[str, Any]) -> list[str]:
    """What forbids a comparison of the sets as they are."""
    return [f"note: {note}" for note in results.get("fairness", [])]


def _head(one: Mapping[str, Any]) -> str:
    clips, skipped = len(one["clips"]), len(one["skipped"])
    return f"{one['name']} ({clips} clip{'s' * (clips != 1)}{f', {skipped} skipped' if skipped else ''})"


def _name(dim: Mapping[str, Any]) -> str:
    return dim["name"] + DAGGER * bool(dim["trained"])


def _cell(results: Mapping[str, Any], name: str, dim: str) -> str:
    row = results["summary"][name][dim]
    if row["mean"] is None:
        return f"{NONE} (none of {row['unscored']} scored)"
    some = f" ({row['unscored']} unscored)" if row["unscored"] else ""
    marks = " few" * (not row["enough"]) + " full" * bool(row["saturated"])
    return f"{row['mean']:.3f} {_interval(row)}{some}{marks}"


def _difference(results: Mapping[str, Any], first: str, second: str, dim: str) -> str:
    found = [row for row in results["comparisons"] if (row["first"], row["second"], row["dim"]) == (first, second, dim)]
    if not found or found[0]["difference"] is None:
        return NONE
    row = found[0]
    sure = (" *" if relevant(results, row) else " ~") * (row["p_holm"] is not None and row["p_holm"] < 0.05)
    return f"{row['difference']:+.3f} {_interval(row)} {row['wins']}/{row['ties']}/{row['losses']}{sure}"


def _interval(row: Mapping[str, Any]) -> str:
    return "[?]" if row["low"] is None or row["high"] is None else f"[{row['low']:.3f}, {row['high']:.3f}]"


def _grid(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _totals(results: Mapping[str, Any]) -> list[str]:
    """VBench's totals of each set, and which of its dimensions are missing."""
    lines = []
    for name, row in (results.get("totals") or {}).items():
        sums = ", ".join(f"{part} {'-' if value is None else f'{value:.4f}'}"
                         for part, value in row.items() if part != "missing")
        lost = f"; missing: {', '.join(row['missing'])}" if row["missing"] else ""
        lines.append(f"VBench's totals of {name}: {sums}{lost}")
    return ["", *lines] if lines else []


def _marks(results: Mapping[str, Any], rows: Sequence[Sequence[str]]) -> list[str]:
    text = "\n".join(cell for row in rows for cell in row)
    said = {DAGGER: f"{DAGGER} was a training reward", " few": f"few: below the minimum of {results['suite']['least']} "
            "clips, or of one prompt alone", " full": "full: half of the clips lie at the end of its range",
            "[?]": "[?]: too few clips for an interval", " *": "*: p < 0.05 after Holm's correction; wins/ties/losses",
            " ~": "~: p < 0.05, but less than a re-encoding that nobody sees makes: no relevant difference"}
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
        rows.append([row["name"], value, f"{free} {ends}", f"{row['first']} and {row['second']}, {row['n'][0]} and "
                     f"{row['n'][1]} clips, {row['encoder']}"])
        rows += [["", "", "", note] for note in row["notes"]]
    told = [nearer(row) for row in results["distances"] if row.get("reference")]
    return ["", *_grid(rows), *told] if len(rows) > 1 else []


def _notes(results: Mapping[str, Any]) -> list[str]:
    return [f"note: {note}" for note in results["notes"] if note not in results.get("fairness", [])]
