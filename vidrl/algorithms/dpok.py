"""DPOK (arXiv 2305.16381) is a policy gradient that a KL to the base model holds back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vidrl.training.policy import Policy

from ._credit import Credited
from ._trajectory import Trajectory
from .base import Batch, Loss


@dataclass(eq=False, kw_only=True)
class DPOK(Credited, Trajectory):
    """DPOK follows the policy gradient with a KL to the reference, with one ratio a segment.

    L = mean of −clip(ρ_j, 1 ± ε√S) A_j + β KL(p, p_ref).

    The clip range binds on both sides, as in the published code: a ratio outside it has no
    gradient, whereas PPO's minimum keeps the gradient of a ratio that went the wrong way. A =
    r − mean of the group is in the reward's own unit, so that the best policy is p_ref
    exp(r/β) up to a constant. The group's mean takes the place of the value network V(x_t,
    t) of the published code. The default `beta` is the published weight of the KL over that
    of the reward, 0.01/10.

    Example:
        >>> DPOK(beta=0.01).scale
        'none'
    """

    beta: float = 1e-3
    updates: int = 5
    clip_range: float = 1e-4
    scale: Literal["group", "batch", "none", "unbiased", "global"] = "none"
    max_advantage: float = float("inf")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.beta:
            raise ValueError(
                "expected beta > 0, because dpok is the policy gradient with a KL to the base "
                "model, got 0: set algorithm.options.beta, or take the algorithm rloo or ddpo, "
                "which need none"
            )

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        step = self.step(policy, batch)
        ratio = self.ratio(step, batch)
        value = -(ratio.clamp(1 - self.clip, 1 + self.clip) * batch["advantage"]).mean()
        detached = ratio.detach()
        metrics = {"ratio": detached, "clip_share": ((detached - 1).abs() > self.clip).float()}
        return Loss(value + self.penalty(policy, batch, step), metrics)
