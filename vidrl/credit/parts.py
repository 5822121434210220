"""Scores as credit reads them: what segments give of a score, part by part, and which parts
have curves.

Legend: N samples, F frames, S segments, K steps; a composite's parts come with the slopes
∂R/∂m_p of the whole.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from vidrl.diffusion.segments import Span, pool_frames
from vidrl.rewards import Score

from .estimators import gls, influence_weighted, leave_one_out, posterior, scaled

LOCAL = ("frame", "pair")  # supports whose entries look at their own place in time


def by_segment(value: Tensor, curve: Tensor | None, support: str, spans: list[Span]) -> Tensor:
    """A reward's score of each segment, (B, S).

    A curve whose entries look at their own place in time is averaged over each segment's
    frames; a curve that looks further ("prefix", "clip"), or none, credits the whole clip's
    value to every segment.
    """
    if curve is None or support not in LOCAL:
        return value[:, None].expand(-1, len(spans))
    if len(curve) != len(value):
        raise ValueError(
            f"expected a curve of {len(value)} samples, as there are values, got {len(curve)}"
        )
    return pool_frames(curve, spans)


def segment_sums(score: Score, spans: Sequence[Span]) -> Tensor:
    """What each segment's frames give of a score, (N, S): it rises with a segment's own
    frames as the value does.

    A curve that looks at its own place gives Σ_{i in S_j} r_i/F, which sum to the value;
    one that looks further ("prefix", "clip"), or none, gives the whole value to every
    segment. Of a composite R, part p adds c_p(m_p) with the slope c_p' before gates: Σ_p
    c_p' (m_{p,j} − b_{p,j}) + (c_p − c_p' (m_p − b_p)) e_{p,j}. Where a part looks at its
    own place alone, e is the segment's share of the frames and b is 0; elsewhere e is 1,
    and where slopes differ b is the mean over the N samples, because a composite of both
    kinds of parts has no one share. What the gates take off, R − Σ_p c_p, is a product of
    all parts, and goes whole to every segment.

    Example:
        >>> segment_sums(Score(torch.tensor([2.0]), torch.tensor([[1.0, 2.0, 3.0]])), [(0, 1), (1, 3)])
        tensor([[0.3333, 1.6667]])
    """
    if not score.slopes:
        return by_segment(score.value, score.frames, score.support, list(spans)) * _evenly(
            score, spans
        )
    added = _added(score)
    made = [_of_part(part, added[name], spans) for name, part in score.parts.items()]
    # without `adds`: linear up to a constant
    everywhere = 1.0 if score.adds else _evenly(score, spans)
    return torch.stack(made).nan_to_num(0.0).sum(0) + _left_over(score)[:, None] * everywhere


def _of_part(part: Score, added: Tensor, spans: Sequence[Span]) -> Tensor:
    """What each segment's frames give, (N, S), of what a part adds to a composite: `added`
    (N, 2), with its slope."""
    add, slope = added.unbind(1)
    sums, value = segment_sums(part, spans), part.value
    # of all samples, so that their mean changes no advantage
    alike = bool((slope == slope[0]).all())
    # else most of a band's edge would be charged to every segment
    if not alike and not _is_local(part):
        sums, value = sums - sums.nanmean(0), value - value.nanmean()
    return slope[:, None] * sums + (add - slope * value)[:, None] * _evenly(part, spans)


def _is_local(score: Score) -> bool:
    """Whether a score is a sum of what each frame gives: of a composite, all its parts, and
    no gate multiplies them."""
    own = score.frames is not None and score.support in LOCAL
    return own and all(map(_is_local, score.parts.values())) and not _is_gated(score)


def _is_gated(score: Score) -> bool:
    """Whether gates take something off a composite."""
    return bool(score.adds) and bool(
        (_left_over(score).abs() > 1e-3 * (1 + score.value.abs())).any()
    )


def _evenly(score: Score, spans: Sequence[Span]) -> Tensor:
    """The share (S,) of a score's value that each segment gives where nothing differs
    between frames."""
    lengths = torch.tensor([b - a for a, b in spans]).to(score.value)
    return lengths / spans[-1][1] if _is_local(score) else torch.ones_like(lengths)


def _added(score: Score) -> dict[str, Tensor]:
    """What each part adds to a composite before its gates, and the slope of that, (N, 2).

    A reward whose score has slopes and no `adds` is linear in its parts.
    """
    if score.adds:
        return score.adds
    return {
        name: torch.stack([slope * score.parts[name].value, slope], 1)
        for name, slope in score.slopes.items()
    }


def measured_credit(
    name: str,
    score: Score,
    group: Tensor,
    estimator: str,
    moments: Mapping[str, Tensor],
    ridge: float,
) -> Tensor:
    """Credit (N, K, S) by measured moments (K, S, F, F): `influence`, `gls` or `posterior`
    of a score's curve.

    A composite whose parts were all measured is the sum of its parts' credits, because
    parts are more local than their sum: each of the curve c_p + c_p' (m_{p,i} − m_p) that
    it adds to the composite before gates, moments times c_p'². What the gates take off goes
    whole to every segment. Raises ValueError for a part that was not measured, or of
    another number of frames.
    """
    if score.slopes and all(part in moments for part in score.parts):
        added, size = _added(score), next(iter(moments.values())).shape[:2]
        parts = [
            measured_credit(
                part,
                _line(one, one.frames, added[part]),
                group,
                estimator,
                _steeper(moments, part, added[part]),
                ridge,
            )
            for part, one in score.parts.items()
            if one.frames is not None
        ]
        gates = (
            leave_one_out(_left_over(score), group)[:, None, None].expand(-1, *size)
            if score.adds
            else 0.0
        )
        return torch.stack(parts).nan_to_num(0.0).sum(0) + gates
    if name not in moments or score.frames is None:
        raise ValueError(
            f"expected moments of {name!r} for {estimator} credit, got none: measure its influence"
        )
    entries, moment = score.frames, moments[name].to(score.frames)
    if moment.dim() != 4 or moment.shape[-1] != entries.shape[1]:
        raise ValueError(
            f"expected moments (K, S, F, F) of {entries.shape[1]} frames for {name!r}, got "
            f"{tuple(moment.shape)}"
        )
    if int((~entries.isnan().any(1)).sum()) <= len(group.unique()):  # no covariance within groups
        return leave_one_out(entries.mean(1), group)[:, None, None].expand(-1, *moment.shape[:2])
    root = moment.diagonal(dim1=-2, dim2=-1).sqrt()
    credit = {
        "influence": lambda k: influence_weighted(entries, root[k], group),
        "gls": lambda k: gls(entries, root[k], group, ridge),
        "posterior": lambda k: posterior(entries, moment[k], group, ridge),
    }
    return torch.stack([credit[estimator](k) for k in range(len(moment))], 1)


def _left_over(score: Score) -> Tensor:
    """What the parts do not add to a composite, (N,): what gates take off, or a
    constant."""
    return score.value - torch.stack(
        [add[:, 0].nan_to_num(0.0) for add in _added(score).values()]
    ).sum(0)


def _line(score: Score, frames: Tensor, add: Tensor) -> Score:
    """The curve (N, F) that a part with the curve `frames` adds to a composite; `add` (N,
    2): the mean, the slope."""
    value, slope = add[:, 0], add[:, 1]
    curve = value[:, None] + slope[:, None] * (frames - score.value[:, None])
    return Score(value, curve, score.support)


def _steeper(moments: Mapping[str, Tensor], name: str, add: Tensor) -> dict[str, Tensor]:
    """The moments of a part's own curve as those of the curve that it adds, whose slope is
    the root mean square."""
    return {name: moments[name] * add[:, 1].square().nanmean().to(moments[name])}


def segment_scores(score: Score, spans: list[Span]) -> Tensor:
    """What each segment adds to a score, (B, S), its mean about the value.

    r_j = R + Σ_p ∂R/∂m_p (m_{p,j} − m_p) over the parts p of a composite, each by its own
    support; a score without parts is `by_segment`.
    """
    if not score.slopes:
        return by_segment(score.value, score.frames, score.support, spans)
    made = score.value[:, None].expand(-1, len(spans))
    for name, part in score.parts.items():
        departure = segment_scores(part, spans) - part.value[:, None]
        made = made + score.slopes[name][:, None] * departure.nan_to_num(0.0)
    return made


def part_fractions(score: Score) -> dict[str, float]:
    """The share of each part in a composite, with the sign of its slope. Raises ValueError
    where that changes sign."""
    scored = [name for name in score.weights if bool(score.parts[name].value.isfinite().any())]
    # parts left out of images have no share
    total, made = sum(abs(score.weights[name]) for name in scored), {}
    for name, weight in score.weights.items():
        value = score.parts[name].value
        signs = score.slopes.get(name, torch.full_like(value, weight))[value.isfinite()].sign()
        if len(signs.unique()) > 1:
            raise ValueError(
                f"expected per_part of a composite that rises or falls with {name!r} everywhere, got one "
                "with a band or a closed gate: take per_part or the band away"
            )
        made[name] = abs(weight) / total * float(signs[0]) if total and len(signs) else 0.0
    if _is_gated(score):
        raise ValueError(
            "expected per_part of a composite without gates, got one that multiplies its parts: take "
            "per_part or the gates away"
        )
    return made


def mask_samples(score: Score, lost: Tensor) -> Score:
    """A score in which lost samples are unscored, in every part's value and curve."""
    curve = None if score.frames is None else score.frames.masked_fill(lost[:, None], torch.nan)
    parts = {name: mask_samples(part, lost) for name, part in score.parts.items()}
    return replace(score, value=score.value.masked_fill(lost, torch.nan), frames=curve, parts=parts)


def has_curve(parts: Mapping[str, Score]) -> bool:
    """Whether a part, or a part of a part, has a curve; a warning names those that have
    none."""
    found = []
    for name, part in parts.items():
        if not part.parts and part.frames is None:
            warnings.warn(
                f"{name} has no curve over frames: its value is credited to every segment",
                stacklevel=4,
            )
        found.append(has_curve(part.parts) if part.parts else part.frames is not None)
    return any(found)


def scale_steps(credit: Tensor, group: Tensor, estimator: str, scale: str) -> Tensor:
    """Credit (N, S) or (N, K, S) over one root mean square: of each step, but of all for
    posterior.

    Posterior credit gives the share of the deviation that each step made, so that the steps
    keep their sizes.
    """
    if credit.dim() == 2 or estimator == "posterior":
        return scaled(credit, group, scale)
    return torch.stack([scaled(step, group, scale) for step in credit.unbind(1)], 1)
