"""Scores → advantages (N, S): who of a group, and which segment of the clip, did better
than expected.

The estimators are the pure functions of `vidrl.credit.estimators`. Legend: N samples, F
frames, S segments, K denoising steps; `group` (N,) numbers the prompts. NaN is an unscored
sample: it gets advantage 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vidrl.diffusion.segments import Span
from vidrl.rewards import Score

from .estimators import blend, leave_one_out, normalise, scaled
from .parts import (
    has_curve,
    mask_samples,
    measured_credit,
    part_fractions,
    scale_steps,
    segment_sums,
)

MEASURED = ("influence", "gls", "posterior")  # these need a measured influence
ESTIMATORS = ("whole", "segment", *MEASURED)
WAYS = ESTIMATORS  # the former name, for code that imports it


def advantages(
    score: Score,
    group: Tensor,
    spans: Sequence[Span],
    estimator: str = "segment",
    alpha: float = 1.0,
    scale: str = "group",
    per_part: bool = False,
    moments: Mapping[str, Tensor] | None = None,
    ridge: float = 0.1,
    eps: float = 1e-4,
    way: str | None = None,
) -> Tensor:
    """(1 − α) A + α a_j: each sample's advantage over its group, and of its segments by a
    credit estimator.

    `spans`: the pixel frames of each segment. `estimator`: "whole" is α = 0; "segment" the sum of
    a part's own frames, where its curve looks at its own place in time; "influence", "gls"
    and "posterior" weigh frames by the measured `moments[part]` (K, S, F, F), and give (N,
    K, S), else (N, S). `per_part` divides each part of a composite by the spread of its
    value before the weighted sum, and scales the sum (as GDPO, arXiv 2601.05242): by that
    of the whole value for segments too, so that the parts weigh alike whatever S. One
    segment is whole-clip credit, whatever the estimator. A part without curve credits its value
    to every segment, and a warning says so. Raises ValueError for unknown ways, for
    `per_part` of a composite with bands or gates, and for moments that are missing or of
    other frames.

    Example:
        >>> score = Score(torch.tensor([1.0, 0.0]), torch.tensor([[2.0, 0.0], [0.0, 0.0]]))
        >>> advantages(score, torch.tensor([0, 0]), [(0, 1), (1, 2)], alpha=1.0).round(decimals=2)
        tensor([[ 1.4100,  0.0000],
                [-1.4100,  0.0000]])
    """
    estimator = estimator if way is None else way
    if estimator not in ESTIMATORS:
        raise ValueError(f"expected credit to be one of {', '.join(ESTIMATORS)}, got {estimator!r}")
    split = per_part and bool(score.weights)
    lost, weights = score.value.isnan(), part_fractions(score) if split else {"composite": 1.0}
    named = {name: score.parts[name] for name in weights} if split else {"composite": score}
    parts = {name: mask_samples(part, lost | part.value.isnan()) for name, part in named.items()}
    each = [
        weights[name] * normalise(part.value, group, scale, eps) for name, part in parts.items()
    ]
    whole = torch.stack(each).sum(0)
    # segments' own credit leaves one out already
    scale = "none" if scale == "leave_one_out" else scale
    if split and scale != "none":
        whole = scaled(whole, group, "batch")
    if estimator == "whole" or not alpha or len(spans) == 1 or not has_curve(parts):
        return whole[:, None].expand(-1, len(spans))
    each = [
        weights[name]
        / _spread(part, group, scale)
        * _local(name, part, group, spans, estimator, moments or {}, ridge)
        for name, part in parts.items()
    ]
    return blend(whole, scale_steps(torch.stack(each).sum(0), group, estimator, scale), alpha)


def _spread(part: Score, group: Tensor, scale: str) -> float:
    """Of a part's value, over all groups, so that one in which it ties is not blown up; 1
    where nothing varies."""
    away = leave_one_out(part.value.double(), group)
    found = float(away[~part.value.isnan()].square().mean().sqrt()) if bool(away.any()) else 0.0
    return found if found and scale != "none" else 1.0


def _local(
    name: str,
    part: Score,
    group: Tensor,
    spans: Sequence[Span],
    estimator: str,
    moments: Mapping[str, Tensor],
    ridge: float,
) -> Tensor:
    """What the segments earned of a part, (N, S) or (N, K, S), in the part's own unit."""
    if estimator == "segment":
        return leave_one_out(
            segment_sums(part, spans).masked_fill(part.value.isnan()[:, None], torch.nan), group
        )
    if part.frames is None and moments:
        steps = len(next(iter(moments.values())))
        return leave_one_out(part.value, group)[:, None, None].expand(-1, steps, len(spans))
    made = measured_credit(name, part, group, estimator, moments, ridge)
    if made.shape[2] != len(spans):
        raise ValueError(
            f"expected moments of {len(spans)} segments for {name!r}, got {made.shape[2]}"
        )
    return made
