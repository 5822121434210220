"""Advantages say how much better than expected each clip of a group and each segment did.

`advantages` turns scores into (N, S) or (N, K, S); the estimators that it uses are the pure
functions of `vidrl.credit.estimators`. Legend: N samples, F frames, S segments, K denoising
steps; `group` (N,) numbers the prompts. NaN marks an unscored sample, which gets advantage 0.
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
from .returns import returns_to_go

MEASURED = ("influence", "gls", "posterior")  # estimators that need a measured influence
ESTIMATORS = ("whole", "segment", *MEASURED)
WAYS = ESTIMATORS  # the former name of this tuple, for code that imports it


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
    discount: float = 0.0,
) -> Tensor:
    """Return (1 − α) A + α a_j, the advantages of clips blended with those of their segments.

    A is the clip's advantage over its group, normalised by `scale` and `eps`
    (`vidrl.credit.estimators.normalise`); a_j is the credit of segment j by the `estimator`,
    divided by its root mean square. The shape is (N, S), or (N, K, S) for credit by measured
    moments.

    - `spans` are the pixel frames [start, end) of each segment.
    - `estimator`: "whole" is A for every segment; "segment" is the sum of the segment's own
      frames (`segment_sums`); "influence", "gls" and "posterior" weight frames by the measured
      `moments[part]` (K, S, F, F), with `ridge` for the last two. `way` is its former name.
    - `per_part` divides each part of a composite by the std of its value before the weighted
      sum, so that each part counts by its weight (GDPO, arXiv 2601.05242). Segments use the
      std of whole clips too: the parts then have the same weights for every S.
    - `discount` γ > 0 adds to the credit of a segment that of the later ones, each times γ for
      every segment in between (`vidrl.credit.returns`, which says when this is right).

    One segment gives whole-clip advantages for every estimator. A part without a curve credits
    its value to every segment, and a warning names it. Raises ValueError for an unknown
    estimator, for `per_part` of a composite with bands or gates, and for moments that are
    missing or of other frames.

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
    weights = part_fractions(score) if split else {"composite": 1.0}
    scores = {name: score.parts[name] for name in weights} if split else {"composite": score}
    # A sample without a composite value is left out of every part. Otherwise the parts' means
    # would be over different samples.
    unscored = score.value.isnan()
    parts = {
        name: mask_samples(part, unscored | part.value.isnan()) for name, part in scores.items()
    }
    weighted = [
        weights[name] * normalise(part.value, group, scale, eps) for name, part in parts.items()
    ]
    whole = torch.stack(weighted).sum(0)  # A, (N,)
    # The credit of segments is leave-one-out already, whatever the scale.
    scale = "none" if scale == "leave_one_out" else scale
    if split and scale != "none":
        whole = scaled(whole, group, "batch")  # a sum of normalised parts has no std of 1
    if estimator == "whole" or not alpha or len(spans) == 1 or not has_curve(parts):
        return whole[:, None].expand(-1, len(spans))
    weighted = [
        weights[name]
        / _std(part, group, scale)
        * _segment_credit(name, part, group, spans, estimator, moments or {}, ridge)
        for name, part in parts.items()
    ]
    returns = returns_to_go(torch.stack(weighted).sum(0), discount)
    local = scale_steps(returns, group, estimator, scale)  # a_j
    return blend(whole, local, alpha)


def _std(part: Score, group: Tensor, scale: str) -> float:
    """Return the root mean square of a part's advantages over all groups; 1 if nothing varies.

    All groups share one number: a std for each group would enlarge the noise of a group in
    which the part hardly differs.
    """
    advantage = leave_one_out(part.value.double(), group)
    if scale == "none" or not bool(advantage.any()):
        return 1.0
    return float(advantage[~part.value.isnan()].square().mean().sqrt()) or 1.0


def _segment_credit(
    name: str,
    part: Score,
    group: Tensor,
    spans: Sequence[Span],
    estimator: str,
    moments: Mapping[str, Tensor],
    ridge: float,
) -> Tensor:
    """Return the credit of the segments for a part, (N, S) or (N, K, S), in the part's unit."""
    if estimator == "segment":
        sums = segment_sums(part, spans).masked_fill(part.value.isnan()[:, None], torch.nan)
        return leave_one_out(sums, group)
    # A part without a curve has no moments: it needs the shape (N, K, S) of the measured parts.
    if part.frames is None and moments:
        steps = len(next(iter(moments.values())))
        return leave_one_out(part.value, group)[:, None, None].expand(-1, steps, len(spans))
    credit = measured_credit(name, part, group, estimator, moments, ridge)
    if credit.shape[2] != len(spans):
        raise ValueError(
            f"expected moments of {len(spans)} segments for {name!r}, got {credit.shape[2]}"
        )
    return credit
