"""The dims by what the prompts ask: a table for each field that the manifest or the suite
knows of its prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from vidrl.bench.page.facts import Results, dim_name
from vidrl.report.charts import number


def kinds(results: Results) -> str:
    """A section; empty where no clip says what kind it is of."""
    parts: Mapping[str, Any] = results.get("breakdown") or {}
    if not parts:
        return ""
    fields = list(dict.fromkeys(field for part in parts.values() for field in part))
    tables = "".join(_table(results, parts, field, i == 0) for i, field in enumerate(fields))
    words = "Means with their 95 % intervals in the hover; in brackets the clips. Few clips of a kind tell little."
    return f'<section id="kinds"><h2>By kind of prompt</h2><p class="note">{words}</p>{tables}</section>'


def _table(results: Results, parts: Mapping[str, Any], field: str, opened: bool) -> str:
    rows = [
        (name, value, part[field][value])
        for name, part in parts.items()
        for value in part.get(field, {})
    ]
    rows.sort(key=lambda row: row[1])  # the sets side by side
    dims = [dim for dim in results["dims"] if any(dim["name"] in row[2] for row in rows)]
    head = "".join(f'<th scope="col">{dim_name(dim)}</th>' for dim in dims)
    body = "".join(_row(row, dims, len(parts) > 1) for row in rows)
    return (
        f'<details{" open" if opened else ""}><summary>by {escape(field)}</summary><div class="scroll">'
        f'<table><thead><tr><th scope="col">{escape(field)}</th>{head}</tr></thead><tbody>{body}</tbody></table>'
        "</div></details>"
    )


def _row(
    row: tuple[str, str, Mapping[str, Any]], dims: Sequence[Mapping[str, Any]], several: bool
) -> str:
    name, value, found = row
    label = f"{escape(value)}, {escape(name)}" if several else escape(value)
    return f"<tr><td>{label}</td>{''.join(_cell(found.get(dim['name'])) for dim in dims)}</tr>"


def _cell(over: Mapping[str, Any] | None) -> str:
    if not over:
        return "<td>–</td>"
    return (
        f'<td title="{number(over["low"])} to {number(over["high"])}">{number(over["mean"])} '
        f"<small>({escape(str(over['n']))})</small></td>"
    )
