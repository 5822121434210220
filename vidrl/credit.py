"""Scores → advantages (B, S): who of a group, and which segment of the clip, did better than expected.

Legend: B samples, S segments, G members of a group (samples of one prompt); `group` (B,) numbers the groups. NaN is an
unscored sample: it is left out of its group's statistics and gets advantage 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vidrl.rewards import Score

from .segments import Span, pool_frames

LOCAL = ("frame", "pair")  # supports whose entries look at their own place in time


def group_mean(values: Tensor, group: Tensor) -> Tensor:
    """For each sample the mean over the scored members of its group, (B, ...); NaN for a group without any."""
    same = (group[:, None] == group).to(values.dtype)
    scored = ~values.isnan()
    total = torch.einsum("bg,g...->b...", same, values.nan_to_num())
    return total / torch.einsum("bg,g...->b...", same, scored.to(values.dtype))


def group_std(values: Tensor, group: Tensor) -> Tensor:
    """For each sample the (population) standard deviation over the scored members of its group, (B, ...)."""
    return group_mean((values - group_mean(values, group)).square(), group).clamp(min=0).sqrt()


def normalise(values: Tensor, group: Tensor, scale: str = "group", eps: float = 1e-4) -> Tensor:
    """Group-relative advantages A = (r − mean_group) / (std + ε), (B, ...) like `values` (GRPO, arXiv 2402.03300).

    `scale`: "group" divides by each group's own std; "batch" by the root mean square of all groups' deviations, so that
    groups in which nothing differs are not blown up; "none" does not divide (Dr. GRPO, 2503.20783). Samples that are
    NaN, and groups with fewer than two scored samples, get 0.

    Example:
        >>> normalise(torch.tensor([1.0, 3.0, 5.0, float("nan")]), torch.tensor([0, 0, 1, 1]), eps=0.0)
        tensor([-1.,  1.,  0.,  0.])
    """
    if scale not in ("group", "batch", "none"):
        raise ValueError(f'expected scale "group", "batch" or "none", got {scale!r}')
    exact = values.double()  # or the rounding of a mean passes for a deviation where all are equal
    same = (group[:, None] == group).to(exact.dtype)
    scored = torch.einsum("bg,g...->b...", same, (~values.isnan()).to(exact.dtype))
    deviation = torch.where(scored >= 2, exact - group_mean(exact, group), torch.nan)
    if scale == "group":
        deviation = deviation / (group_std(exact, group) + eps)
    elif scale == "batch":
        deviation = deviation / (deviation.square().nanmean().sqrt() + eps)
    return deviation.nan_to_num(0.0).to(values.dtype)


def by_segment(value: Tensor, curve: Tensor | None, support: str, spans: list[Span]) -> Tensor:
    """A reward's score of each segment, (B, S).

    A curve whose entries look at their own place in time is averaged over each segment's frames; a curve that looks
    further ("prefix", "clip"), or none, credits the whole clip's value to every segment.
    """
    if curve is None or support not in LOCAL:
        return value[:, None].expand(-1, len(spans))
    return pool_frames(curve, spans)


def segment_scores(score: Score, spans: list[Span]) -> Tensor:
    """What each segment adds to a score, (B, S), its mean about the value.

    r_j = R + Σ_p ∂R/∂m_p (m_{p,j} − m_p) over the parts p of a composite, each by its own support; a score without
    parts is `by_segment`.
    """
    if not score.slopes:
        return by_segment(score.value, score.frames, score.support, spans)
    made = score.value[:, None].expand(-1, len(spans))
    for name, part in score.parts.items():
        departure = segment_scores(part, spans) - part.value[:, None]
        made = made + score.slopes[name][:, None] * departure.nan_to_num(0.0)
    return made


def blend(whole: Tensor, local: Tensor, alpha: float) -> Tensor:
    """A_j = (1 − α) A + α a_j: whole-clip advantages (B,) and segments' own (B, S); α = 0 is whole-clip credit.

    Example:
        >>> blend(torch.tensor([1.0]), torch.tensor([[3.0, -1.0]]), 0.5)
        tensor([[2., 0.]])
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"expected α in [0, 1], got {alpha}")
    return (1 - alpha) * whole[:, None] + alpha * local
