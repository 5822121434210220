"""Reads results.json for the page and the exported tables: names, decimals, counts in words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vidrl.bench.unscored_clips import is_inapplicable
from vidrl.bench.verdicts import (
    LEVEL,
    best_set,
    exceeds_least_relevant,
    group_letters,
    has_enough_clips,
    is_withheld,
    least_relevant,
    margin_verdict,
    significant_side,
    verdict,
)
from vidrl.report.charts import decimals, places
from vidrl.report.render import macro

if TYPE_CHECKING:
    from markupsafe import Markup

__all__ = [
    "LEVEL",
    "best_set",
    "has_enough_clips",
    "is_inapplicable",
    "least_relevant",
    "group_letters",
    "exceeds_least_relevant",
    "margin_verdict",
    "significant_side",
    "verdict",
    "is_withheld",
]

Results = Mapping[str, Any]
Row = Mapping[str, Any]

DAGGER = "†"


@dataclass(frozen=True)
class Chip:
    """A small label beside a number; `title` is its hover text, `bad` colours it as a warning."""

    words: str
    title: str | None = None
    bad: bool = False


def few(results: Results, row: Row) -> str:
    """Return in a few words why a summary or a comparison has too few clips for a claim.

    >>> suite = {"suite": {"least": 20}}
    >>> few(suite, {"n": 12}), few(suite, {"n": 40, "prompts": 1})
    ('n = 12 is few', 'one prompt')
    """
    count = min(row.get("clips") or [row["n"]])
    return f"n = {count} is few" if count < results["suite"].get("least", 20) else "one prompt"


def summary_row(results: Results, name: str, dim: str) -> Row:
    """Return the summary of a set on a dimension; empty where there is none."""
    return results.get("summary", {}).get(name, {}).get(dim) or {}


def compared(results: Results) -> dict[tuple[str, str], list[Row]]:
    """Return the comparisons by their two sets, in order of the file."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in results.get("comparisons", []):
        found.setdefault((row["first"], row["second"]), []).append(row)
    return found


def mean(results: Results, name: str, dim: str) -> list[str]:
    """Return the mean of a set and the ends of its interval, with the decimals of all sets.

    All sets have as many decimals on a dimension as the narrowest of their intervals needs.

    >>> rows = {"a": {"flicker": {"mean": 0.51234, "low": 0.5, "high": 0.5244}}, "b": {}}
    >>> mean({"summary": rows, "sets": [{"name": "a"}, {"name": "b"}]}, "a", "flicker")
    ['0.512', '0.500', '0.524']
    """
    rows = [summary_row(results, one["name"], dim) for one in results["sets"]]
    digits = max((interval_decimals(row) for row in rows), default=3)
    row = summary_row(results, name, dim)
    return [decimals(row.get(key), places=digits) for key in ("mean", "low", "high")]


def difference(row: Row) -> list[str]:
    """Return a difference and the ends of its interval, with their signs."""
    digits = interval_decimals(row)
    return [
        decimals(row.get(key), sign=True, places=digits) for key in ("difference", "low", "high")
    ]


def interval_decimals(row: Row) -> int:
    """Return how many decimals show the interval of a row."""
    low, high = row.get("low"), row.get("high")
    return places(high - low) if low is not None and high is not None else 3


def probability(p: float | None) -> str:
    """Return a p value as people write it.

    >>> probability(0.0312), probability(0.00002), probability(1.0), probability(None)
    ('0.031', '< 0.001', '1', '–')
    """
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def listed(words: Sequence[str]) -> str:
    """Return words as people list them.

    >>> listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])
    ('a', 'a and b', 'a, b and c')
    """
    return (
        words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""
    )


def dim_name(dim: Row) -> Markup:
    """Return a dimension's name as HTML, with † where the dimension was a training reward."""
    trained = bool(dim.get("trained"))
    return macro("bench/macros.html", "dim", name=dim["name"], trained=trained)


def breaking(name: str) -> Markup:
    """Return a name as HTML that may break between its words."""
    return macro("report/film.html", "breaking", name=name)


def prompts(clips: Iterable[Row]) -> list[str]:
    """Return the different prompts of clips, in order."""
    return list(dict.fromkeys(clip["prompt"] for clip in clips if clip.get("prompt")))


def scale(results: Results, row: Row) -> float | None:
    """Return the standard deviation of clips in which a difference is drawn, or None.

    It is the root mean square of those of both sets.
    """
    found = [summary_row(results, row[side], row["dim"]).get("std") for side in ("first", "second")]
    stds = [std for std in found if std is not None]
    pooled = math.sqrt(math.fsum(std * std for std in stds) / len(stds)) if stds else 0.0
    return pooled or None


def hue(results: Results, at: int) -> str:
    """Return the CSS class of a set's colour.

    The first colour, grey, is that of the set with which others are compared, so a single set
    has the second colour.
    """
    return f"s{at % 6}" if len(results["sets"]) > 1 else "s1"


def short(text: str, most: int = 300) -> str:
    """Return a text, cut to `most` characters."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"
