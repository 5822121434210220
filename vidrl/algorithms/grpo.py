"""Group-relative policy optimisation, one clipped ratio a segment of the clip, and its variants.

Legend: ρ ratio, A advantage, ε clip range; μ and std are those of a step t → s; j numbers segments.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vidrl import transition
from vidrl.backbones.base import Denoiser
from vidrl.policy import Policy
from vidrl.rollout import Plan
from vidrl.segments import pool

from ._credit import Credited
from ._trajectory import Trajectory
from .base import Batch, Loss, clipped


@dataclass(eq=False, kw_only=True)
class GRPO(Credited, Trajectory):
    """Group-relative advantages and clipped ratios, one a segment.

    L = mean over rows and segments of −min(ρ_j A_j, clip(ρ_j, 1 ± ε√S) A_j) + β KL, with
    ρ_j = exp(log p_j − log p_j,old). The published variants are sets of options:

    - Flow-GRPO (arXiv 2505.05470), a step of std η √(t/(1 − t)) √(t − s): `sampler = "flow_sde"`,
      `eta = 0.7`.
    - DanceGRPO (2505.07818), a step of std η √(t − s): `sampler = "dance_sde"`, `same_start = true`.
    - Dr. GRPO (2503.20783), A = r − mean of the group: `scale = "none"`.
    - MixGRPO (2507.21802), noise and ratios in a window of steps, the ODE elsewhere: `window = 4`.
    - Flash-GRPO, one noisy step a round for all clips, weighted by 1/c with
      c = (∂μ/∂v)/std = √(t − s)/g + g √(t − s) (1 − t)/(2t), where std = g √(t − s): `window = 1`,
      `window_schedule = "random"`, `equalise = true`.
    - TempFlow-GRPO (2508.04324), one noisy step after a start that the group shares, weighted by
      std: `window = 1`, `same_start = true`, `step_weight = "noise"`; `branch` forks more often.
    - GRPO-Guard (2510.22319), ρ = exp((log p − log p_old + D) std), whose logarithm has mean 0 under
      the old policy, with steps weighted by 1/(t − s): `ratio_norm = true`,
      `step_weight = "inverse_length"`.
    - Flow-DPPO (2606.11025), −ρA without a clip, and 0 where D > δ and (ρ − 1) A > 0:
      `max_divergence = 1e-5`.

    D is the mean of (μ − μ_old)²/(2 std²). Weights of steps have mean 1 over all steps that some
    round may draw; the published code has other constants (2.25 std; 1/(t − s) itself).
    docs/coming_from.md has the settings of other trainers.

    Options of the loss: `ratio_norm` for GRPO-Guard's ratio; `max_divergence`, the δ of Flow-DPPO,
    which takes the place of the clip range (0 clips).

    Example:
        >>> GRPO(sampler="flow_sde", eta=0.7, window=4).window_schedule
        'progressive'
    """

    ratio_norm: bool = False
    max_divergence: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.max_divergence < float("inf"):
            raise ValueError(f"expected max_divergence ≥ 0, got {self.max_divergence}: 0 clips the "
                             "ratio instead")
        if self.ratio_norm and self.max_divergence:
            raise ValueError("expected ratio_norm or max_divergence, got both: the one mends the ratio "
                             "that is clipped, the other clips none, so leave one of them out")

    def plan(self, backbone: Denoiser, round: int, draw: torch.Generator) -> Plan:
        plan = super().plan(backbone, round, draw)
        return replace(plan, means=self.ratio_norm or self.max_divergence > 0)

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        step, a = self.step(policy, batch), batch["advantage"]
        ratio = self.normalised(step, batch) if self.ratio_norm else self.ratio(step, batch)
        if self.max_divergence:
            stopped = (self.away(step, batch) > self.max_divergence) & ((ratio - 1) * a > 0)
            each = -(ratio * a).masked_fill(stopped, 0.0)
        else:
            stopped = (ratio.detach() - 1).abs() > self.clip
            each = clipped(ratio, a, self.clip)
        value = each.mean() + self.penalty(policy, batch, step)
        return Loss(value, {"ratio": ratio.detach(), "clip_share": stopped.float()})

    @staticmethod
    def away(step: transition.Step, batch: Batch) -> Tensor:
        """D_j of each row, (n, S): the divergence from the policy of the rollout."""
        old = transition.Step(batch["mean"], step.std)
        return pool(transition.divergence(step, old), batch.plan.segments)

    def normalised(self, step: transition.Step, batch: Batch) -> Tensor:
        """GRPO-Guard's ratio, exp((log p_j − log p_j,old + D_j) std), (n, S)."""
        change = self.log_density(step, batch) - batch["old"] + self.away(step, batch)
        return (change * step.std.reshape(-1, 1)).exp()
