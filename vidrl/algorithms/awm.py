"""Advantage-weighted matching (arXiv 2509.25050): minus the matching error stands for log p in a clipped ratio."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Literal

from vidrl.policy import Policy

from ._forward import Forward
from .base import Batch, Loss, clipped


@dataclass(eq=False, kw_only=True)
class AWM(Forward):
    """A clipped ratio a segment, of matching errors at one noise.

    ρ_j = exp(w_t (e_j,old − e_j)), e_j the mean squared error of the prediction in segment j;
    L = mean over rows and segments of −min(ρ_j A_j, clip(ρ_j, 1 ± ε√S) A_j) + β ‖v − v_ref‖².

    Options of the loss: `weight` w_t of a level, 1 or t; `clip_range` ε at S = 1; `beta` β.
    """

    weight: Literal["one", "t"] = "one"
    clip_range: float = 1e-2
    beta: float = 1e-2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta < 0 or self.clip_range <= 0:
            raise ValueError(f"expected beta ≥ 0 and clip_range > 0, got {self.beta} and {self.clip_range}")

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        raw = self.predict(policy, batch)[1]
        error = self.error(policy, batch, raw)
        weight = batch["t"].to(error)[:, None] if self.weight == "t" else 1.0
        old = self.error(policy, batch, self.other(policy, batch, "old"))
        ratio, clip_range = (weight * (old - error)).exp(), self.clip_range * sqrt(batch.plan.segments)
        value = clipped(ratio, batch["advantage"].to(ratio), clip_range).mean()
        if self.beta:
            value = value + self.beta * self.divergence(policy, batch, raw)
        seen = ratio.detach()
        return Loss(value, {"ratio": seen, "clip_share": ((seen - 1).abs() > clip_range).float()})
