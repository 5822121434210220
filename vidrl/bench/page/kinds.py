"""The dimensions by what the prompts ask for: one table for each field of the prompts.

The manifest or the suite has these fields, such as a category.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vidrl.bench.page.facts import Results, dim_name
from vidrl.report.charts import number


def kinds(results: Results) -> list[dict[str, Any]]:
    """Return the tables; empty where the prompts have no fields."""
    parts: Mapping[str, Any] = results.get("breakdown") or {}
    fields = dict.fromkeys(field for part in parts.values() for field in part)
    return [_table(results, parts, field) for field in fields]


def _table(results: Results, parts: Mapping[str, Any], field: str) -> dict[str, Any]:
    """Return the table of one field: a row for each of its values and each set."""
    rows = [
        (name, value, part[field][value])
        for name, part in parts.items()
        for value in part.get(field, {})
    ]
    rows.sort(key=lambda row: row[1])  # the sets of one value follow each other
    dims = [dim for dim in results["dims"] if any(dim["name"] in row[2] for row in rows)]
    return {
        "field": field,
        "dims": [dim_name(dim) for dim in dims],
        "rows": [_row(row, dims, len(parts) > 1) for row in rows],
    }


def _row(
    row: tuple[str, str, Mapping[str, Any]], dims: Sequence[Mapping[str, Any]], several: bool
) -> dict[str, Any]:
    name, value, found = row
    return {
        "label": f"{value}, {name}" if several else value,
        "cells": [_cell(found.get(dim["name"])) for dim in dims],
    }


def _cell(summary: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not summary:
        return None
    return {
        "mean": number(summary["mean"]),
        "interval": f"{number(summary['low'])} to {number(summary['high'])}",
        "n": summary["n"],
    }
