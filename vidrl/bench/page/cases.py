"""Groups the clips of all sets into cases, and picks the best and the worst on each dimension."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from vidrl.bench.page.facts import LEVEL, Results, Row, verdict
from vidrl.report.charts import number

EACH = 2  # clips shown at either end of a dimension where there is one set


@dataclass(frozen=True)
class Case:
    """A prompt that has a clip in some sets: `clips` maps a set's number to its clip's number."""

    prompt: str
    clips: Mapping[int, int]

    @property
    def keys(self) -> list[str]:
        """Return the keys of the clips in the page's data."""
        return [key(at, i) for at, i in self.clips.items()]


@dataclass(frozen=True)
class Example:
    """A case that is shown for its values on a dimension; `title` says for which."""

    title: str
    case: Case


def key(at: int, i: int) -> str:
    """Return the key of clip `i` of set `at` in the page's data."""
    return f"{at}.{i}"


def set_of(key: str) -> int:
    """Return the number of the set of a key."""
    return int(key.split(".")[0])


def clip_of(results: Results, key: str) -> Row:
    """Return the clip of a key."""
    at, i = map(int, key.split("."))
    return results["sets"][at]["clips"][i]


def cases(results: Results) -> list[Case]:
    """Group the clips of all sets by prompt and seed, and without prompts by file name.

    The k-th clip of a set for a prompt and seed belongs to the k-th clips of the other sets.
    """
    found: dict[Any, dict[int, int]] = {}
    for at, one in enumerate(results["sets"]):
        seen: Counter[Any] = Counter()
        for i, clip in enumerate(one["clips"]):
            asked = (
                (clip["prompt"], clip.get("seed"))
                if clip.get("prompt")
                else PurePath(clip["path"]).stem
            )
            found.setdefault((asked, seen[asked]), {})[at] = i
            seen[asked] += 1
    return [Case(_prompt(results, clips), clips) for clips in found.values()]


def _prompt(results: Results, clips: Mapping[int, int]) -> str:
    at, i = next(iter(clips.items()))
    return results["sets"][at]["clips"][i].get("prompt") or ""


def examples(results: Results, found: Iterable[Case]) -> dict[str, list[Example]]:
    """Return what is shown, by dimension; a dimension without a scored clip is left out."""
    found, names = list(found), [one["name"] for one in results["sets"]]
    paired = [case for case in found if len(case.clips) > 1]
    shown = {}
    for dim in results["dims"]:
        name = dim["name"]
        shown[name] = (
            _versus(results, paired, name, names) if paired else _ends(results, found, name, names)
        )
    return {name: picked for name, picked in shown.items() if picked}


def _versus(results: Results, paired: Iterable[Case], dim: str, names: list[str]) -> list[Example]:
    """Pick the cases in which the last set is furthest ahead of the first, and furthest behind."""
    gaps = [
        (gap, i, case)
        for i, case in enumerate(paired)
        if (gap := _gap(results, case, dim)) is not None
    ]
    if not gaps:
        return []
    ends = [("best", max(gaps, key=lambda one: (one[0], -one[1])))]
    ends += [("worst", min(gaps, key=lambda one: one[:2]))] if len(gaps) > 1 else []
    return [
        Example(
            f"{names[max(case.clips)]} does {word} against {names[min(case.clips)]}: "
            f"{number(gap, sign=True)}",
            case,
        )
        for word, (gap, _, case) in ends
    ]


def _gap(results: Results, case: Case, dim: str) -> float | None:
    """Return the value of the last set minus that of the first; None where one is missing."""
    first, second = (
        results["sets"][at]["clips"][case.clips[at]]["value"].get(dim)
        for at in (min(case.clips), max(case.clips))
    )
    return None if first is None or second is None else second - first


def _ends(results: Results, found: Iterable[Case], dim: str, names: list[str]) -> list[Example]:
    """Pick the worst and the best clips of each set, where no clip has a partner."""
    shown = []
    for at, name in enumerate(names):
        scored = [
            (value, i, case)
            for i, case in enumerate(found)
            if at in case.clips
            and (value := results["sets"][at]["clips"][case.clips[at]]["value"].get(dim))
            is not None
        ]
        ranked = sorted(scored, key=lambda one: one[:2])
        each = min(EACH, len(ranked) // 2) or len(ranked)
        # with fewer clips than 2 EACH no clip is both among the worst and among the best
        of = f" of {name}" if len(names) > 1 else ""
        shown += [
            Example(_rank(k, "worst") + of, case) for k, (_, _, case) in enumerate(ranked[:each])
        ]
        top = ranked[::-1][:each] if len(ranked) > 1 else []
        shown += [Example(_rank(k, "best") + of, case) for k, (_, _, case) in enumerate(top)]
    return shown


def _rank(k: int, word: str) -> str:
    return word.capitalize() if k == 0 else f"Second {word}" if k == 1 else f"{k + 1}th {word}"


def opened(results: Results, shown: Mapping[str, Any]) -> str | None:
    """Return the dimension that a reader sees first: that of the surest difference.

    Without a difference beyond doubt it is the first dimension that is shown.
    """
    decided = [
        row
        for row in results.get("comparisons", [])
        if row["dim"] in shown and verdict(results, row)
    ]
    if decided:
        return min(
            decided,
            key=lambda row: (row["p_holm"] >= LEVEL, row["p_holm"], -abs(row.get("effect") or 0)),
        )["dim"]
    return next(iter(shown), None)


def order(results: Results, shown: Mapping[str, list[Example]]) -> list[str]:
    """Return the keys of the clips that are shown, in the order in which a reader sees them."""
    first = opened(results, shown)
    dims = [first, *(name for name in shown if name != first)] if first else []
    return list(
        dict.fromkeys(
            named for name in dims for example in shown[name] for named in example.case.keys
        )
    )
