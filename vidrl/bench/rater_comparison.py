"""Agreement compared: each dim with one more rater, and dims with each other, on the same
pairs of clips.

The unit is the agreement of one answer with people: 1 where it is theirs, 1/2 for a tie, 0
where it is the other one. Differences are paired, their intervals and p are over clusters
of pairs (`vidrl.bench.agreement.clusters`), by `vidrl.inference.means.interval`, and p is
corrected by Holm's steps over the rows of a table. A value that is missing must not help a
dim: a verdict stands only where it is the same if every missing value is a wrong answer.
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
LEVEL = 0.05


def compare_with_rater(
    found: LeaveOneOut, groups: Sequence[int], models: Mapping[str, Values]
) -> list[Row]:
    """Each dim and a rater against the same reference, the majority of the other raters of
    each pair.

    `groups` (N,) are the clusters of the pairs, `models` the dims' differences (N,), first
    clip less second. A row has the agreement of the `dim`, that of a `rater` on the same
    answers, the `difference` dim less rater with its 95 % interval and p, and the verdict
    `above`, `below`, `open` (not told apart), `unscored` (the missing values decide) or
    `few` (too few prompts for an interval). No row where no pair has several answers.
    """
    if not found.rows:
        return []
    rater = agreement_without_ties(found.majority, found.votes.astype(float), half=True)
    where = [groups[i] for i in found.rows]
    rows = []
    for name, model in models.items():
        own = agreement_without_ties(found.majority, model[found.rows], half=True)
        rows.append(
            {"dim": name, "rater": _mean(rater[np.isfinite(own)])} | _difference(own, rater, where)
        )
    return _with_verdicts(rows)


def compare_dims(human: Values, groups: Sequence[int], models: Mapping[str, Values]) -> list[Row]:
    """Every two dims: which agrees more often with people. `difference` is the `dim` less
    the `other`."""
    own = {name: agreement_without_ties(human, model, half=True) for name, model in models.items()}
    rows = [
        {"dim": a, "other": b} | _difference(own[a], own[b], groups)
        for a, b in combinations(own, 2)
    ]
    return _with_verdicts(rows)


def _difference(own: Values, other: Values, groups: Sequence[int]) -> Row:
    """Own less other where both are known; and where at least one is, a missing one
    counting as wrong."""
    gaps, either = own - other, np.isfinite(own) | np.isfinite(other)
    bound = np.where(either, np.nan_to_num(own) - np.nan_to_num(other), np.nan)
    scored, worst = _tested(gaps, groups), _tested(bound, groups)
    return (
        {"agreement": _mean(own[np.isfinite(gaps)])}
        | scored
        | {
            "missing": int((either & ~np.isfinite(gaps)).sum()),
            "if_wrong": {key: worst[key] for key in ("difference", "low", "high", "p")},
        }
    )


def _tested(gaps: Values, groups: Sequence[int]) -> Row:
    over = interval(gaps, groups, limits=(-1.0, 1.0))
    return {
        "difference": json_number(over.mean),
        "low": json_number(over.low),
        "high": json_number(over.high),
        "p": json_number(over.p),
        "n": over.n,
        "prompts": over.groups,
    }


def _with_verdicts(rows: list[Row]) -> list[Row]:
    """With Holm's p, of the scored answers and of the bound, and the verdict."""
    for place in (lambda row: row, lambda row: row["if_wrong"]):
        tested = [place(row) for row in rows if place(row)["p"] is not None]
        for one, p in zip(tested, holm([one["p"] for one in tested]), strict=True):
            one["p_holm"] = p
    return [row | {"verdict": _verdict(row)} for row in rows]


def _verdict(row: Row) -> str:
    if row["p"] is None:
        return "few"
    first, second = _side(row), _side(row["if_wrong"])
    return (first or "open") if first == second else "unscored"


def _side(row: Mapping[str, Any]) -> str:
    if row["p"] is None or row["p_holm"] >= LEVEL or row["low"] <= 0 <= row["high"]:
        return ""
    return "above" if row["difference"] > 0 else "below"


def _mean(values: Values) -> float | None:
    return json_number(float(values.mean())) if len(values) else None
