"""RWR imitates the policy's own clips, good ones more (arXiv 2302.12192, 2305.13301)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vidrl.rewards import Score
from vidrl.training.policy import Policy
from vidrl.training.rollout import Plan

from ._forward import Forward
from .base import Batch, Loss


@dataclass(eq=False, kw_only=True)
class RWR(Forward):
    """RWR (reward-weighted regression) weighs matching errors by the exponential of advantages.

        L = mean of w_j ‖v − target‖²_j + kl_beta ‖v − v_ref‖²
        w_j = exp(β A_j) over its mean in the group

    No weight is negative: a bad clip is imitated less, and never pushed away. A clip that could
    not be scored has weight 0, and so have the clips of a group with fewer than two scored ones.

    Options of the loss: `beta` β, the inverse temperature; `kl_beta`.
    """

    coefficients: ClassVar[tuple[str, ...]] = ("kl_beta",)

    moving: ClassVar[bool] = False

    beta: float = 1.0
    kl_beta: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta <= 0 or self.kl_beta < 0:
            raise ValueError(
                "expected beta > 0, because 0 would ignore the reward, and kl_beta ≥ "
                f"0, got {(self.beta, self.kl_beta)}"
            )

    def advantages(self, score: Score, group: Tensor, prompts: Sequence[str], plan: Plan) -> Tensor:
        """Return weights (N, S) in place of advantages, of mean 1 in each group."""
        advantage = super().advantages(score, group, prompts, plan)
        return weights(advantage, group, score.value.isnan(), self.beta)

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        raw = self.predict(policy, batch)[1]
        error = self.error(policy, batch, raw)
        value = self.mean(batch["advantage"].to(error) * error, batch.plan)
        if self.kl_beta:
            value = value + self.kl_beta * self.penalty(policy, batch, raw)
        return Loss(value, {"error": error.detach().mean(1)})


def weights(advantage: Tensor, group: Tensor, lost: Tensor, beta: float) -> Tensor:
    """Return exp(β A) over its mean in the group, (N, S).

    Samples that are `lost` (N,), and the only scored sample of a group, get 0.

    Example:
        >>> a, lost = torch.tensor([[0.0], [0.6931], [9.0]]), torch.tensor([False, False, True])
        >>> weight = weights(a, torch.zeros(3, dtype=torch.long), lost, 1.0)
        >>> weight.round(decimals=3).flatten()
        tensor([0.6670, 1.3330, 0.0000])
    """
    weight = torch.zeros_like(advantage)
    for number in group.unique():
        scored = (group == number) & ~lost
        if int(scored.sum()) > 1:
            # n · softmax is exp over its mean, without overflow of the exponential
            weight[scored] = (beta * advantage[scored]).softmax(0) * scored.sum()
    return weight
