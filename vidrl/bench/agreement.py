"""How often numbers and people choose alike: pairwise accuracy with and without ties,
raters against each other.

Legend: N pairs; `human` (N,) is 1 where the first clip was chosen, -1 where the second, 0
for a tie; `model` (N,) is the first clip's value less the second's, NaN where either has
none.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

Values = np.ndarray


def agreement_without_ties(human: Values, model: Values, half: bool = False) -> Values:
    """1 where people decided and the model with them, 0 where against, NaN for ties of
    people and missing values, (N,).

    A tie of the model is wrong, as in VideoAlign's calc_accuracy.py (arXiv:2501.13918), or
    1/2 if `half`, so that chance is 1/2 for any model.

    >>> agreement_without_ties(np.array([1, -1, 0, 1]), np.array([0.3, 0.2, 0.1, 0.0]))
    array([ 1.,  0., nan,  0.])
    """
    right = np.where(model == 0, 0.5 if half else 0.0, (human * model > 0).astype(float))
    return np.where((human == 0) | np.isnan(model), np.nan, right)


def agreement_with_ties(human: Values, model: Values, epsilon: float) -> Values:
    """1 where the three-way answer is right, 0 where not, NaN for missing values: |model|
    <= epsilon is a tie, (N,).

    >>> agreement_with_ties(np.array([1, 0, 0]), np.array([0.3, 0.05, -0.4]), 0.1)
    array([1., 1., 0.])
    """
    said = np.where(np.abs(model) <= epsilon, 0, np.sign(model))
    return np.where(np.isnan(model), np.nan, (said == human).astype(float))


def calibrate_tie_threshold(human: Values, model: Values) -> tuple[float, float]:
    """The greatest three-way accuracy that any threshold of ties gives, and the smallest
    such threshold.

    Thresholds are 0 and every |model|: algorithm 1 of "Ties Matter", arXiv:2305.14324, with
    its acc_eq as one group; the accuracy "with ties" of VideoReward, arXiv:2501.13918.
    Chosen on the same pairs, it flatters a little: a model that knows nothing gets the
    share of ties or half of the rest. NaN where nothing is known. O(N log N).

    >>> calibrate_tie_threshold(np.array([1, 0, -1, 0]), np.array([2.0, 0.5, -1.0, -0.1]))
    (1.0, 0.5)
    """
    known = ~np.isnan(model)
    if not known.any():
        return math.nan, math.nan
    order = np.argsort(np.abs(model[known]), kind="stable")
    h, m = human[known][order], model[known][order]
    # before: the answer at epsilon = 0, but for m = 0, a tie at any
    size, right = np.abs(m), np.sign(m) == h
    tied = (h == 0).astype(int)
    gained = np.concatenate([[0], np.cumsum(tied - right)])  # after the first k of them became ties
    # all of one size turn together
    ends = np.flatnonzero(np.append(size[1:] != size[:-1], True)) + 1
    zero = int((size == 0).sum())
    thresholds = np.concatenate([[0.0], size[ends - 1]])
    accuracy = (right.sum() + np.concatenate([[gained[zero]], gained[ends]])) / len(h)
    best = int(accuracy.argmax())
    return float(accuracy[best]), float(thresholds[best])


def chance_with_ties(human: Values) -> float:
    """What a model that knows nothing gets by `calibrate_tie_threshold` on many pairs: all ties, or none
    and half of the rest.

    >>> chance_with_ties(np.array([1, -1, 0, 1]))
    0.375
    """
    ties = float((human == 0).mean()) if len(human) else math.nan
    return max(ties, (1 - ties) / 2)


def spearman(scores: Values, values: Values) -> float:
    """Spearman's rank correlation over clips that have both, ties at their mean rank;
    VideoScore's measure (arXiv:2406.15252). NaN for fewer than three clips or no spread.

    >>> round(spearman(np.array([1.0, 2, 2, 4]), np.array([0.1, 0.2, 0.3, 0.9])), 3)
    0.949
    """
    known = np.isfinite(scores) & np.isfinite(values)
    if known.sum() < 3:
        return math.nan
    a, b = _ranks(scores[known]), _ranks(values[known])
    a, b = a - a.mean(), b - b.mean()
    spread = math.sqrt(float((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / spread if spread > 0 else math.nan


def _ranks(values: Values) -> Values:
    _, at, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[at]


# --- raters ---------------------------------------------------------------------------


def majority(votes: Sequence[int]) -> int:
    """What most raters said; where several answers lead, the side that more of them lean
    to, else a tie.

    >>> majority([1, 1, -1]), majority([1, -1]), majority([1, 0]), majority([0, 0, 1])
    (1, 0, 1, 0)
    """
    counts = Counter(votes)
    most = max(counts.values())
    leading = [vote for vote, count in counts.items() if count == most]
    return leading[0] if len(leading) == 1 else int(np.sign(sum(votes)))


@dataclass(frozen=True)
class LeaveOneOut:
    """Each vote of the pairs with several votes, beside the majority of the other raters of
    that pair, (V,) each."""

    votes: Values  # 1, -1 or 0 for a tie
    majority: Values  # of the others: 1, -1 or 0
    rows: list[int]  # the pair of each vote


def leave_one_out(votes: Sequence[Sequence[int]]) -> LeaveOneOut:
    """Leave each rater out in turn: the reference that a rater and a model are both held
    against.

    A rater's vote is part of the majority of all raters, so a rater cannot be held against
    that one; and a model that is held against all raters agrees more often than one rater
    who is held against the others, though it knows no more.

    >>> found = leave_one_out([[1, 1, -1], [1]])
    >>> found.votes.tolist(), found.majority.tolist(), found.rows
    ([1, 1, -1], [0, 0, 1], [0, 0, 0])
    """
    found = [
        (vote, majority([*some[:k], *some[k + 1 :]]), i)
        for i, some in enumerate(votes)
        if len(some) > 1
        for k, vote in enumerate(some)
    ]
    columns = list(zip(*found, strict=True)) or [(), (), ()]
    return LeaveOneOut(np.array(columns[0], int), np.array(columns[1], int), list(columns[2]))


def dependence_clusters(names: Iterable[tuple[Hashable, ...]]) -> list[int]:
    """Which pairs hang together: those that share any of their names (prompt, clips),
    through others too.

    >>> dependence_clusters([("p", 1, 2), ("q", 3, 4), ("p", 5, 6), ("", 6, 7)])
    [0, 1, 0, 0]
    """
    parent: dict[Hashable, Hashable] = {}

    def root(name: Hashable) -> Hashable:
        parent.setdefault(name, name)
        while parent[name] != name:
            parent[name] = name = parent[parent[name]]
        return name

    rows = [[name for name in row if name != ""] for row in names]
    for first, *rest in rows:
        for name in rest:
            parent[root(name)] = root(first)
    index: dict[Hashable, int] = {}
    return [index.setdefault(root(row[0]), len(index)) for row in rows]
