"""The rest of the page: what was left out and why, distances, totals, tables to paste, and
how it was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from vidrl.bench.page.facts import (
    Results,
    Row,
    breaking,
    dim_name,
    is_inapplicable,
    listed,
    plural,
    short,
)
from vidrl.report.charts import number

MOST = 200  # rows of a list


def left_out(results: Results) -> str:
    """Clips that were skipped and values that are not there, each with its reason."""
    sets = results["sets"]
    skipped = [
        (one["name"], row["path"], row["why"]) for one in sets for row in one.get("skipped", [])
    ]
    unscored, outside = (
        [row for one in sets for row in _unscored(one, kind)] for kind in (False, True)
    )
    if not (skipped or unscored or outside):
        words = "Nothing: every clip was read, and every dimension has a value of every clip."
        return f'<section id="left-out"><h2>Left out</h2><p class="note">{words}</p></section>'
    tables = _list("could not be read", ("set", "file", "why"), skipped, "clip")
    head = ("set", "dimension", "clips", "why")
    tables += _list("could not be scored", head, unscored, "reason", open_all=True)
    tables += _list("have no meaning for their clips", head, outside, "reason", open_all=True)
    return f'<section id="left-out"><h2>Left out</h2>{tables}</section>'


def _unscored(one: Row, outside: bool) -> list[tuple[str, str, str, str]]:
    """The reasons of a set, with the clips of each: those of values without a meaning, or
    of all other values."""
    found: dict[tuple[str, str], list[str]] = {}
    for clip in one["clips"]:
        for dim, value in clip["value"].items():
            if value is None and is_inapplicable(clip, dim) == outside:
                found.setdefault(
                    (dim, (clip.get("why") or {}).get(dim) or "no reason given"), []
                ).append(clip["path"])
    return [
        (one["name"], dim, _few(paths, len(one["clips"])), why)
        for (dim, why), paths in found.items()
    ]


def _few(paths: Sequence[str], total: int) -> str:
    if len(paths) == total:
        return f"all {total}"
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return f"{len(paths)} of {total}: {', '.join(paths[:3])}{more}"


def _cell(text: str) -> str:
    """A cell whose file names may break after a slash, and not within a word."""
    return escape(short(text)).replace("/", "/<wbr>").replace("_", "_<wbr>")


def _list(
    title: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    word: str,
    open_all: bool = False,
) -> str:
    if not rows:
        return ""
    body = "".join(
        "<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>" for row in rows[:MOST]
    )
    more = (
        f'<p class="note">… and {len(rows) - MOST} more in results.json</p>'
        if len(rows) > MOST
        else ""
    )
    names = "".join(f'<th scope="col">{name}</th>' for name in head)
    count = f"{plural(len(rows), word)} {title}" if not open_all else f"Values that {title}"
    return (
        f'<details{" open" if len(rows) <= 20 else ""}><summary>{count}</summary><div class="scroll">'
        f'<table class="out"><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table></div>{more}</details>'
    )


def distances(results: Results) -> str:
    """Distances between sets as a whole, and which set is nearer to a reference; empty
    where none was asked for."""
    rows = [row for row in results.get("distances") or [] if not row.get("reference")]
    if not rows:
        return ""
    head = "".join(
        f'<th scope="col">{name}</th>'
        for name in (
            "distance",
            "between",
            "published",
            "unbiased",
            "its 95 % interval",
            "clips",
            "protocol",
            "",
        )
    )
    body = "".join(_distance(row) for row in rows)
    return (
        f'<section id="distances"><h2>Distances between sets</h2><p class="note">Of the distribution of features, '
        f'not of clips; lower is nearer. Only numbers of one protocol compare.</p><div class="scroll"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{_nearer(results)}</section>"
    )


def _nearer(results: Results) -> str:
    """Which of two sets is nearer to the reference; empty where there is no reference or
    one set."""
    rows = [row for row in results["distances"] if row.get("reference")]
    if not rows:
        return ""
    items = "".join(f"<li>{escape(nearer(row))}</li>" for row in rows)
    return (
        '<p class="note">Which set is nearer to the reference: the same prompts are left out of all three sets, so '
        f"that the interval is of the difference. Intervals hold together, at 95 %.</p><ul>{items}</ul>"
    )


def nearer(row: Row) -> str:
    """One line on two sets and a reference, for the page and the terminal."""
    pair = f"{row['name']} to {row['reference']}, {row['first']} less {row['second']}"
    if row.get("low") is None:
        return f"{pair}: not known: {'; '.join(map(str, row.get('notes') or []))}"
    side = "second" if row["low"] > 0 else "first" if row["high"] < 0 else ""
    verdict = f"{row[side]} is nearer" if side else "not told apart"
    return f"{pair}: {row['difference']:.4g} [{row['low']:.4g}, {row['high']:.4g}], {verdict}"


def _distance(row: Row) -> str:
    interval = f"{number(row.get('low'))} to {number(row.get('high'))}"
    cells = [
        row["name"],
        f"{row['first']} and {row['second']}",
        number(row.get("value")),
        number(row.get("unbiased")),
        interval,
        " and ".join(map(str, row.get("n") or [])),
        row.get("protocol") or "",
        "; ".join(map(str, row.get("notes") or [])),
    ]
    return "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>"


def totals(results: Results) -> str:
    """VBench's totals; empty where there are none."""
    found: Mapping[str, Row] = {
        name: row for name, row in (results.get("totals") or {}).items() if row
    }
    if not found:
        return ""
    names = [name for name in next(iter(found.values())) if name != "missing"]
    head = "".join(
        f'<th scope="col">{escape(name)}</th>'
        for name in ["set", *names, "dimensions that are missing"]
    )
    body = "".join(
        "<tr>"
        + "".join(
            f"<td>{cell}</td>"
            for cell in [
                escape(name),
                *(number(row.get(one)) for one in names),
                escape(", ".join(row.get("missing") or []) or "none"),
            ]
        )
        + "</tr>"
        for name, row in found.items()
    )
    return (
        f'<section id="totals"><h2>VBench\'s totals</h2><p class="note">By VBench\'s published weights. A '
        f"sum with a dimension missing is not made: VBench's script takes the raw score 0 for it, and "
        f"scales that to a negative number for five of the dimensions.</p>"
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></section>'
    )


