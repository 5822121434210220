"""Group-relative policy optimisation, one clipped ratio a segment of the clip, and its
variants."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from vidrl.backbones.base import Denoiser
from vidrl.rewards import Reward
from vidrl.training.policy import Policy
from vidrl.training.rollout import Plan

from ._credit import Credited
from ._trajectory import Trajectory
from .base import Batch, Loss, clipped


@dataclass(eq=False, kw_only=True)
class GRPO(Credited, Trajectory):
    """Group-relative advantages and clipped ratios, one a segment.

    L = mean over rows and segments of −min(ρ_j A_j, clip(ρ_j, 1 ± ε√S) A_j) + β KL, with
    ρ_j = exp(log p_j − log p_j,old). `scale = "none"` is Dr. GRPO (arXiv 2503.20783); the
    options of `Trajectory` have Flow-, Dance-, Mix-, Flash- and TempFlow-GRPO.
    docs/guides/coming_from.md has the settings of other trainers.

    Options of the loss: `ratio_norm`, with `step_weight = "inverse_length"`, is GRPO-Guard
    (2510.22319): ρ = exp((log p − log p_old + D) std). `max_divergence` δ > 0 is Flow-DPPO
    (2606.11025): −ρA without a clip, and 0 where D > δ and (ρ − 1) A > 0. D is the mean of
    (μ − μ_old)²/(2 std²), with μ and std those of the step.

    Example:
        >>> GRPO(sampler="flow_sde", eta=0.7, window=4).window_schedule
        'progressive'
    """

    ratio_norm: bool = False
    max_divergence: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_divergence < 0 or self.ratio_norm and self.max_divergence:
            raise ValueError(
                "expected max_divergence ≥ 0, and 0 with ratio_norm, whose ratio is clipped "
                f"where max_divergence clips none, got {self.max_divergence}"
            )

    def unread(self, reward: Reward, pairs: bool) -> dict[str, str]:
        mine = (
            {"clip_range": "max_divergence stops a step, and no ratio is clipped"}
            if self.max_divergence
            else {}
        )
        return super().unread(reward, pairs) | mine

    def plan(self, backbone: Denoiser, round: int, draw: torch.Generator) -> Plan:
        return replace(
            super().plan(backbone, round, draw), means=self.ratio_norm or self.max_divergence > 0
        )

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        step, a = self.step(policy, batch), batch["advantage"]
        ratio = self.normalised(step, batch) if self.ratio_norm else self.ratio(step, batch)
        each, stopped = clipped(ratio, a, self.clip), (ratio.detach() - 1).abs() > self.clip
        if self.max_divergence:
            stopped = (self.away(step, batch) > self.max_divergence) & ((ratio - 1) * a > 0)
            each = -(ratio * a).masked_fill(stopped, 0.0)
        value = each.mean() + self.penalty(policy, batch, step)
        return Loss(value, {"ratio": ratio.detach(), "clip_share": stopped.float()})
