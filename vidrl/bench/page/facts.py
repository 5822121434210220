"""What the page and the exported tables read from results.json: names, decimals, counts in
words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

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


def few(results: Results, row: Row) -> str:
    """Why a summary's or a comparison's clips are not enough, in as few words.

    >>> few({"suite": {"least": 20}}, {"n": 12}), few({"suite": {"least": 20}}, {"n": 40, "prompts": 1})
    ('n = 12 is few', 'one prompt')
    """
    count = min(row.get("clips") or [row["n"]])
    return f"n = {count} is few" if count < results["suite"].get("least", 20) else "one prompt"


def told(results: Results, name: str, dim: str) -> Row:
    """The summary of a set on a dimension; empty where there is none."""
    return results.get("summary", {}).get(name, {}).get(dim) or {}


def compared(results: Results) -> dict[tuple[str, str], list[Row]]:
    """The comparisons by their two sets, in order of the file."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in results.get("comparisons", []):
        found.setdefault((row["first"], row["second"]), []).append(row)
    return found


def mean(results: Results, name: str, dim: str) -> list[str]:
    """The mean of a set and the ends of its interval, with as many decimals as all sets
    need on this dimension.

    >>> rows = {"a": {"flicker": {"mean": 0.51234, "low": 0.5, "high": 0.5244}}, "b": {}}
    >>> mean({"summary": rows, "sets": [{"name": "a"}, {"name": "b"}]}, "a", "flicker")
    ['0.512', '0.500', '0.524']
    """
    rows = [told(results, one["name"], dim) for one in results["sets"]]
    digits = max((spread(row) for row in rows), default=3)
    row = told(results, name, dim)
    return [decimals(row.get(key), places=digits) for key in ("mean", "low", "high")]


def difference(row: Row) -> list[str]:
    """A difference and the ends of its interval, with their signs."""
    digits = spread(row)
    return [
        decimals(row.get(key), sign=True, places=digits) for key in ("difference", "low", "high")
    ]


def spread(row: Row) -> int:
    """How many decimals show the interval of a row."""
    low, high = row.get("low"), row.get("high")
    return places(high - low) if low is not None and high is not None else 3


def probability(p: float | None) -> str:
    """A p value for people.

    >>> probability(0.0312), probability(0.00002), probability(1.0), probability(None)
    ('0.031', '< 0.001', '1', '–')
    """
    if p is None:
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def listed(words: Sequence[str]) -> str:
    """Words as people list them.

    >>> listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])
    ('a', 'a and b', 'a, b and c')
    """
    return (
        words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}" if words else ""
    )


def plural(count: int, word: str) -> str:
    """A count of things.

    >>> plural(1, "clip"), plural(0, "clip"), plural(1200, "clip")
    ('1 clip', '0 clips', '1200 clips')
    """
    return f"{count} {word}{'' if count == 1 else 's'}"


def dim_name(dim: Row) -> str:
    """A dimension's name as HTML that may break between its words, with † where it was
    trained on."""
    mark = f'<sup title="was a training reward">{DAGGER}</sup>' if dim.get("trained") else ""
    return f"{breaking(dim['name'])}{mark}"


def breaking(name: str) -> str:
    """A name, escaped, that may break between its words."""
    return escape(str(name)).replace("_", "_<wbr>")


def prompts(clips: Iterable[Row]) -> list[str]:
    """The different prompts of clips, in order."""
    return list(dict.fromkeys(clip["prompt"] for clip in clips if clip.get("prompt")))


def scale(results: Results, row: Row) -> float | None:
    """The standard deviation of clips that a difference is drawn in: of both sets, by root
    mean square."""
    found = [told(results, row[side], row["dim"]).get("std") for side in ("first", "second")]
    known = [std for std in found if std is not None]
    pooled = math.sqrt(math.fsum(std * std for std in known) / len(known)) if known else 0.0
    return pooled or None


def hue(results: Results, at: int) -> str:
    """The CSS class of a set's colour: grey is what others are compared with, so a single
    set has the second."""
    return f"s{at % 6}" if len(results["sets"]) > 1 else "s1"


def short(text: str, most: int = 300) -> str:
    """A text cut to what a page shows of it."""
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"
