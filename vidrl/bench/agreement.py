"""Measure how often numbers and people choose alike: pairwise accuracy, and raters alike.

Legend: N pairs of clips. `human` (N,) is 1 where people chose the first clip, −1 where they
chose the second, 0 for a tie. `model` (N,) is the first clip's value less the second's, NaN
where either clip has none.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from vidrl.feedback import answers

Values = np.ndarray


def agreement_without_ties(human: Values, model: Values, half: bool = False) -> Values:
    """Return 1 where the model chooses as people did, 0 where not, NaN for ties of people, (N,).

    NaN also where the model has no value. A tie of the model is wrong, as in VideoAlign's
    calc_accuracy.py (arXiv:2501.13918), or counts 1/2 if `half`: then chance is 1/2 for any
    model.

    >>> agreement_without_ties(np.array([1, -1, 0, 1]), np.array([0.3, 0.2, 0.1, 0.0]))
    array([ 1.,  0., nan,  0.])
    """
    right = np.where(model == 0, 0.5 if half else 0.0, (human * model > 0).astype(float))
    return np.where((human == 0) | np.isnan(model), np.nan, right)


def agreement_with_ties(human: Values, model: Values, epsilon: float) -> Values:
    """Return 1 where the three-way answer is right, 0 where not, NaN without a value, (N,).

    The model's answer is a tie if |model| ≤ epsilon.

    >>> agreement_with_ties(np.array([1, 0, 0]), np.array([0.3, 0.05, -0.4]), 0.1)
    array([1., 1., 0.])
    """
    answer = np.where(np.abs(model) <= epsilon, 0, np.sign(model))
    return np.where(np.isnan(model), np.nan, (answer == human).astype(float))


def calibrate_tie_threshold(human: Values, model: Values) -> tuple[float, float]:
    """Return the best three-way accuracy over all tie thresholds, and the smallest best one.

    The thresholds are 0 and every |model|: algorithm 1 of "Ties Matter" (arXiv:2305.14324),
    with its acc_eq over one group; VideoReward's accuracy "with ties" (arXiv:2501.13918).
    Because the threshold is chosen on the same pairs, the accuracy is a little too high;
    compare it with `chance_with_ties`. NaN where the model has no value. O(N log N).

    >>> calibrate_tie_threshold(np.array([1, 0, -1, 0]), np.array([2.0, 0.5, -1.0, -0.1]))
    (1.0, 0.5)
    """
    scored = ~np.isnan(model)
    if not scored.any():
        return math.nan, math.nan
    order = np.argsort(np.abs(model[scored]), kind="stable")
    # The pairs are sorted by |model|. Raising the threshold past a pair turns the model's
    # answer into a tie: right if people said tie, and a loss if the answer was right before.
    # So the accuracy at every threshold is a cumulative sum.
    h, m = human[scored][order], model[scored][order]
    # `right`: the answer at threshold 0 is right.
    size, right = np.abs(m), np.sign(m) == h
    tied = (h == 0).astype(int)
    gained = np.concatenate([[0], np.cumsum(tied - right)])  # after the first k pairs became ties
    # Pairs of equal |model| become ties together, so only the last of each run is a threshold.
    ends = np.flatnonzero(np.append(size[1:] != size[:-1], True)) + 1
    zero = int((size == 0).sum())
    thresholds = np.concatenate([[0.0], size[ends - 1]])
    accuracy = (right.sum() + np.concatenate([[gained[zero]], gained[ends]])) / len(h)
    best = int(accuracy.argmax())
    return float(accuracy[best]), float(thresholds[best])


def chance_with_ties(human: Values) -> float:
    """Return the calibrated three-way accuracy of a model without information, for many pairs.

    max(q, (1 − q) / 2) with the share q of ties: answering only ties, or no ties and half
    of the rest.

    >>> chance_with_ties(np.array([1, -1, 0, 1]))
    0.375
    """
    ties = float((human == 0).mean()) if len(human) else math.nan
    return max(ties, (1 - ties) / 2)


def spearman(scores: Values, values: Values) -> float:
    """Return Spearman's rank correlation of people's scores and a dim's values over clips.

    Ties get their mean rank. It is VideoScore's measure (arXiv:2406.15252). NaN for fewer
    than three clips with both numbers, or where one side is constant.

    >>> round(spearman(np.array([1.0, 2, 2, 4]), np.array([0.1, 0.2, 0.3, 0.9])), 3)
    0.949
    """
    scored = np.isfinite(scores) & np.isfinite(values)
    if scored.sum() < 3:
        return math.nan
    a, b = _ranks(scores[scored]), _ranks(values[scored])
    a, b = a - a.mean(), b - b.mean()
    norm = math.sqrt(float((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / norm if norm > 0 else math.nan


def _ranks(values: Values) -> Values:
    """Return ranks from 1, ties at their mean rank."""
    _, at, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[at]


# --- raters ---------------------------------------------------------------------------


def majority(votes: Sequence[int]) -> int:
    """Return the most frequent vote; where several lead, the sign of the sum of all votes.

    So two votes against one tie of votes give the side that more raters lean to, else a
    tie, 0.

    >>> majority([1, 1, -1]), majority([1, -1]), majority([1, 0]), majority([0, 0, 1])
    (1, 0, 1, 0)
    """
    return answers.majority(Counter(votes))


@dataclass(frozen=True)
class LeaveOneOut:
    """Votes that are compared with the majority of the other raters of their pair.

    Only pairs with several votes have entries; arrays are (V,), one entry for each vote.
    """

    votes: Values  # 1, -1 or 0 for a tie
    majority: Values  # of the other raters: 1, -1 or 0
    rows: list[int]  # the pair of each vote


def leave_one_out(votes: Sequence[Sequence[int]]) -> LeaveOneOut:
    """Compare each rater with the majority of the other raters of the same pair.

    A rater's vote is part of the majority of all raters, so comparing it with that majority
    would favour the rater. A model must be compared with the same majority of the others:
    against all raters it would agree more often than a single rater, though it knows no
    more.

    >>> found = leave_one_out([[1, 1, -1], [1]])
    >>> found.votes.tolist(), found.majority.tolist(), found.rows
    ([1, 1, -1], [0, 0, 1], [0, 0, 0])
    """
    entries = [
        (vote, majority([*votes_of_pair[:k], *votes_of_pair[k + 1 :]]), i)
        for i, votes_of_pair in enumerate(votes)
        if len(votes_of_pair) > 1
        for k, vote in enumerate(votes_of_pair)
    ]
    columns = list(zip(*entries, strict=True)) or [(), (), ()]
    return LeaveOneOut(np.array(columns[0], int), np.array(columns[1], int), list(columns[2]))


def dependence_clusters(names: Iterable[tuple[Hashable, ...]]) -> list[int]:
    """Return the cluster of each pair; pairs that share a name, also through others, are one.

    Names are prompts and clips. Clusters are resampled as units, because pairs that share a
    clip or a prompt are not independent. The name "" is no name.

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
