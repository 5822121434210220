"""Fit a reward to what people said of clips: features, head, validation, folder.

    vidrl fit answers.csv --out taste/
    vidrl score clips/ --reward fitted --option model=taste/

Legend: C clips, F frames, K features, N choices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from vidrl.feedback import fit_heads, fit_validation
from vidrl.feedback.fit_data import Data, TooLittle, answers, aspect_of, collect
from vidrl.feedback.fit_features import Curves
from vidrl.feedback.fit_heads import Frames, Head, standardised
from vidrl.feedback.judgments import Judgments
from vidrl.rewards._fitted.folder import Feature, Taste
from vidrl.rewards._fitted.heads import distance
from vidrl.rewards.compose import SCALES, WEIGHTS

FORMS = ("auto", "linear", "temporal")
LEAST_FOR_NONLINEAR = 200  # answers below which the nonlinear head is not tried
FAMILIAR = 0.99  # the share of the fit's clips whose distance counts as familiar
SHRINK = 0.1  # of the covariance of the features towards its diagonal


@dataclass(frozen=True)
class Known:
    """What a fit learns from: labels and standardised features of the same clips.

    `rivals` holds the values (C,) of each reward among the features, and of the default composite.
    """

    data: Data
    frames: Frames
    curves: Curves
    centre: np.ndarray
    scale: np.ndarray
    rivals: dict[str, np.ndarray]


def fit(
    judgments: Judgments,
    curves: Curves,
    aspect: str = "",
    form: str = "auto",
    quick: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Taste:
    """Return the reward that is fitted to an aspect of judgments, with all that was measured.

    `form` is "linear", "temporal" (a nonlinear head over three frames), or "auto": the linear
    one unless the other explains held-out choices better beyond doubt. `quick` leaves out the
    cross-validation. Raises TooLittle for labels from which nothing can be learned, and
    ValueError for an unknown aspect or form.
    """
    if form not in FORMS:
        raise ValueError(f"expected a form out of {', '.join(FORMS)}, got {form!r}")
    named = aspect_of(judgments, aspect)
    known = prepare(judgments, curves, named)
    say(f"{len(known.data.choice)} choices, {len(known.data.clips)} clips, aspect {named}")
    straight = fit_heads.linear(known.data, known.frames)
    say(f"linear head: prior {straight.std:g}, log evidence {straight.evidence:.1f}")
    facts = _facts(known, named)
    if quick:
        facts["unmeasured"] = "the fit was asked to leave it out"
    elif not known.data.decided.any():
        facts["unmeasured"] = "no label is a choice of one clip over another"
    head = straight
    if "unmeasured" not in facts:
        head, measured = validated(known, straight, form, say)
        facts |= measured
    elif form == "temporal":
        head = fit_heads.temporal(known.data, known.frames, straight)
    return assemble(known, head, facts)


def prepare(judgments: Judgments, curves: Curves, aspect: str) -> Known:
    """Return labels and features of the clips that have both.

    Features that are equal for all clips, or without meaning for most, are left out.
    """
    named = {clip for one in judgments.all_choices() for clip in (one.first, one.second)}
    named |= {one.clip for one in judgments.points}
    kept = {
        clip: np.where(np.isfinite(curve), curve, np.nan)
        for clip, curve in curves.curves.items()
        if clip in named
    }
    if not kept:
        raise TooLittle(
            f"expected features of labelled clips, got none: {len(curves.lost)} clips are lost"
        )
    with np.errstate(all="ignore"):
        means = np.stack([curve.mean(0) for curve in kept.values()])
    there = np.isfinite(means).mean(0) > 0.5
    spread = np.array([np.nanstd(column) if some else 0 for column, some in zip(means.T, there)])
    usable = there & (spread > 1e-8)
    left = [one.name for one, use in zip(curves.features, usable, strict=True) if not use]
    features = tuple(one for one, use in zip(curves.features, usable, strict=True) if use)
    if not features:
        raise TooLittle("expected features that differ between the clips, got none")
    notes = [*curves.notes]
    if left:
        notes.append(f"left out, because no two clips differ in them: {', '.join(left)}")
    trimmed = replace(
        curves,
        features=features,
        curves={clip: curve[:, usable] for clip, curve in kept.items()},
        notes=notes,
    )
    centre, scale = np.nanmean(means[:, usable], 0), spread[usable]
    lengths = {clip: len(curve) for clip, curve in trimmed.curves.items()}
    data = collect(judgments, aspect, lengths, curves.seconds)
    frames = standardised(list(trimmed.curves.values()), centre, scale)
    return Known(data, frames, trimmed, centre, scale, _rivals(curves.features, means))


def validated(
    known: Known, straight: Head, form: str, say: Callable[[str], None]
) -> tuple[Head, dict[str, Any]]:
    """Return the calibrated head of the chosen form, and what the held-out choices showed."""
    data, frames = known.data, known.frames
    groups = fit_validation.prompt_groups(data)
    by_prompt = len(set(groups.tolist())) >= 2
    # without two groups only the answers can be split, and clips are shared
    units: Sequence[Hashable] = groups.tolist() if by_prompt else _pairs(data)
    apart = fit_validation.by_prompt if by_prompt else fit_validation.by_clip
    fold = fit_validation.folds(units)
    line = partial(fit_heads.linear, frames=frames, stds=(straight.std,))
    gaps = fit_validation.held_out(data, frames, fold, line, apart)
    say("cross-validation of the linear head is done")
    found: dict[str, Any] = {"split": "prompt" if by_prompt else "pair"}
    head = straight
    if form != "linear" and (data.answers >= LEAST_FOR_NONLINEAR or form == "temporal"):
        other = partial(_single, frames=frames, std=straight.std)
        curved = fit_validation.held_out(data, frames, fold, other, apart)
        found["nonlinear"] = _compared(data, gaps, curved, fold, units)
        say("cross-validation of the nonlinear head is done")
        if form == "temporal" or found["nonlinear"]["beyond_doubt"]:
            head, gaps = fit_heads.temporal(data, frames, straight), curved
    factor = fit_validation.temperature(data.choice, gaps, data.weight)
    crossed = fit_validation.calibrated(data.choice, gaps, data.weight, fold)
    found |= {
        "temperature": factor,
        "accuracy": fit_validation.accuracy(data, gaps, units),
        "reliability": fit_validation.reliability(data.choice, crossed, data.weight),
        "rivals": fit_validation.rivals(data, gaps, units, known.rivals),
        "learning_curve": fit_validation.learning_curve(data, frames, np.array(units), line)
        if by_prompt
        else [],
        "by_rater": _by_rater(data, frames, line),
    }
    return head.scaled(factor), found


def _single(data: Data, frames: Frames, std: float) -> Head:
    """Return a single nonlinear head, fast enough for cross-validation."""
    start = fit_heads.linear(data, frames, (std,))
    return fit_heads.temporal(data, frames, start, count=1, epochs=100)


def _compared(
    data: Data,
    gaps: np.ndarray,
    curved: np.ndarray,
    fold: np.ndarray,
    units: Sequence[Hashable],
) -> dict[str, Any]:
    """Return the nonlinear head's gain in log-likelihood, both heads calibrated by other folds."""
    likely = [
        fit_validation.log_likelihoods(
            data.choice,
            fit_validation.calibrated(data.choice, each, data.weight, fold),
            data.weight,
        )
        for each in (gaps, curved)
    ]
    return fit_validation.better(likely[0], likely[1], units, data.weight)


