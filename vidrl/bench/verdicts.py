"""Decide which differences are beyond doubt: one rule for terminal, page and tables.

A difference is beyond doubt if all of these hold:

- p < 0.05 after correction;
- its interval lies on one side of zero, and so does the interval in which clips without a
  number count as the worst;
- both sets have at least as many clips in it as the suite asks for;
- it is larger than the dim's least relevant difference, where one was measured: the change
  that a visually lossless re-encoding makes, see `vidrl.bench.least_relevant`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from string import ascii_lowercase
from typing import Any

Results = Mapping[str, Any]
Row = Mapping[str, Any]

LEVEL = 0.05  # of p after correction


def verdict(results: Results, row: Row) -> int:
    """Return 1 if the second set is better beyond doubt, −1 if it is worse, 0 if undecided.

    >>> row = {"first": "a", "second": "b", "dim": "flicker", "low": 0.1, "high": 0.3}
    >>> row |= {"p_holm": 0.01, "enough": True}
    >>> verdict({}, row), verdict({}, row | {"enough": False})
    (1, 0)
    >>> verdict({}, row | {"worst": {"low": -2, "high": 0.1}})
    0
    """
    return significant_side(results, row) if exceeds_least_relevant(results, row) else 0


def significant_side(results: Results, row: Row) -> int:
    """Return the verdict on a difference, without asking whether the difference is relevant."""
    p = row.get("p_holm")
    if p is None or not p < LEVEL or not has_enough_clips(results, row):
        return 0
    side = _side_of_zero(row)
    return side if row.get("worst") is None or _side_of_zero(row["worst"]) == side else 0


def _side_of_zero(row: Row) -> int:
    """Return 1 if an interval lies above zero, −1 if below, 0 if it contains zero."""
    low, high = row.get("low"), row.get("high")
    return 0 if low is None or high is None else 1 if low > 0 else -1 if high < 0 else 0


def is_withheld(results: Results, row: Row) -> bool:
    """Return whether only clips without a number forbid a verdict.

    The scored clips differ beyond doubt, with p not corrected, but the difference with
    unscored clips as the worst is not on the same side.
    """
    p = row.get("p_scored")
    scored_differ = (
        p is not None
        and p < LEVEL
        and _side_of_zero(row) != 0
        and has_enough_clips(results, row)
        and exceeds_least_relevant(results, row)
    )
    return (
        scored_differ
        and row.get("worst") is not None
        and not (_side_of_zero(row["worst"]) == _side_of_zero(row) and row["p"] < LEVEL)
    )


def margin_verdict(results: Results, row: Row) -> str:
    """Return "equivalent", "not worse" or "not better" by the row's margin, else "".

    "" also if a difference is beyond doubt: then the verdict says more.
    """
    return "" if verdict(results, row) else str(row.get("within") or "")


def exceeds_least_relevant(results: Results, row: Row) -> bool:
    """Return whether a difference is larger than the dim's least relevant one.

    True where none was measured.

    >>> results = {"dims": [{"name": "cut", "relevant": 3e-05}]}
    >>> [exceeds_least_relevant(results, {"dim": "cut", "difference": x}) for x in (2e-5, 1.0)]
    [False, True]
    """
    least = least_relevant(results, row["dim"])
    return least is None or row.get("difference") is None or abs(row["difference"]) > least


def least_relevant(results: Results, dim: str) -> float | None:
    """Return the least relevant difference of a dim, None where none was measured."""
    return next(
        (one.get("relevant") for one in results.get("dims", []) if one["name"] == dim), None
    )


def has_enough_clips(results: Results, row: Row) -> bool:
    """Return whether the difference rests on as many clips of both sets as the suite asks for."""
    if row.get("enough") is not None:
        return bool(row["enough"])
    rows = [
        results.get("summary", {}).get(row[side], {}).get(row["dim"]) or {}
        for side in ("first", "second")
    ]
    return all(one.get("enough") for one in rows)


def best_set(results: Results, dim: str) -> str | None:
    """Return the set that is better than every other one beyond doubt on a dim, or None."""
    names = [one["name"] for one in results["sets"]]
    beaten: dict[str, set[str]] = {name: set() for name in names}
    for row in results.get("comparisons", []):
        side = verdict(results, row) if row["dim"] == dim else 0
        if side:
            # [::1] keeps the order (the second set won), [::-1] reverses it.
            winner, loser = (row["second"], row["first"])[::side]
            beaten.get(winner, set()).add(loser)
    winners = [name for name in names if len(names) > 1 and beaten[name] >= set(names) - {name}]
    return winners[0] if winners else None


def group_letters(results: Results, dim: str) -> dict[str, str]:
    """Return letters of the sets: sets without a letter in common differ beyond doubt.

    "a" marks the best group. It is a compact letter display (Piepho 2004,
    doi:10.1198/1061860043515): each letter stands for one largest group of sets of which no
    two differ beyond doubt.

    >>> rows = [
    ...     {"first": x, "second": y, "dim": "d", "low": 1, "high": 2, "p_holm": p, "enough": True}
    ...     for x, y, p in (("low", "mid", 0.5), ("low", "top", 0.01), ("mid", "top", 0.5))
    ... ]
    >>> means = {"low": 0.0, "mid": 0.5, "top": 1.0}
    >>> summary = {name: {"d": {"mean": mean}} for name, mean in means.items()}
    >>> sets = [{"name": name} for name in summary]
    >>> group_letters({"sets": sets, "summary": summary, "comparisons": rows}, "d")
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
    different_pairs = {
        frozenset((row["first"], row["second"]))
        for row in results.get("comparisons", [])
        if row["dim"] == dim and verdict(results, row)
    }
    columns = sorted(
        _largest_groups(ranked, different_pairs),
        key=lambda group: [name not in group for name in ranked],
    )
    return {
        name: "".join(_letter(i) for i, group in enumerate(columns) if name in group)
        for name in ranked
    }


def _largest_groups(
    names: Sequence[str], different_pairs: Iterable[frozenset[str]]
) -> list[frozenset[str]]:
    """Return the largest groups without a different pair, by Piepho's insert and absorb.

    Each different pair splits every group that contains both names into two, each without
    one of the names; groups that lie inside another one are dropped.
    """
    groups = {frozenset(names)} if names else set()
    for pair in different_pairs:
        split = {group - {name} for group in groups if pair <= group for name in pair}
        groups = {group for group in groups if not pair <= group} | split
        groups = {group for group in groups if not any(group < other for other in groups)}
    return list(groups)


def _letter(i: int) -> str:
    """Return the i-th letter: a to z, then a1, b1 and so on."""
    return ascii_lowercase[i % 26] + (str(i // 26) if i >= 26 else "")
