"""Scores → advantages (N, S): who of a group, and which segment of the clip, did better than expected.

The estimators are the pure functions of `vidrl.estimators`. Legend: N samples, F frames,
S segments, K denoising steps; `group` (N,) numbers the prompts. NaN is an unscored sample: it gets advantage 0.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vidrl.rewards import Score

from .estimators import (  # noqa: F401  to be had from here too
    antithetic,
    blend,
    by_segment,
    gls,
    group_mean,
    group_std,
    influence_weighted,
    leave_one_out,
    normalise,
    permuted,
    pooled_covariance,
    posterior,
    scaled,
    segment_scores,
    step_gains,
    to_latent,
    whole_clip,
)
from .segments import Span

WAYS = ("whole", "segment", *(MEASURED := ("influence", "gls", "posterior")))  # these need a measured influence


def advantages(
    score: Score, group: Tensor, spans: Sequence[Span], way: str = "segment", alpha: float = 0.5, scale: str = "group",
    per_part: bool = False, moments: Mapping[str, Tensor] | None = None, ridge: float = 0.1,
) -> Tensor:  # fmt: skip
    """(1 − α) A + α a_j: each sample's advantage over its group, and of its segments by a credit estimator.

    `spans`: the pixel frames of each segment. `way`: "whole" is α = 0; "segment" the mean of a part's own frames, where
    its curve looks at its own place in time; "influence", "gls" and "posterior" weigh frames by the measured
    `moments[part]` (K, S, F, F), and give (N, K, S), else (N, S). `per_part` normalises each part of a composite before
    the weighted sum (as GDPO, arXiv 2601.05242). One segment is whole-clip credit, whatever the way. A part without
    curve credits its value to every segment, and a warning says so. Raises ValueError for unknown ways, and moments
    that are missing or of another number of frames.

    Example:
        >>> score = Score(torch.tensor([1.0, 0.0]), torch.tensor([[2.0, 0.0], [0.0, 0.0]]))
        >>> advantages(score, torch.tensor([0, 0]), [(0, 1), (1, 2)], alpha=1.0).round(decimals=2)
        tensor([[ 1.,  0.],
                [-1.,  0.]])
    """
    if way not in WAYS:
        raise ValueError(f"expected credit to be one of {', '.join(WAYS)}, got {way!r}")
    parts = dict(score.parts) if per_part and score.weights else {"composite": score}
    weights = torch.tensor([score.weights.get(name, 1.0) for name in parts]).to(score.value)
    lost, made = score.value.isnan(), []
    for name, part in parts.items():
        value = part.value.masked_fill(lost, torch.nan)
        whole = normalise(value, group, scale)
        if way == "whole" or not alpha or len(spans) == 1 or not _has_curve(name, part):
            made.append(whole[:, None].expand(-1, len(spans)))
        else:
            made.append(blend(whole, _local(name, part, value, group, spans, way, scale, moments, ridge), alpha))
    axes = max(one.dim() for one in made)  # a part without curve has no axis of steps
    wide = torch.broadcast_tensors(*(one if one.dim() == axes else one[:, None] for one in made))
    return torch.einsum("p,p...->...", weights / weights.sum(), torch.stack(wide))


def _has_curve(name: str, part: Score) -> bool:
    if part.frames is None:
        warnings.warn(f"{name} has no curve over frames: its value is credited to every segment", stacklevel=3)
    return part.frames is not None


def _local(
    name: str, part: Score, value: Tensor, group: Tensor, spans: Sequence[Span], way: str, scale: str,
    moments: Mapping[str, Tensor] | None, ridge: float,
) -> Tensor:  # fmt: skip
    """What the segments earned, (N, S) or (N, K, S)."""
    if way == "segment":
        own = segment_scores(part, list(spans)).masked_fill(value.isnan()[:, None], torch.nan)
        return normalise(own, group, scale)
    if moments is None or name not in moments:
        raise ValueError(f"expected moments of {name!r} for {way} credit, got none: measure its influence")
    assert part.frames is not None  # asked before
    entries, moment = part.frames.masked_fill(value.isnan()[:, None], torch.nan), moments[name].to(part.frames)
    if moment.shape[1:] != (len(spans), entries.shape[1], entries.shape[1]):
        raise ValueError(f"expected moments (K, {len(spans)}, F, F) of {entries.shape[1]} frames for {name!r}, got "
                         f"{tuple(moment.shape)}")
    return torch.stack([scaled(_earned(entries, one, group, way, ridge), group, scale) for one in moment], 1)


def _earned(entries: Tensor, moment: Tensor, group: Tensor, way: str, ridge: float) -> Tensor:
    if int((~entries.isnan().any(1)).sum()) <= len(group.unique()):  # no covariance within groups
        return leave_one_out(entries.mean(1), group)[:, None].expand(-1, len(moment))
    if way == "posterior":
        return posterior(entries, moment, group, ridge)
    influence = moment.diagonal(dim1=-2, dim2=-1).sqrt()
    return gls(entries, influence, group, ridge) if way == "gls" else influence_weighted(entries, influence, group)
