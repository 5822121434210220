"""Split scores for credit: compute how much each segment and each part adds to a score.

A composite reward R is made of parts with values m_p. Its score carries, for each part p, the
slope ∂R/∂m_p (`slopes`), and, where the composite has bands or gates, the contribution c_p of
the part before gates with its slope c_p' (`adds`).

Legend: N samples, F frames, S segments, K steps.
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

# An entry of such a curve depends on its own frame, or on its own pair of frames. The entries
# of the other supports, "prefix" and "clip", depend on frames of other segments too.
LOCAL = ("frame", "pair")


def by_segment(value: Tensor, curve: Tensor | None, support: str, spans: list[Span]) -> Tensor:
    """Return a reward's score of each segment, (B, S).

    A curve of local support is averaged over each segment's frames. A curve of another support,
    or no curve, credits the value of the whole clip to every segment. Raises ValueError for a
    curve of another number of samples or frames.
    """
    if curve is None or support not in LOCAL:
        return value[:, None].expand(-1, len(spans))
    if len(curve) != len(value):
        raise ValueError(
            f"expected a curve of {len(value)} samples, as there are values, got {len(curve)}"
        )
    return pool_frames(curve, spans)


def segment_sums(score: Score, spans: Sequence[Span]) -> Tensor:
    """Return the contribution of each segment's frames to a score, (N, S).

    A score with a local curve r: the sum Σ_{i in S_j} r_i/F of a segment's frames. These sums
    add up to the value. A term that compares two frames is split by the reward: half of its
    deviation from the mean is credited to each frame. A score without a local curve: its value,
    for every segment.

    A composite: the sum over its parts p of

        c_p' (m_{p,j} − b_{p,j}) + (c_p − c_p' (m_p − b_p)) e_{p,j},

    the contribution c_p linearised at the part's value m_p, where m_{p,j} are the segment sums
    of the part. For a local part, e_{p,j} is the segment's fraction of the frames, and the b
    are 0. For any other part, e_{p,j} = 1; if the slopes of the samples differ, b_{p,j} and b_p
    are the means of m_{p,j} and m_p over the N samples, else 0. The effect of gates, R − Σ_p
    c_p, is a product of all parts and is credited to every segment in full.

    Example:
        >>> score = Score(torch.tensor([2.0]), torch.tensor([[1.0, 2.0, 3.0]]))
        >>> segment_sums(score, [(0, 1), (1, 3)])
        tensor([[0.3333, 1.6667]])
    """
    if not score.slopes:
        means = by_segment(score.value, score.frames, score.support, list(spans))
        return means * _even_fractions(score, spans)
    added = _added(score)
    sums = [_part_sums(part, added[name], spans) for name, part in score.parts.items()]
    # Without `adds` the reward is linear in its parts, and the remainder is a constant.
    fractions = 1.0 if score.adds else _even_fractions(score, spans)
    return torch.stack(sums).nan_to_num(0.0).sum(0) + _remainder(score)[:, None] * fractions


def _part_sums(part: Score, added: Tensor, spans: Sequence[Span]) -> Tensor:
    """Return the contribution of each segment's frames to what a part adds, (N, S).

    `added` (N, 2) holds the contribution c_p of the part to the composite, and its slope c_p'.
    """
    contribution, slope = added.unbind(1)
    sums, value = segment_sums(part, spans), part.value
    same_slope = bool((slope == slope[0]).all())
    # A part that is not local credits `rest` to every segment in full, so `rest` should be
    # small. In a composite with a band the slopes differ between samples, and slope · value is
    # then far from the contribution. Values measured from the mean of all samples keep `rest`
    # small.
    if not same_slope and not _is_local(part):
        sums, value = sums - sums.nanmean(0), value - value.nanmean()
    rest = contribution - slope * value  # what the linearisation ascribes to no frame
    return slope[:, None] * sums + rest[:, None] * _even_fractions(part, spans)


def _is_local(score: Score) -> bool:
    """Return whether a score is a sum over frames, in which each term is about its own frame.

    A composite is local if all its parts are and no gate multiplies them.
    """
    has_local_curve = score.frames is not None and score.support in LOCAL
    return has_local_curve and all(map(_is_local, score.parts.values())) and not _is_gated(score)


def _is_gated(score: Score) -> bool:
    """Return whether gates reduce the value of a composite."""
    # the tolerance covers the rounding of a sum of float32 contributions
    return bool(score.adds) and bool(
        (_remainder(score).abs() > 1e-3 * (1 + score.value.abs())).any()
    )


def _even_fractions(score: Score, spans: Sequence[Span]) -> Tensor:
    """Return the fraction (S,) of a score's value for each segment if all frames are equal.

    A local score is divided by the lengths of the segments; any other score counts in full,
    with 1, in every segment.
    """
    lengths = torch.tensor([b - a for a, b in spans]).to(score.value)
    return lengths / spans[-1][1] if _is_local(score) else torch.ones_like(lengths)


def _added(score: Score) -> dict[str, Tensor]:
    """Return what each part adds to a composite before its gates, and the slope, (N, 2)."""
    if score.adds:
        return score.adds
    # slopes without `adds`: the composite is linear, and a part adds slope · value
    return {
        name: torch.stack([slope * score.parts[name].value, slope], 1)
        for name, slope in score.slopes.items()
    }


def _remainder(score: Score) -> Tensor:
    """Return a composite's value less the sum of its parts' contributions, (N,)."""
    added = [part[:, 0].nan_to_num(0.0) for part in _added(score).values()]
    return score.value - torch.stack(added).sum(0)


def measured_credit(
    name: str,
    score: Score,
    group: Tensor,
    estimator: str,
    moments: Mapping[str, Tensor],
    ridge: float,
) -> Tensor:
    """Return credit (N, K, S) of a score by the measured moments of its noise.

    `estimator` is "influence", "gls" or "posterior"; `moments[name]` (K, S, F, F) are those of
    the curve of the reward `name`. A composite whose parts were all measured gets the sum of
    its parts' credits, because the curve of a part is more local than that of the sum. Raises
    ValueError for a reward without moments, or with moments of another number of frames.
    """
    if score.slopes and all(part in moments for part in score.parts):
        return _sum_of_parts(score, group, estimator, moments, ridge)
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
    # With one scored sample a group there is no covariance within groups to estimate.
    if int((~entries.isnan().any(1)).sum()) <= len(group.unique()):
        return leave_one_out(entries.mean(1), group)[:, None, None].expand(-1, *moment.shape[:2])
    root = moment.diagonal(dim1=-2, dim2=-1).sqrt()  # I = √T, (K, S, F)
    credit_of_step = {
        "influence": lambda k: influence_weighted(entries, root[k], group),
        "gls": lambda k: gls(entries, root[k], group, ridge),
        "posterior": lambda k: posterior(entries, moment[k], group, ridge),
    }[estimator]
    return torch.stack([credit_of_step(k) for k in range(len(moment))], 1)


def _sum_of_parts(
    score: Score, group: Tensor, estimator: str, moments: Mapping[str, Tensor], ridge: float
) -> Tensor:
    """Return the sum (N, K, S) of the measured credits of a composite's parts.

    Part p is credited by the curve that it adds before gates, c_p + c_p' (m_{p,i} − m_p), whose
    moments are c_p'² times those of its own curve. The effect of gates is credited to every
    segment in full.
    """
    added, size = _added(score), next(iter(moments.values())).shape[:2]
    credits = []
    for name, part in score.parts.items():
        if part.frames is not None:
            curve = _added_curve(part, part.frames, added[name])
            moment = _added_moments(moments, name, added[name])
            credits.append(measured_credit(name, curve, group, estimator, moment, ridge))
    credit = torch.stack(credits).nan_to_num(0.0).sum(0)
    if not score.adds:
        return credit
    return credit + leave_one_out(_remainder(score), group)[:, None, None].expand(-1, *size)


def _added_curve(score: Score, frames: Tensor, added: Tensor) -> Score:
    """Return the score of the curve (N, F) that a part with the curve `frames` adds.

    `added` (N, 2) is the mean of the new curve and the factor of the old one's deviations.
    """
    value, slope = added[:, 0], added[:, 1]
    curve = value[:, None] + slope[:, None] * (frames - score.value[:, None])
    return Score(value, curve, score.support)


def _added_moments(moments: Mapping[str, Tensor], name: str, added: Tensor) -> dict[str, Tensor]:
    """Return the moments of the curve that a part adds, from those of its own curve."""
    # Moments are means over samples; so is the square of the slope.
    return {name: moments[name] * added[:, 1].square().nanmean().to(moments[name])}


def segment_scores(score: Score, spans: list[Span]) -> Tensor:
    """Return each segment's score on the scale of the whole score, (B, S).

    r_j = R + Σ_p ∂R/∂m_p (m_{p,j} − m_p) over the parts p of a composite, where m_{p,j} is the
    part's own `segment_scores`; a score without parts is `by_segment`.
    """
    if not score.slopes:
        return by_segment(score.value, score.frames, score.support, spans)
    scores = score.value[:, None].expand(-1, len(spans))
    for name, part in score.parts.items():
        deviation = segment_scores(part, spans) - part.value[:, None]
        # a part that could not score a sample (NaN) changes no segment of this sample
        scores = scores + score.slopes[name][:, None] * deviation.nan_to_num(0.0)
    return scores


def part_fractions(score: Score) -> dict[str, float]:
    """Return each part's fraction of the weights of a composite, with the sign of its slope.

    The absolute values sum to 1. Raises ValueError for a part whose slope changes sign, as
    under a band, and for a composite with gates: no single number is its weight.
    """
    # A reward that compares frames cannot score images: its part is NaN everywhere, and has
    # the fraction 0.
    scored = [name for name in score.weights if bool(score.parts[name].value.isfinite().any())]
    total = sum(abs(score.weights[name]) for name in scored)
    fractions = {}
    for name, weight in score.weights.items():
        value = score.parts[name].value
        signs = score.slopes.get(name, torch.full_like(value, weight))[value.isfinite()].sign()
        if len(signs.unique()) > 1:
            raise ValueError(
                f"expected per_part of a composite that rises or falls with {name!r} everywhere, "
                "got one with a band or a closed gate: take per_part or the band away"
            )
        fractions[name] = abs(weight) / total * float(signs[0]) if total and len(signs) else 0.0
    if _is_gated(score):
        raise ValueError(
            "expected per_part of a composite without gates, got one that multiplies its parts: "
            "take per_part or the gates away"
        )
    return fractions


def mask_samples(score: Score, mask: Tensor) -> Score:
    """Return a score whose samples in `mask` (N,) are NaN, in every part's value and curve."""
    curve = None if score.frames is None else score.frames.masked_fill(mask[:, None], torch.nan)
    parts = {name: mask_samples(part, mask) for name, part in score.parts.items()}
    return replace(score, value=score.value.masked_fill(mask, torch.nan), frames=curve, parts=parts)


