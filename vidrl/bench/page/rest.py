"""The rest of the page: what was left out, distances, totals, tables to paste, and the method."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from vidrl.bench.page.facts import (
    Results,
    Row,
    breaking,
    dim_name,
    is_inapplicable,
    listed,
    short,
)
from vidrl.lookup.grammar import counted
from vidrl.report.charts import number

MOST = 200  # rows of a list
UNFOLDED = 20  # rows up to which a list is open
DISTANCES = (
    "distance",
    "between",
    "published",
    "unbiased",
    "its 95 % interval",
    "clips",
    "protocol",
    "",
)
DIMS = (
    "dimension",
    "sees",
    "is blind to",
    "reward and options",
    "profile",
    "version",
    "hash",
)


def left_out(results: Results) -> list[dict[str, Any]]:
    """Return the clips that were skipped and the values that are missing, with their reasons."""
    sets = results["sets"]
    skipped = [
        (one["name"], row["path"], row["why"]) for one in sets for row in one.get("skipped", [])
    ]
    unscored, meaningless = (
        [row for one in sets for row in _missing(one, inapplicable)]
        for inapplicable in (False, True)
    )
    head = ("set", "dimension", "clips", "why")
    lists = [
        _list(
            f"{counted(len(skipped), 'clips')} could not be read", ("set", "file", "why"), skipped
        ),
        _list("Values that could not be scored", head, unscored),
        _list("Values that have no meaning for their clips", head, meaningless),
    ]
    return [one for one in lists if one["rows"]]


def _missing(one: Row, inapplicable: bool) -> list[tuple[str, str, str, str]]:
    """Return why values of a set are missing, with the clips of each reason.

    `inapplicable`: values that have no meaning for their clip; otherwise all other values.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for clip in one["clips"]:
        for dim, value in clip["value"].items():
            if value is None and is_inapplicable(clip, dim) == inapplicable:
                why = (clip.get("why") or {}).get(dim) or "no reason given"
                found.setdefault((dim, why), []).append(clip["path"])
    return [
        (one["name"], dim, _counted(paths, len(one["clips"])), why)
        for (dim, why), paths in found.items()
    ]


def _counted(paths: Sequence[str], total: int) -> str:
    """Return how many clips of a set these are, and the names of the first three."""
    if len(paths) == total:
        return f"all {total}"
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return f"{len(paths)} of {total}: {', '.join(paths[:3])}{more}"


def _list(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> dict[str, Any]:
    return {
        "title": title,
        "head": head,
        "rows": [[short(cell) for cell in row] for row in rows[:MOST]],
        "more": max(0, len(rows) - MOST),
        "open": len(rows) <= UNFOLDED,
    }


def distances(results: Results) -> dict[str, Any] | None:
    """Return the distances between sets, and which set is nearer to a reference; or None."""
    rows = results.get("distances") or []
    between = [row for row in rows if not row.get("reference")]
    if not between:
        return None
    return {
        "head": DISTANCES,
        "rows": [_distance(row) for row in between],
        "nearer": [nearer(row) for row in rows if row.get("reference")],
    }


def _distance(row: Row) -> list[Any]:
    """Return the row of a distance, in the order of DISTANCES."""
    return [
        row["name"],
        f"{row['first']} and {row['second']}",
        number(row.get("value")),
        number(row.get("unbiased")),
        f"{number(row.get('low'))} to {number(row.get('high'))}",
        " and ".join(map(str, row.get("n") or [])),
        row.get("protocol") or "",
        "; ".join(map(str, row.get("notes") or [])),
    ]


def nearer(row: Row) -> str:
    """Return one line on which of two sets is nearer to a reference, for page and terminal."""
    pair = f"{row['name']} to {row['reference']}, {row['first']} less {row['second']}"
    if row.get("low") is None:
        return f"{pair}: not known: {'; '.join(map(str, row.get('notes') or []))}"
    # a positive difference means that the first set is further away
    side = "second" if row["low"] > 0 else "first" if row["high"] < 0 else ""
    verdict = f"{row[side]} is nearer" if side else "no difference beyond doubt"
    return f"{pair}: {row['difference']:.4g} [{row['low']:.4g}, {row['high']:.4g}], {verdict}"


def totals(results: Results) -> dict[str, Any] | None:
    """Return VBench's totals, or None where there are none."""
    found: Mapping[str, Row] = {
        name: row for name, row in (results.get("totals") or {}).items() if row
    }
    if not found:
        return None
    names = [name for name in next(iter(found.values())) if name != "missing"]
    return {
        "head": ["set", *names, "dimensions that are missing"],
        "rows": [
            [name, *(number(row.get(one)) for one in names), _missing_dims(row)]
            for name, row in found.items()
        ],
    }


def _missing_dims(row: Row) -> str:
    return ", ".join(row.get("missing") or []) or "none"


def paste(results: Results) -> list[dict[str, str]]:
    """Return the tables for papers, each of which has a button that copies it."""
    from vidrl.bench.export import latex, markdown

    return [
        {"name": "Markdown", "text": markdown(results)},
        {"name": "LaTeX", "text": latex(results)},
    ]


def method(results: Results) -> dict[str, Any]:
    """Return protocol, dimensions, versions, command and notes: all that a repetition needs."""
    protocol, suite = results["protocol"], results["suite"]
    versions = [f"{name} {version}" for name, version in results.get("versions", {}).items()]
    facts = {
        "command": results.get("command", ""),
        "suite": f"{suite['name']} {suite['version']}: {suite.get('about', '')}",
        "protocol": _protocol(protocol),
        "protocol hash": protocol["hash"],
        "versions": ", ".join(versions),
        "sets": listed([_source(one) for one in results["sets"]]),
        "made": results.get("made", ""),
    }
    return {
        "facts": [(name, value) for name, value in facts.items() if value],
        "notes": [short(str(note)) for note in _notes(results)[:MOST]],
        "count": counted(len(results["dims"]), "dimensions"),
        "head": DIMS,
        "dims": [_dim(dim) for dim in results["dims"]],
    }


def _notes(results: Results) -> list[str]:
    """Return the notes without those on fairness, which are under the title."""
    unfair = results.get("fairness") or []
    return [note for note in results.get("notes") or [] if note not in unfair]


def _protocol(protocol: Row) -> str:
    """Return a protocol in words.

    >>> _protocol({"fps": 0, "side": 0, "frames": 0, "decoder": "decord 0.6.0"})
    'frames as they come, at their own size, all of them, read by decord 0.6.0'
    """
    fps, side, frames = (protocol.get(name) for name in ("fps", "side", "frames"))
    return ", ".join(
        [
            f"near {fps:g} frames a second, frames left out evenly"
            if fps
            else "frames as they come",
            f"shorter side shrunk to {side}" if side else "at their own size",
            f"the first {frames} of them" if frames else "all of them",
            f"read by {protocol.get('decoder', 'an unknown decoder')}",
        ]
    )


def _source(one: Row) -> str:
    model = f" (sampled from {one['model']})" if one.get("model") else ""
    return f"{one['name']} = {one.get('source', '')}{model}"


def _dim(dim: Row) -> list[Any]:
    """Return the card of a dimension, in the order of DIMS."""
    options = f" {json.dumps(dim['options'], ensure_ascii=False)}" if dim.get("options") else ""
    return [
        dim_name(dim),
        *(dim.get(key) or "–" for key in ("about", "blind")),
        breaking(f"{dim.get('reward', '')}{options}"),
        *(dim.get(key) or "–" for key in ("profile", "version", "hash")),
    ]