def _pairs(data: Data) -> list[Hashable]:
    """Return the two clips of each choice, in no order."""
    return [
        f"{min(a, b)} {max(a, b)}"
        for a, b in zip(data.first.tolist(), data.second.tolist(), strict=True)
    ]


def _by_rater(data: Data, frames: Frames, line: Callable[[Data], Head]) -> list[dict[str, Any]]:
    """Return the accuracy on each rater's choices of a fit to the other raters' choices."""
    names = sorted(set(data.rater.tolist()) - {""})
    if len(names) < 2:
        return []
    index = np.array([names.index(one) if one in names else -1 for one in data.rater.tolist()])
    gaps = fit_validation.held_out(data, frames, index, line, fit_validation.by_rater)
    rows = []
    for i, name in enumerate(names):
        own = data.subset(index == i)
        where = fit_validation.prompt_groups(own).tolist()
        row = {"rater": name} | fit_validation.accuracy(own, gaps[index == i], where)
        if row["value"] is None and own.decided.any():
            row["note"] = (
                f"the other raters gave fewer than {fit_validation.LEAST} decided answers "
                "and points"
            )
        rows.append(row)
    return rows


def _rivals(features: Sequence[Feature], means: np.ndarray) -> dict[str, np.ndarray]:
    """Return the values (C,) of rewards from the mean features (C, K), and the default composite's.

    The default composite is that of `vidrl.rewards.default`: its parts are features with the same
    options, and it is a weighted sum of them.
    """
    rewards = {
        one.name: means[:, k]
        for k, one in enumerate(features)
        if one.reward not in ("picture", "encoder")
    }
    if set(WEIGHTS) <= set(rewards):
        terms = [
            WEIGHTS[name] * (rewards[name] - SCALES[name][0]) / SCALES[name][1] for name in WEIGHTS
        ]
        rewards["default"] = np.sum(terms, 0)
    return rewards


