"""The one rule by which the terminal, the page and the exported tables call a difference
beyond doubt.

A difference is beyond doubt where p < 0.05 after correction, its interval lies on one side
of zero, as does the one that counts clips without a number as the worst, both sets have as
many clips in it as the suite asks for, and it is larger than the dimension's least relevant
difference, where one was measured: what a re-encoding that nobody sees makes of it, see
`vidrl.bench.least_relevant`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from string import ascii_lowercase
from typing import Any

Results = Mapping[str, Any]
Row = Mapping[str, Any]

LEVEL = 0.05  # of p after correction


def verdict(results: Results, row: Row) -> int:
    """1: second is better than first beyond doubt, -1: worse, 0: undecided.

    >>> row = {"first": "a", "second": "b", "dim": "flicker", "low": 0.1, "high": 0.3, "p_holm": 0.01, "enough": True}
    >>> verdict({}, row), verdict({}, {**row, "enough": False}), verdict({}, {**row, "worst": {"low": -2, "high": 0.1}})
    (1, 0, 0)
    """
    return significant_side(results, row) if exceeds_least_relevant(results, row) else 0


def significant_side(results: Results, row: Row) -> int:
    """As `verdict`, however small the difference is."""
    p = row.get("p_holm")
    if p is None or not p < LEVEL or not has_enough_clips(results, row):
        return 0
    side = _side_of_zero(row)
    return side if row.get("worst") is None or _side_of_zero(row["worst"]) == side else 0


def _side_of_zero(row: Row) -> int:
    """Of which side of zero an interval lies."""
    low, high = row.get("low"), row.get("high")
    return 0 if low is None or high is None else 1 if low > 0 else -1 if high < 0 else 0


def is_withheld(results: Results, row: Row) -> bool:
    """Whether clips without a number alone forbid a verdict: those that are scored differ
    beyond doubt, uncorrected."""
    p = row.get("p_scored")
    plain = (
        p is not None
        and p < LEVEL
        and _side_of_zero(row) != 0
        and has_enough_clips(results, row)
        and exceeds_least_relevant(results, row)
    )
    return (
        plain
        and row.get("worst") is not None
        and not (_side_of_zero(row["worst"]) == _side_of_zero(row) and row["p"] < LEVEL)
    )


def margin_verdict(results: Results, row: Row) -> str:
    """ "equivalent", "not worse" or "not better", by the margin of the row, where nothing
    is beyond doubt; else ""."""
    return "" if verdict(results, row) else str(row.get("within") or "")


def exceeds_least_relevant(results: Results, row: Row) -> bool:
    """Whether a difference is larger than its dimension's least relevant one; also where
    none was measured.

    >>> results = {"dims": [{"name": "cut", "relevant": 3e-05}]}
    >>> [exceeds_least_relevant(results, {"dim": "cut", "difference": x}) for x in (2e-5, 1.0)]
    [False, True]
    """
    least = least_relevant(results, row["dim"])
    return least is None or row.get("difference") is None or abs(row["difference"]) > least


def least_relevant(results: Results, dim: str) -> float | None:
    """The least relevant difference of a dimension; None where none was measured."""
    return next(
        (one.get("relevant") for one in results.get("dims", []) if one["name"] == dim), None
    )


def has_enough_clips(results: Results, row: Row) -> bool:
    """Whether the difference rests on as many clips of both sets as the suite asks for."""
    if row.get("enough") is not None:
        return bool(row["enough"])
    rows = [
        results.get("summary", {}).get(row[side], {}).get(row["dim"]) or {}
        for side in ("first", "second")
    ]
    return all(one.get("enough") for one in rows)


def best_set(results: Results, dim: str) -> str | None:
    """The set that is better than every other one beyond doubt on a dimension, where there
    is such."""
    names = [one["name"] for one in results["sets"]]
    beaten: dict[str, set[str]] = {name: set() for name in names}
    for row in results.get("comparisons", []):
        said = verdict(results, row) if row["dim"] == dim else 0
        if said:
            winner, loser = (row["second"], row["first"])[::said]
            beaten.get(winner, set()).add(loser)
    winners = [name for name in names if len(names) > 1 and beaten[name] >= set(names) - {name}]
    return winners[0] if winners else None


def group_letters(results: Results, dim: str) -> dict[str, str]:
    """Letters of the sets on a dimension: two sets share one where they are not told apart
    beyond doubt; a is the best.

    A compact letter display (Piepho 2004, doi:10.1198/1061860043515), made of the largest
    groups of sets of which no two are told apart.

    >>> rows = [{"first": x, "second": y, "dim": "d", "low": 1, "high": 2, "p_holm": p, "enough": True}
    ...         for x, y, p in (("low", "mid", 0.5), ("low", "top", 0.01), ("mid", "top", 0.5))]
    >>> summary = {name: {"d": {"mean": mean}} for name, mean in (("low", 0.0), ("mid", 0.5), ("top", 1.0))}
    >>> group_letters({"sets": [{"name": name} for name in summary], "summary": summary, "comparisons": rows}, "d")
    {'top': 'a', 'mid': 'ab', 'low': 'b'}
    """
    means = {
        one["name"]: (results["summary"][one["name"]].get(dim) or {}).get("mean")
        for one in results["sets"]
    }
    ranked = sorted(
        (name for name, mean in means.items() if mean is not None),
        key=lambda name: -(means[name] or 0.0),
    )
    apart = {
        frozenset((row["first"], row["second"]))
        for row in results.get("comparisons", [])
        if row["dim"] == dim and verdict(results, row)
    }
    columns = sorted(
        _largest_groups(ranked, apart), key=lambda group: [name not in group for name in ranked]
    )
    return {
        name: "".join(_letter(i) for i, group in enumerate(columns) if name in group)
        for name in ranked
    }


def _largest_groups(names: Sequence[str], apart: Iterable[frozenset[str]]) -> list[frozenset[str]]:
    """The largest groups of names of which no two are apart: by Piepho's insert and
    absorb."""
    groups = {frozenset(names)} if names else set()
    for pair in apart:
        split = {group - {name} for group in groups if pair <= group for name in pair}
        groups = {group for group in groups if not pair <= group} | split
        groups = {group for group in groups if not any(group < other for other in groups)}
    return list(groups)


def _letter(i: int) -> str:
    """a to z, then a1, b1 and so on."""
    return ascii_lowercase[i % 26] + (str(i // 26) if i >= 26 else "")
