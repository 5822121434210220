"""The summary: every set on every dimension, its mean and interval over the marks of its clips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vidrl.bench.page.facts import (
    Chip,
    Results,
    Row,
    best_set,
    dim_name,
    few,
    group_letters,
    hue,
    mean,
    summary_row,
)
from vidrl.lookup.grammar import counted
from vidrl.report.charts import number

FAR = 3.0  # quartile ranges beyond the quartiles: Tukey's far out, drawn at the edge

DEVIATIONS = (
    "dimension",
    "set",
    "std of clips",
    "std between prompts",
    "std within a prompt",
    "share of the variance within a prompt",
)


def summary(results: Results) -> dict[str, Any]:
    """Return the data of the section."""
    return {
        "sets": len(results["sets"]),
        "blocks": [_block(results, dim) for dim in results["dims"]],
        "deviations": {
            "head": DEVIATIONS,
            "rows": [
                _deviation(dim, one["name"], summary_row(results, one["name"], dim["name"]))
                for dim in results["dims"]
                for one in results["sets"]
            ],
        },
    }


def _block(results: Results, dim: Row) -> dict[str, Any]:
    """Return a dimension: its name and card, then one row for each set on one axis."""
    name, sets = dim["name"], results["sets"]
    low, high = _ends(results, name)
    # with two sets the table of differences says which is better
    letters = group_letters(results, name) if len(sets) > 2 else {}
    rows = [
        _row(results, one, name, (low, high)) | {"letters": letters.get(one["name"], "")}
        for one in sets
    ]
    has_clips = any(values(one, name) for one in sets)
    ends = [number(low), number(high)] if high > low else [number(low)]
    return {
        "dim": dim_name(dim),
        "vbench": dim.get("profile") == "vbench",
        # of a single set the row has no name, so that its labels are beside the dimension's
        "chips": rows[0]["chips"] if len(sets) == 1 else [],
        "about": dim.get("about"),
        "rows": rows,
        "ends": ends if has_clips else [],
    }


def _ends(results: Results, dim: str) -> tuple[float, float]:
    """Return the axis of a dimension, which shows its clips and the intervals of all sets."""
    low, high = axis([value for one in results["sets"] for value in values(one, dim)])
    rows = [summary_row(results, one["name"], dim) for one in results["sets"]]
    rows = [row for row in rows if row.get("low") is not None]
    return min([low, *(row["low"] for row in rows)]), max([high, *(row["high"] for row in rows)])


def _row(results: Results, one: Row, dim: str, ends: tuple[float, float]) -> dict[str, Any]:
    """Return a set on a dimension: its mean, interval, marks and counts."""
    name = one["name"]
    row = summary_row(results, name, dim)
    middle, low, high = mean(results, name, dim)
    prompts = row.get("prompts") if row.get("n") else None
    return {
        "name": name,
        "hue": hue(results, [other["name"] for other in results["sets"]].index(name)),
        "chips": chips(results, row),
        "best": best_set(results, dim) == name,
        "mean": middle,
        "interval": f"{low} to {high}" if row.get("low") is not None else "–",
        "strip": strip(row, values(one, dim), ends),
        "clips": row.get("n") or 0,
        "prompts": counted(prompts, "prompts") if prompts and prompts > 1 else "",
        "notes": _notes(row),
    }


def _notes(row: Row) -> str:
    """Return the notes on a number without those that its labels say already."""
    notes = [
        note for note in row.get("notes") or [] if not note.startswith(("fewer than", "saturated"))
    ]
    return "; ".join(notes)


def chips(results: Results, row: Row) -> list[Chip]:
    """Return labels for what weakens a number: few clips, saturation, missing values."""
    found, why = [], "; ".join(row.get("notes") or [])
    if not row.get("n"):
        found.append(Chip("unscored", bad=True))
    elif not row.get("enough", True):
        found.append(Chip(few(results, row), why, bad=True))
    if row.get("saturated"):
        found.append(Chip("saturated", why, bad=True))
    if row.get("unscored") and row.get("n"):
        found.append(Chip(f"{row['unscored']} unscored"))
    return found


def strip(row: Row, found: Sequence[float], ends: tuple[float, float]) -> dict[str, Any] | None:
    """Return the clips as marks on an axis, the mean as a dot, its interval as a bar; or None."""
    if not found or row.get("mean") is None:
        return None
    # marks that fall on the same tenth of a percent are drawn once
    places = sorted({round(place(value, ends), 1) for value in found})
    span = f"{number(min(found))} to {number(max(found))}"
    return {
        "ticks": "".join(f"M{at:g},0V1" for at in places),
        "bar": _bar(row, ends),
        "dot": place(row["mean"], ends),
        "words": f"mean {number(row['mean'])}, {counted(len(found), 'clips')} from {span}",
    }


def axis(found: Sequence[float]) -> tuple[float, float]:
    """Return the ends of a dimension's axis: its values without those that are far out.

    >>> axis([0.0, 1.0, 2.0, 3.0, 4.0]), axis([1.0, 1.1, 1.2, 1.3, 50.0]), axis([])
    ((0.0, 4.0), (1.0, 1.9), (0.0, 0.0))
    """
    if not found:
        return (0.0, 0.0)
    ranked = sorted(found)
    lower, upper = (ranked[round(q * (len(ranked) - 1))] for q in (0.25, 0.75))
    # where half of the values are equal, the quartiles say nothing about the width
    reach = FAR * (upper - lower) or ranked[-1] - ranked[0]
    return max(ranked[0], lower - reach), min(ranked[-1], upper + reach)


def place(value: float, ends: tuple[float, float]) -> float:
    """Return the place of a value on an axis in percent, from 1 to 99; 50 for a single point."""
    low, high = ends
    fraction = (value - low) / (high - low) if high > low else 0.5
    return 1 + 98 * min(1.0, max(0.0, fraction))


def values(one: Row, dim: str) -> list[float]:
    """Return the scored values of a set on a dimension."""
    return [clip["value"][dim] for clip in one["clips"] if clip["value"].get(dim) is not None]


def _bar(row: Row, ends: tuple[float, float]) -> dict[str, float] | None:
    """Return the interval on the axis, at least 0.4 % wide so that it can be seen; or None."""
    if row.get("low") is None or row.get("high") is None:
        return None
    left, right = place(row["low"], ends), place(row["high"], ends)
    return {"left": left, "width": max(right - left, 0.4)}


def _deviation(dim: Row, name: str, row: Row) -> list[str]:
    """Return how far the clips of a set differ, and how much of it is within a prompt."""
    within = row.get("within_prompt_share")
    return [
        dim_name(dim),
        name,
        number(row.get("std")),
        number(row.get("between_prompt_std")),
        number(row.get("within_prompt_std")),
        "–" if within is None else f"{100 * within:.0f} %",
    ]