def _facts(known: Known, aspect: str) -> dict[str, Any]:
    """Return what was fitted, for the card."""
    data = known.data
    seconds = [known.curves.seconds[clip] for clip in data.clips]
    frames = [len(curve) for curve in known.curves.curves.values()]
    rates = sorted({round(n / s, 3) for n, s in zip(frames, seconds, strict=True)})
    return {
        "aspect": aspect,
        "choices": len(data.choice),
        "ties": int((data.choice == 0).sum()),
        "answers": answers(data.weight),
        "points": len(data.scored),
        "local": len(data.local_choice),
        "clips": len(data.clips),
        "prompts": len(set(data.prompts) - {""}),
        "raters": data.raters,
        "frames": [min(frames), max(frames)],
        "rates": [rates[0], rates[-1]],
        "lost": dict(known.curves.lost),
        "notes": [*known.curves.notes, *data.notes],
    }


def assemble(known: Known, head: Head, facts: dict[str, Any]) -> Taste:
    """Return the fitted reward as data, with the weights and the typical clips in its facts."""
    mean = known.frames.mean
    precision = familiar_precision(mean.numpy())
    tensors = {
        "centre": torch.tensor(known.centre),
        "scale": torch.tensor(known.scale),
        "precision": torch.tensor(precision),
        **head.tensors,
        **known.curves.tensors,
    }
    far = distance(mean[:, None], tensors["precision"])
    facts = facts | {
        "form": head.form,
        "side": head.side,
        "tie": head.tie,
        "prior_std": head.std if math.isfinite(head.std) else None,
        "weights": _importance(known, head),
        "extremes": _extremes(known, head),
    }
    return Taste(
        tuple(known.curves.features),
        {name: tensor.float() for name, tensor in tensors.items()},
        head.form,
        max(float(torch.quantile(far, FAMILIAR)), 1e-6),
        facts,
    )


def familiar_precision(means: np.ndarray) -> np.ndarray:
    """Return the inverse of the shrunk covariance of the clips' mean features, (K, K).

    The features have variance 1, so the covariance is shrunk towards the unit matrix.
    """
    covariance = np.atleast_2d(np.cov(means.T)) if len(means) > 1 else np.eye(means.shape[1])
    return np.linalg.inv((1 - SHRINK) * covariance + SHRINK * np.eye(len(covariance)))


def _importance(known: Known, head: Head) -> list[dict[str, Any]]:
    """Return how the value changes with each feature, largest first.

    For the linear head: the weight of one standard deviation of the feature among the clips, with
    its standard error. For the nonlinear head: the slope of the regression of the values on the
    features, which has no standard error.
    """
    names = [feature.name for feature in known.curves.features]
    if head.form == "linear":
        weights = head.tensors["weights"].tolist()
        errors: list[Any] = head.tensors["covariance"].diagonal().sqrt().tolist()
    else:
        mean = known.frames.mean
        ridge = mean.T @ mean + torch.eye(len(names)).to(mean)
        weights = torch.linalg.solve(ridge, mean.T @ head.values(known.frames)).tolist()
        errors = [None] * len(names)
    rows: list[dict[str, Any]] = [
        {"feature": name, "weight": weight, "error": error}
        for name, weight, error in zip(names, weights, errors, strict=True)
    ]
    return sorted(rows, key=lambda row: -abs(row["weight"]))


def _extremes(known: Known, head: Head, count: int = 3) -> list[dict[str, Any]]:
    """Return the clips of the largest and the smallest values, with their curves."""
    curves, mask = head.curves(known.frames), known.frames.mask.bool()
    values = head.values(known.frames)
    order = values.argsort(descending=True).tolist()
    chosen = order[:count] + [i for i in order[-count:] if i not in order[:count]]
    return [
        {
            "clip": known.data.clips[i],
            "value": float(values[i]),
            "curve": [round(x, 4) for x in curves[i][mask[i]].tolist()],
        }
        for i in chosen
    ]


__all__ = ["Feature", "TooLittle", "fit"]
