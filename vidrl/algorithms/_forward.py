"""What forward-process algorithms share: clean samples are noised anew; no trajectory and no density is kept.

Legend: N samples, M noise levels a sample, S segments, n (sample, noise) rows of a minibatch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vidrl.backbones.base import Denoiser
from vidrl.policy import Policy
from vidrl.rewards import Reward
from vidrl.rollout import Plan
from vidrl.schedule import shares
from vidrl.segments import pool

from ._credit import Credited
from .base import Batch, Experience


@dataclass(eq=False, kw_only=True)
class Forward(Credited):
    """Rows are (sample, noise) pairs: clean `x0`, noise `eps`, level `t`, advantage (n, S).

    Options of the rollout: `steps` of the deterministic sampler.

    Options of the update: `noises` M a sample, at levels between `low` and `high`; `updates`, the optimiser steps a
    round; `decay` of the weights "old" at the end of a round (0: they are the last round's).
    """

    steps: int = 10
    noises: int = 4
    updates: int = 2
    low: float = 0.05
    high: float = 0.95
    decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.low < self.high <= 1 or not 0 <= self.decay < 1:
            raise ValueError("expected 0 ≤ low < high ≤ 1 and decay in [0, 1), got "
                             f"{(self.low, self.high, self.decay)}")
        if min(self.steps, self.noises, self.updates) < 1:
            raise ValueError("expected at least one step, one noise a sample and one update a round, got "
                             f"{(self.steps, self.noises, self.updates)}")

    def setup(self, policy: Policy, reward: Reward, group: int) -> None:
        super().setup(policy, reward, group)
        policy.remember("old")

    def after(self, policy: Policy, round: int) -> None:
        policy.remember("old", self.decay)

    def plan(self, backbone: Denoiser, round: int, draw: torch.Generator) -> Plan:
        return Plan(backbone.times(self.steps), "ode", 0.0, self.segments)

    def noise(self, seen: Experience, count: int) -> tuple[Tensor, list[int]]:
        """A level (count · M,) and the seed of a noise for each row, the same in every process.

        The M levels of an item are stratified: each lies in its own M-th of the range.
        """
        draw = seen.draw("levels")
        place = torch.rand(count, self.noises, generator=draw, dtype=torch.float64) + torch.arange(self.noises)
        level = self.low + (self.high - self.low) * place / self.noises
        return level.flatten(), torch.randint(2**62, level.shape, generator=draw).flatten().tolist()

    def drawn(self, seeds: list[int], items: Tensor) -> Tensor:
        """The noise of each item."""
        return self.backbone.noise([torch.Generator().manual_seed(seeds[i]) for i in items.tolist()])

    def minibatches(self, seen: Experience) -> Iterator[Batch]:
        level, seeds = self.noise(seen, len(seen.group))
        counted = seen.advantage * shares(self.backbone.shape[1], self.segments).to(seen.advantage)
        for item, share in seen.cut(torch.arange(len(level)) // self.noises, self.updates):
            sample = item // self.noises
            yield seen.batch(
                sample, share, x0=seen.rollout.latents[seen.here[sample]], eps=self.drawn(seeds, item), t=level[item],
                advantage=counted[sample],
            )  # fmt: skip

    def predict(self, policy: Policy, batch: Batch) -> tuple[Tensor, Tensor]:
        """x_t, and the prediction there."""
        x = policy.backbone.path.noise(batch["x0"], batch["eps"], batch["t"])
        return x, policy.predict(x, batch["t"].to(x), batch.cond)

    def other(self, policy: Policy, batch: Batch, name: str) -> Tensor:
        """The prediction of a named set of weights, without gradient."""
        with torch.no_grad(), policy.using(name):
            return self.predict(policy, batch)[1]

    def error(self, policy: Policy, batch: Batch, raw: Tensor) -> Tensor:
        """The mean squared error of a prediction over each segment, (n, S)."""
        target = policy.backbone.path.target(batch["x0"], batch["eps"], batch["t"])
        return pool((raw - target).square(), batch.plan.segments)

    def divergence(self, policy: Policy, batch: Batch, raw: Tensor | None = None) -> Tensor:
        """The mean squared distance of predictions from the reference's; `raw` where the live one is known already."""
        raw = self.predict(policy, batch)[1] if raw is None else raw
        return (raw - self.other(policy, batch, "reference")).square().mean()
