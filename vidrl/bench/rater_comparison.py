"""Compare agreements: each dim with one more rater, and dims with each other.

The unit is the agreement of one answer with people: 1 for the same answer, 1/2 for a tie, 0
for the other answer. Differences are paired by answer; their intervals and p values are
over clusters of pairs (`vidrl.bench.agreement.dependence_clusters`), by
`vidrl.inference.means.interval`; p is corrected by Holm's method over the rows of a table.

A missing value must not help a dim: a verdict is given only if it stays the same when every
missing value counts as a wrong answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from vidrl.bench.agreement import LeaveOneOut, Values, agreement_without_ties
from vidrl.bench.statistics import json_number
from vidrl.inference.families import holm
from vidrl.inference.means import interval

Row = dict[str, Any]
LEVEL = 0.05  # of p after Holm's correction


def compare_with_rater(
    found: LeaveOneOut, groups: Sequence[int], models: Mapping[str, Values]
) -> list[Row]:
    """Compare each dim with a rater, both against the majority of the other raters.

    `groups` (N,) are the clusters of the pairs, `models` the dims' differences (N,), first
    clip less second. A row has the agreement of the `dim` and of a `rater` on the same
    answers, their `difference` (dim less rater) with 95 % interval and p, and the verdict:
    `above`, `below`, `open` (no significant difference), `unscored` (the missing values
    decide) or `few` (too few prompts for an interval). Without pairs of several raters
    there are no rows.
    """
    if not found.rows:
        return []
    rater = agreement_without_ties(found.majority, found.votes.astype(float), half=True)
    where = [groups[i] for i in found.rows]
    rows = []
    for name, model in models.items():
        agreement = agreement_without_ties(found.majority, model[found.rows], half=True)
        rows.append(
            {"dim": name, "rater": _mean(rater[np.isfinite(agreement)])}
            | _difference(agreement, rater, where)
        )
    return _with_verdicts(rows)


def compare_dims(human: Values, groups: Sequence[int], models: Mapping[str, Values]) -> list[Row]:
    """Compare the agreement with people of every two dims; `difference` is `dim` less `other`."""
    own = {name: agreement_without_ties(human, model, half=True) for name, model in models.items()}
    rows = [
        {"dim": a, "other": b} | _difference(own[a], own[b], groups)
        for a, b in combinations(own, 2)
    ]
    return _with_verdicts(rows)


def _difference(own: Values, other: Values, groups: Sequence[int]) -> Row:
    """Return the difference of two agreements, also with missing values as wrong answers."""
    gaps, any_known = own - other, np.isfinite(own) | np.isfinite(other)
    if_wrong = np.where(any_known, np.nan_to_num(own) - np.nan_to_num(other), np.nan)
    scored, worst = _tested(gaps, groups), _tested(if_wrong, groups)
    return (
        {"agreement": _mean(own[np.isfinite(gaps)])}
        | scored
        | {
            "missing": int((any_known & ~np.isfinite(gaps)).sum()),
            "if_wrong": {key: worst[key] for key in ("difference", "low", "high", "p")},
        }
    )


def _tested(gaps: Values, groups: Sequence[int]) -> Row:
    """Return mean, interval and p of paired differences of agreements."""
    estimate = interval(gaps, groups, limits=(-1.0, 1.0))
    return {
        "difference": json_number(estimate.mean),
        "low": json_number(estimate.low),
        "high": json_number(estimate.high),
        "p": json_number(estimate.p),
        "n": estimate.n,
        "prompts": estimate.groups,
    }


def _with_verdicts(rows: list[Row]) -> list[Row]:
    """Add Holm's p values, of the scored answers and of the bound, and the verdicts."""
    for part in (lambda row: row, lambda row: row["if_wrong"]):
        tested = [part(row) for row in rows if part(row)["p"] is not None]
        for one, p in zip(tested, holm([one["p"] for one in tested]), strict=True):
            one["p_holm"] = p
    return [row | {"verdict": _verdict(row)} for row in rows]


def _verdict(row: Row) -> str:
    """Return the verdict of a row."""
    if row["p"] is None:
        return "few"
    first, second = _side(row), _side(row["if_wrong"])
    return (first or "open") if first == second else "unscored"


def _side(row: Mapping[str, Any]) -> str:
    """Return "above" or "below" for a significant difference, else ""."""
    if row["p"] is None or row["p_holm"] >= LEVEL or row["low"] <= 0 <= row["high"]:
        return ""
    return "above" if row["difference"] > 0 else "below"


def _mean(values: Values) -> float | None:
    return json_number(float(values.mean())) if len(values) else None