def has_curve(parts: Mapping[str, Score], slopes: Mapping[str, Tensor] | None = None) -> bool:
    """Return whether a part, or a part of a part, has a curve; warn of those that have none.

    A part whose slope is 0 everywhere adds nothing that could be credited, so it counts as
    absent. The parts of a score without slopes are not credited: its own curve is.
    """
    found = []
    for name, part in parts.items():
        if slopes and name in slopes and not slopes[name].any():
            continue
        if not part.slopes and part.frames is None:
            warnings.warn(
                f"{name} has no curve over frames: its value is credited to every segment",
                stacklevel=4,  # names the line that asked for advantages, not this one
            )
        deeper = part.parts and part.slopes
        found.append(has_curve(part.parts, part.slopes) if deeper else part.frames is not None)
    return any(found)


def scale_steps(credit: Tensor, group: Tensor, estimator: str, scale: str) -> Tensor:
    """Return credit (N, S) or (N, K, S) divided by its root mean square (`estimators.scaled`).

    Each step is divided by its own root mean square, except for "posterior" credit, which is
    divided by one number for all steps: the posterior credit of a step is that step's part
    of the reward's deviation, and steps that caused more of the deviation keep more credit.
    """
    if credit.dim() == 2 or estimator == "posterior":
        return scaled(credit, group, scale)
    return torch.stack([scaled(step, group, scale) for step in credit.unbind(1)], 1)
