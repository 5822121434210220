"""GRPO is group-relative policy optimisation, here with one clipped ratio for each segment."""

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
    """GRPO subtracts the group's mean from each reward and clips one ratio for each segment.

    L = mean over rows and segments of −min(ρ_j A_j, clip(ρ_j, 1 ± ε√S) A_j) + β KL, with
    ρ_j = exp(log p_j − log p_j,old). `scale = "none"` is Dr. GRPO (arXiv 2503.20783). The
    docstring of `Trajectory` lists the options of Flow-, Dance-, Mix-, Flash- and
    TempFlow-GRPO, and docs/guides/coming_from.md the settings of other trainers.

    Options of the loss:

    - `ratio_norm`, with `step_weight = "inverse_length"`, is GRPO-Guard (2510.22319): ρ =
      exp((log p − log p_old + D) std).
    - `max_divergence` δ > 0 is Flow-DPPO (2606.11025): −ρA without a clip, and 0 where D > δ
      and (ρ − 1) A > 0.

    D is the mean of (μ − μ_old)²/(2 std²), where μ and std are those of the step.

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
        found = super().unread(reward, pairs)
        if self.max_divergence:
            found["clip_range"] = "max_divergence stops a step, and no ratio is clipped"
        return found

    def plan(self, backbone: Denoiser, round: int, draw: torch.Generator) -> Plan:
        plan = super().plan(backbone, round, draw)
        return replace(plan, means=self.ratio_norm or self.max_divergence > 0)  # both need μ_old

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        step, advantage = self.step(policy, batch), batch["advantage"]
        ratio = self.normalised_ratio(step, batch) if self.ratio_norm else self.ratio(step, batch)
        if self.max_divergence:
            too_far = self.old_divergence(step, batch) > self.max_divergence
            stopped = too_far & ((ratio - 1) * advantage > 0)  # would move the policy further away
            terms = -(ratio * advantage).masked_fill(stopped, 0.0)
        else:
            stopped = (ratio.detach() - 1).abs() > self.clip
            terms = clipped(ratio, advantage, self.clip)
        value = terms.mean() + self.penalty(policy, batch, step)
        return Loss(value, {"ratio": ratio.detach(), "clip_share": stopped.float()})