def to_paste(results: Results) -> str:
    """The tables for papers, each with a button that copies it."""
    from vidrl.bench.export import latex, markdown

    blocks = "".join(
        f'<details{" open" if name == "Markdown" else ""}><summary>{name}</summary><div class="paste">'
        f'<button data-copy="{name.lower()}">Copy</button><pre id="{name.lower()}" tabindex="0">{escape(text)}</pre>'
        f"</div></details>"
        for name, text in (("Markdown", markdown(results)), ("LaTeX", latex(results)))
    )
    return (
        f'<section id="paste"><h2>To paste</h2><p class="note">Mean and 95 % interval. Bold only where a set is '
        f"better than every other beyond doubt. LaTeX needs the package booktabs.</p>{blocks}</section>"
    )


def made(results: Results) -> str:
    """Protocol, dimensions, versions, command and notes: all that it takes to measure the
    same again."""
    protocol, suite = results["protocol"], results["suite"]
    facts = {
        "command": results.get("command", ""),
        "suite": f"{suite['name']} {suite['version']}: {suite.get('about', '')}",
        "protocol": _protocol(protocol),
        "protocol hash": protocol["hash"],
        "versions": ", ".join(
            f"{name} {version}" for name, version in results.get("versions", {}).items()
        ),
        "sets": listed([_source(one) for one in results["sets"]]),
        "made": results.get("made", ""),
    }
    rows = "".join(
        f'<tr><th scope="row">{name}</th><td>{escape(str(value))}</td></tr>'
        for name, value in facts.items()
        if value
    )
    notes = "".join(f"<li>{escape(short(str(note)))}</li>" for note in _notes(results)[:MOST])
    noted = f"<h3>Notes</h3><ul>{notes}</ul>" if notes else ""
    return (
        f'<section id="made"><h2>How it was measured</h2><p class="note">Numbers of another protocol hash, or of '
        f'another hash of a dimension, do not compare with these.</p><table class="made">{rows}</table>'
        f"{noted}{_dims(results)}</section>"
    )


def _notes(results: Results) -> list[str]:
    """The notes that do not stand under the headline."""
    return [
        note for note in results.get("notes") or [] if note not in (results.get("fairness") or [])
    ]


def _protocol(protocol: Row) -> str:
    """A protocol in words.

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


def _dims(results: Results) -> str:
    rows = "".join(_dim(dim) for dim in results["dims"])
    head = "".join(
        f'<th scope="col">{name}</th>'
        for name in (
            "dimension",
            "sees",
            "is blind to",
            "reward and options",
            "profile",
            "version",
            "hash",
        )
    )
    return (
        f"<details open><summary>{plural(len(results['dims']), 'dimension')}: what each sees, and what it does "
        f'not</summary><div class="scroll"><table class="cards"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody>'
        f"</table></div></details>"
    )


def _dim(dim: Row) -> str:
    options = f" {json.dumps(dim['options'], ensure_ascii=False)}" if dim.get("options") else ""
    cells: list[Any] = [
        dim_name(dim),
        *(escape(str(dim.get(key) or "–")) for key in ("about", "blind")),
        breaking(f"{dim.get('reward', '')}{options}"),
        *(escape(str(dim.get(key) or "–")) for key in ("profile", "version", "hash")),
    ]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
