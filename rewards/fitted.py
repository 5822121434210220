"""A reward that `vidrl fit` learned from people's choices, points and marked faults."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ._fitted.folder import UNCERTAINTY, UNFAMILIAR, Feature, Taste, read
from ._fitted.heads import HEADS, distance
from .base import Card, Score
from .compose import Composite, length, widest


class Fitted(Composite):
    """How much the people whose labels were fitted would like a clip, in logits of a choice.

    `model` is a folder that `vidrl fit` wrote. The curve u_t is a small head on the curves of
    other rewards and simple numbers of each frame; the value is its mean over time. A gap of d
    between two clips means that the better one is chosen with probability σ(d), ties left out. With
    the linear head, a clip whose features are the average of the fit's clips has 0.

    `caution` k lowers each clip's value by k standard deviations of what the labels leave open
    about it. So a policy gains little by clips of which the labels say nothing.

    `trusted` also reads a folder whose features name code of the user, as those of `vidrl fit
    --features package.module:Class`, or have options of their own. Such a folder can run code, so
    set it only for a folder of your own.

    `parts` holds the features, in their own units; `uncertainty`, the standard deviation of the
    value; and `unfamiliar`, the distance of the clip's features from those of the fit's clips
    (Mahalanobis), as a multiple of the distance that 99 % of these clips do not exceed: above 1,
    the value is a guess.

    >>> from vidrl.rewards import Samples
    >>> Fitted.tiny()(Samples(torch.full((1, 5, 3, 32, 32), 0.5), [""], 8.0)).value.shape
    torch.Size([1])
    """

    learned = True
    in_logits = True
    needs = ("safetensors",)
    extra = "learned"
    time_support = "clip"
    card = Card(
        sees="What the people chose by, as far as the features of the fit show it; README.md in "
        "the model's folder names the features and the held-out accuracy.",
        blind_to="What no feature of the fit measures, and what its labels never varied.",
        hacks="Clips unlike those of the labels: see the part unfamiliar, and set caution. "
        "README.md holds the audit of the fit.",
        input="Clips like those that were labelled: their size, rate and length.",
        cost="That of its features; the default ones take about as long as the default composite.",
    )

    def __init__(self, model: str = "", caution: float = 0.0, trusted: bool = False) -> None:
        if not model:
            raise ValueError(
                "expected a model for the reward fitted, got none: set its option model to a "
                "folder that `vidrl fit` wrote"
            )
        self._build(read(Path(model), trusted), caution)

    @classmethod
    def of(cls, taste: Taste, caution: float = 0.0) -> Fitted:
        """Return the reward of a fit in memory."""
        made = cls.__new__(cls)
        made._build(taste, caution)
        return made

    @classmethod
    def tiny(cls) -> Fitted:
        """Return a temporal head of random weights on three features."""
        draw = torch.Generator().manual_seed(0)
        features = tuple(
            Feature(name, "picture", {"measure": name}) for name in ("light", "colour", "change")
        )
        tensors = {
            "centre": torch.full((3,), 0.3),
            "scale": torch.full((3,), 0.1),
            "precision": torch.eye(3),
            "linear": torch.randn(2, 3, generator=draw),
            "outer": torch.randn(2, 4, generator=draw),
            "bias": torch.randn(2, 4, generator=draw),
            "window": torch.randn(2, 4, 9, generator=draw),
        }
        return cls.of(Taste(features, tensors, "temporal", 3.0))

    def _build(self, taste: Taste, caution: float) -> None:
        if not caution >= 0:
            raise ValueError(f"expected a caution of 0 or more standard deviations, got {caution}")
        super().__init__(taste.rewards())
        self.taste, self.caution = taste, caution
        if taste.form != "linear":  # a window of three frames
            self.time_support = widest([self.time_support, "pair"])  # type: ignore[misc]

    def remarks(self) -> list[str]:
        """Return how well the fit agrees with choices that it has not seen.

        >>> Fitted.tiny().remarks()
        ['How well the fitted reward agrees with choices that it has not seen was not measured.']
        """
        return [agreement(self.taste.facts.get("accuracy"))]

    @property
    def streams(self) -> bool:
        """Return whether all features can be computed in pieces, as the default ones can."""
        return all(part.streams for part in vars(self).get("parts", {}).values())

    @property
    def needed(self) -> int:
        """Return the number of frames that all features need; 2 where there is no model yet."""
        return max((part.needed for part in vars(self).get("parts", {}).values()), default=2)

    def combine(self, parts: Mapping[str, Score]) -> Score:
        """Return the fitted score from the scores of the features, of the same clips."""
        z, why = self._features(parts)
        frames, std = HEADS[self.taste.form](z, self.taste.tensors)
        far = distance(z, self.taste.tensors["precision"]) / self.taste.familiar
        lost = torch.tensor([reason is not None for reason in why], device=z.device)
        value = frames.mean(1, dtype=torch.float64).to(frames.dtype)
        value = (value - self.caution * std).masked_fill(lost, torch.nan)
        frames = (frames - self.caution * std[:, None]).masked_fill(lost[:, None], torch.nan)
        beside = {
            name: Score(found.masked_fill(lost, torch.nan), None, "clip", why=why)
            for name, found in ((UNCERTAINTY, std), (UNFAMILIAR, far))
        }
        curve = frames if length(parts) else None
        every = {**parts, **beside}
        # No weights: the option per_part would divide each feature by its spread in the round,
        # and train on another taste, without its caution.
        return Score(value, curve, self.time_support, every, why, {}, self._slopes(z))

    def _features(self, parts: Mapping[str, Score]) -> tuple[Tensor, list[str | None]]:
        """Return the standardised features (B, F, K), and why clips cannot be scored.

        A feature that is inapplicable to a clip, such as the smoothness of motion of a still,
        has the average of the fit's clips.
        """
        frames = length(parts) or 1
        curves = [
            score.value[:, None].expand(-1, frames) if score.frames is None else score.frames
            for score in parts.values()
        ]
        found = torch.stack(curves, -1)
        centre, scale = (self.taste.tensors[name].to(found) for name in ("centre", "scale"))
        z = (found - centre) / scale
        clips = range(len(found))
        why = [reason(str(score.why[i]) for score in parts.values() if score.why[i]) for i in clips]
        return torch.where(torch.isfinite(z), z, torch.zeros_like(z)), why

    def _slopes(self, z: Tensor) -> dict[str, Tensor]:
        """Return the slopes of the value in each part, (B,); none for a nonlinear head."""
        if self.taste.form != "linear":
            return {}
        by_feature = self.taste.tensors["weights"] / self.taste.tensors["scale"]
        by_part = dict(zip(self.parts, by_feature.tolist(), strict=True))
        by_part |= {UNCERTAINTY: -self.caution, UNFAMILIAR: 0.0}
        return {name: z.new_full((len(z),), slope) for name, slope in by_part.items()}


def agreement(found: Any) -> str:
    """Return a sentence on the held-out agreement of a fit, as its facts have it.

    The facts are those of a file, so they are used only where they are numbers.

    >>> agreement({"value": 0.6, "low": 0.45, "high": 0.7, "choices": 90})[:69]
    'The fitted reward agrees with 60.0 % [45.0, 70.0] of 90 choices that '
    """
    names = ("value", "low", "high", "choices")
    numbers = [found.get(name) if isinstance(found, dict) else None for name in names]
    value, low, high, choices = (x if isinstance(x, int | float) else None for x in numbers)
    if value is None or choices is None:
        return (
            "How well the fitted reward agrees with choices that it has not seen was not measured."
        )
    ends, chance = "", "; it is not shown to be above chance, so a gain in it says nothing of taste"
    if low is not None and high is not None:
        ends = f" [{100 * low:.1f}, {100 * high:.1f}]"
        chance = chance if low <= 0.5 else ""
    return (
        f"The fitted reward agrees with {100 * value:.1f} %{ends} of {choices:g} choices that it "
        f"has not seen, where chance is 50 %{chance}."
    )


def reason(reasons: Iterable[str]) -> str | None:
    """Return the first reason that leaves a clip unscored, or None.

    A feature that has no meaning for a clip does not; too few or too small frames do.

    >>> reason(["inapplicable: nothing moves"]), reason(["inapplicable: needs a clip of 4 frames"])
    (None, 'inapplicable: needs a clip of 4 frames')
    """
    fatal = ("unscored", "inapplicable: needs", "inapplicable to an image")
    return next((why for why in reasons if why.startswith(fatal)), None)
