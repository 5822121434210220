"""Combine several ratings of each clip into one Score with parts and a weighted mean."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..base import LOST, Score, score_of_curves


def score_of_ratings(
    ratings: Tensor,
    names: Sequence[str],
    weights: Sequence[float],
    frames: int,
    why: list[str | None],
    rows: list[int],
    lost: str = LOST,
) -> Score:
    """Return the Score of all clips from the ratings (N, P) of the clips in `rows`.

    The other clips are NaN for the reasons in `why`. The value is sum_p w_p rating_p, and
    `parts` holds each rating alone. All curves are flat, over `frames` frames. `lost` is
    the reason of a clip whose ratings are NaN.

    >>> ratings, names = torch.tensor([[1.0, 5.0]]), ["looks", "motion"]
    >>> score = score_of_ratings(ratings, names, [0.75, 0.25], 3, [None], [0])
    >>> score.value, score.parts["motion"].value
    (tensor([2.]), tensor([5.]))
    """
    curves = [rating[:, None].expand(-1, frames) for rating in ratings.unbind(1)]
    whole = torch.stack(
        [weight * curve for weight, curve in zip(weights, curves, strict=True)]
    ).sum(0)
    score = score_of_curves(whole, "clip", why, rows, lost)
    alone = [score_of_curves(curve, "clip", list(why), rows, lost) for curve in curves]
    score.parts = dict(zip(names, alone, strict=True))
    score.weights = dict(zip(names, weights, strict=True))
    score.slopes = {
        name: torch.full_like(score.value, weight) for name, weight in score.weights.items()
    }
    return score


def normalised_weights(weights: Sequence[float]) -> tuple[float, ...]:
    """Return weights divided by their sum; raise ValueError if one is negative or all are 0.

    >>> normalised_weights((3.0, 1.0, 0.0))
    (0.75, 0.25, 0.0)
    """
    if not (min(weights) >= 0 and sum(weights) > 0):
        raise ValueError(f"expected weights of 0 or more that are not all 0, got {tuple(weights)}")
    return tuple(weight / sum(weights) for weight in weights)
