"""What an algorithm is: how to sample, who gets the credit, and the loss of a minibatch.

Legend: B samples of this process, N of all processes, K kept steps, S segments, n (sample, step) pairs of a minibatch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vidrl import transition
from vidrl.backbones.base import Cond, Denoiser, rows
from vidrl.influence import Influence
from vidrl.policy import Policy
from vidrl.rewards import Reward, Score
from vidrl.rollout import Plan, Rollout
from vidrl.segments import Span


@dataclass(frozen=True)
class Batch:
    """Pairs of one optimiser step: x at time t went to `after` at time s with old log-densities (n, S)."""

    cond: Cond
    x: Tensor
    after: Tensor
    t: Tensor
    s: Tensor
    old: Tensor
    advantage: Tensor
    share: float  # of the whole optimiser step's pairs over all processes, one pair's
    plan: Plan

    def __len__(self) -> int:
        return len(self.x)

    def split(self, size: int) -> list[Batch]:
        """Micro-batches of at most `size` pairs."""
        return [self._part(slice(a, a + size)) for a in range(0, len(self), size)]

    def _part(self, part: slice) -> Batch:
        x, after, t, s = (value[part] for value in (self.x, self.after, self.t, self.s))
        return Batch(rows(self.cond, part), x, after, t, s, self.old[part], self.advantage[part], self.share, self.plan)


@dataclass(frozen=True)
class Loss:
    """A scalar to minimise, the mean over the batch's pairs, and detached means to log."""

    value: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)


def clipped(ratio: Tensor, advantage: Tensor, clip_range: float) -> Tensor:
    """PPO's pessimistic objective, negated: −min(ρA, clip(ρ, 1 ± ε) A), elementwise (arXiv 1707.06347).

    Example:
        >>> clipped(torch.tensor([1.5, 0.5]), torch.tensor([1.0, 1.0]), 0.2)
        tensor([-1.2000, -0.5000])
    """
    if advantage.dim() and ratio.shape != advantage.shape:
        raise ValueError(f"expected advantages of the ratios' shape {tuple(ratio.shape)}, got "
                         f"{tuple(advantage.shape)}: one a segment; advantage[:, None].expand_as(ratio) for whole-clip "
                         "credit")
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip_range, 1 + clip_range) * advantage)


class Algorithm(ABC):
    """Base of every algorithm; constructor arguments are its options."""

    known: Influence | None = None  # what it knows of how far noise moves the reward; the report draws it

    @abstractmethod
    def plan(self, backbone: Denoiser, round: int, draw: torch.Generator) -> Plan:
        """How to sample this round; `draw` is seeded by the run's seed and the round."""

    def check(self, reward: Reward) -> None:  # noqa: B027  most can credit any reward
        """Raise ValueError, before any work, for a reward that cannot be credited as asked. Called after `plan`."""

    @abstractmethod
    def credit(self, score: Score, group: Tensor, plan: Plan, frame_map: Sequence[Span]) -> Tensor:
        """Advantages (N, S) of all processes' samples from their scores; `group` (N,) numbers the prompts."""

    @abstractmethod
    def minibatches(
        self, rollout: Rollout, advantage: Tensor, index: Tensor, total: int, draw: torch.Generator
    ) -> Iterator[Batch]:
        """One batch an optimiser step; this process's samples are the `index` (B,) of `total`."""

    @abstractmethod
    def loss(self, policy: Policy, batch: Batch) -> Loss:
        """The loss of a micro-batch."""

    def divergence(
        self, policy: Policy, batch: Batch, step: transition.Step | None = None, weight: Tensor | None = None
    ) -> Tensor:  # fmt: skip
        """Mean KL of the batch's steps to the reference's, each times its `weight` (n,).

        `step` where the live policy's is known already.
        """
        with torch.no_grad(), policy.using("reference"):
            other = self.step(policy, batch)
        each = transition.divergence(step or self.step(policy, batch), other)
        return (each if weight is None else each * weight.to(each).reshape(-1, *[1] * (each.dim() - 1))).mean()

    @staticmethod
    def step(policy: Policy, batch: Batch) -> transition.Step:
        """The Gaussian that the policy gives each pair."""
        raw = policy.predict(batch.x, batch.t.to(batch.x), batch.cond)
        return batch.plan.gaussian(policy.backbone, raw, batch.x, batch.t, batch.s)
