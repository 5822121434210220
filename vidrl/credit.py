"""Scores → advantages (N, S): who of a group, and which segment of the clip, did better than expected.

The estimators are the pure functions of `vidrl.estimators`. Legend: N samples, F frames,
S segments, K denoising steps; `group` (N,) numbers the prompts. NaN is an unscored sample: it gets advantage 0.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from vidrl.rewards import Score

from .estimators import (  # noqa: F401  to be had from here too
    antithetic,
    blend,
    by_segment,
    earned,
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
    segment_sums,
    step_gains,
    to_latent,
    whole_clip,
)
from .segments import Span

WAYS = ("whole", "segment", *(MEASURED := ("influence", "gls", "posterior")))  # these need a measured influence


def advantages(
    score: Score, group: Tensor, spans: Sequence[Span], way: str = "segment", alpha: float = 1.0, scale: str = "group",
    per_part: bool = False, moments: Mapping[str, Tensor] | None = None, ridge: float = 0.1,
) -> Tensor:  # fmt: skip
    """(1 − α) A + α a_j: each sample's advantage over its group, and of its segments by a credit estimator.

    `spans`: the pixel frames of each segment. `way`: "whole" is α = 0; "segment" the sum of a part's own frames, where
    its curve looks at its own place in time; "influence", "gls" and "posterior" weigh frames by the measured
    `moments[part]` (K, S, F, F), and give (N, K, S), else (N, S). `per_part` normalises each part of a composite before
    the weighted sum (as GDPO, arXiv 2601.05242). One segment is whole-clip credit, whatever the way. A part without
    curve credits its value to every segment, and a warning says so. Raises ValueError for unknown ways, and moments
    that are missing or of another number of frames.

    Example:
        >>> score = Score(torch.tensor([1.0, 0.0]), torch.tensor([[2.0, 0.0], [0.0, 0.0]]))
        >>> advantages(score, torch.tensor([0, 0]), [(0, 1), (1, 2)], alpha=1.0).round(decimals=2)
        tensor([[ 1.4100,  0.0000],
                [-1.4100,  0.0000]])
    """
    if way not in WAYS:
        raise ValueError(f"expected credit to be one of {', '.join(WAYS)}, got {way!r}")
    parts = dict(score.parts) if per_part and score.weights else {"composite": score}
    weights = torch.tensor([score.weights.get(name, 1.0) for name in parts]).to(score.value)
    lost, made = score.value.isnan(), []
    for name, part in parts.items():
        part = _without(part, lost | part.value.isnan())
        whole = normalise(part.value, group, scale)
        if way == "whole" or not alpha or len(spans) == 1 or not _has_curve(name, part):
            made.append(whole[:, None].expand(-1, len(spans)))
        else:
            made.append(blend(whole, _local(name, part, group, spans, way, scale, moments, ridge), alpha))
    axes = max(one.dim() for one in made)  # a part without curve has no axis of steps
    wide = torch.broadcast_tensors(*(one if one.dim() == axes else one[:, None] for one in made))
    return torch.einsum("p,p...->...", weights / weights.sum(), torch.stack(wide))


def _without(score: Score, lost: Tensor) -> Score:
    """A score in which lost samples are unscored, in every part's value and curve."""
    curve = None if score.frames is None else score.frames.masked_fill(lost[:, None], torch.nan)
    parts = {name: _without(part, lost) for name, part in score.parts.items()}
    return replace(score, value=score.value.masked_fill(lost, torch.nan), frames=curve, parts=parts)


def _has_curve(name: str, part: Score) -> bool:
    if part.frames is None:
        warnings.warn(f"{name} has no curve over frames: its value is credited to every segment", stacklevel=3)
    return part.frames is not None


def _local(
    name: str, part: Score, group: Tensor, spans: Sequence[Span], way: str, scale: str,
    moments: Mapping[str, Tensor] | None, ridge: float,
) -> Tensor:  # fmt: skip
    """What the segments earned, (N, S) or (N, K, S), over one root mean square: of a step, but of all for posterior."""
    if way == "segment":
        own = segment_sums(part, spans).masked_fill(part.value.isnan()[:, None], torch.nan)
        return scaled(leave_one_out(own, group), group, scale)
    made = earned(name, part, group, way, moments or {}, ridge)
    if made.shape[2] != len(spans):
        raise ValueError(f"expected moments of {len(spans)} segments for {name!r}, got {made.shape[2]}")
    if way == "posterior":  # a step's share of the deviation is what it estimates
        return scaled(made, group, scale)
    return torch.stack([scaled(step, group, scale) for step in made.unbind(1)], 1)
