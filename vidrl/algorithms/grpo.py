"""Group-relative policy optimisation, one clipped ratio a segment of the clip.

With one segment it is Flow-GRPO (arXiv 2505.05470) or DanceGRPO (2505.07818), by the sampler; with a window it is
MixGRPO (2507.21802).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vidrl.policy import Policy
from vidrl.schedule import divergence_weight

from ._trajectory import Trajectory
from .base import Batch, Loss, clipped


@dataclass(eq=False, kw_only=True)
class GRPO(Trajectory):
    """Group-relative advantages and clipped ratios, one a segment.

    L = mean over rows and segments of −min(ρ_j A_j, clip(ρ_j, 1 ± ε√S) A_j) + β KL. docs/coming_from.md has the
    settings of other trainers.

    Options of the loss: `beta` of the KL to the reference, measured as `kl` says (`vidrl.schedule.divergence_weight`).
    """

    beta: float = 0.0
    kl: Literal["step", "time", "velocity", "mean"] = "step"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta < 0:
            raise ValueError(f"expected beta ≥ 0, got {self.beta}: 0 is no KL")

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        step = self.step(policy, batch)
        ratio, clip_range = self.ratio(step, batch)
        value = clipped(ratio, batch["advantage"], clip_range).mean()
        if self.beta:
            plan, path = batch.plan, policy.backbone.path
            t, s = batch["t"], batch["s"]
            scale = divergence_weight(path, plan.sampler, t, s, plan.eta, plan.times[1], self.kl)
            value = value + self.beta * self.divergence(policy, batch, step, scale)
        seen = ratio.detach()
        return Loss(value, {"ratio": seen, "clip_share": ((seen - 1).abs() > clip_range).float()})
