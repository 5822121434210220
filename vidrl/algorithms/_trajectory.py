"""What algorithms on sampled steps share: the density of a step before and after the update.

Legend: N samples, K kept steps, S segments, n (sample, step) rows of a minibatch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt
from typing import Literal

import torch
from torch import Tensor

from vidrl import transition
from vidrl.backbones.base import Denoiser
from vidrl.policy import Policy
from vidrl.rollout import Plan
from vidrl.schedule import equaliser, shares, stochastic_steps, window_start
from vidrl.segments import pool

from ._credit import Credited
from .base import Batch, Experience


@dataclass(eq=False, kw_only=True)
class Trajectory(Credited):
    """Rows are (sample, step) pairs: x at time t went to `after` at time s with old log-densities `old` (n, S).

    Options of the rollout: `sampler` and `eta`, `steps`; `window` of stochastic steps (0 is all that
    `vidrl.schedule.may_draw` noise), moved by `window_schedule` with `window_stride`; `same_start` for one first noise
    a group.

    Options of the update: `train_steps` drawn of the stochastic steps (0 is all); `equalise` to let every step count
    alike; `updates`, the optimiser steps a round; `clip_range` ε of the ratio at S = 1, which widens with √S because
    means over fewer elements do.
    """

    sampler: str = "dance_sde"
    eta: float = 0.3
    steps: int = 10
    window: int = 0
    window_stride: int = 1
    window_schedule: Literal["progressive", "random", "decay", "exp_decay"] = "progressive"
    train_steps: int = 0
    equalise: bool = False
    updates: int = 2
    clip_range: float = 1e-3
    same_start: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sampler == "ode" or self.eta <= 0:
            raise ValueError(f"expected a stochastic sampler and eta > 0, got {self.sampler} and {self.eta}: a policy "
                             "must draw")
        if min(self.window, self.train_steps) < 0 or self.clip_range <= 0 or self.updates < 1:
            raise ValueError("expected window, train_steps ≥ 0, clip_range > 0 and at least one update a round, got "
                             f"{(self.window, self.train_steps, self.clip_range, self.updates)}")

    def plan(self, backbone: Denoiser, round: int, draw: torch.Generator) -> Plan:
        times = backbone.times(self.steps)
        wide = stochastic_steps(backbone.path, self.sampler, times, self.eta)
        places, stride = max(len(wide) - self.window + 1, 1), self.window_stride
        start = window_start(round, places, stride, self.window_schedule, draw) if self.window else 0
        noisy = wide[start : start + self.window] if self.window else wide
        chosen = torch.randperm(len(noisy), generator=draw)[: self.train_steps or len(noisy)].sort().values
        keep = tuple(noisy[int(i)] for i in chosen)
        return Plan(times, self.sampler, self.eta, self.segments, noisy, keep, self.forks(noisy))

    def forks(self, noisy: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
        """The forks of a group's tree: `same_start` is one, into the whole group, where the noise begins."""
        return ((noisy[0], 0),) if self.same_start else ()

    def step_weights(self, plan: Plan) -> Tensor:
        """How much each kept step counts in the loss, (K,); the mean over all steps that may be drawn is 1."""
        wide = stochastic_steps(self.backbone.path, plan.sampler, plan.times, plan.eta)
        made = torch.ones(len(wide))
        if self.equalise:
            made = equaliser(self.backbone.path, plan.sampler, plan.times, wide, plan.eta).float()
        return made[[wide.index(k) for k in plan.keep]]

    def minibatches(self, seen: Experience) -> Iterator[Batch]:
        rollout, plan, kept = seen.rollout, seen.rollout.plan, len(seen.rollout.plan.keep)
        times, at = torch.tensor(plan.times, dtype=torch.float64), torch.tensor(plan.keep)
        axes = seen.advantage if seen.advantage.dim() == 3 else seen.advantage[:, None]
        size = shares(self.backbone.shape[1], plan.segments)
        counted = axes.expand(-1, kept, -1) * self.step_weights(plan).to(axes)[:, None] * size.to(axes)  # (N, K, S)
        for item, share in seen.cut(torch.arange(len(seen.group) * kept) // kept, self.updates):
            sample, k = item // kept, item % kept
            row = seen.here[sample]
            yield seen.batch(
                sample, share, x=rollout.before[row, k], after=rollout.after[row, k], t=times[at[k]],
                s=times[at[k] + 1], old=rollout.log_density[row, k], advantage=counted[sample, k],
            )  # fmt: skip

    def ratio(self, step: transition.Step, batch: Batch) -> tuple[Tensor, float]:
        """ρ_j = exp(log p_j − log p_j,old), log p_j the mean over segment j's elements, (n, S); and the clip range."""
        density = pool(transition.log_density(step, batch["after"]), batch.plan.segments)
        return (density - batch["old"]).exp(), self.clip_range * sqrt(batch.plan.segments)

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
        """The Gaussian that the policy gives each row."""
        raw = policy.predict(batch["x"], batch["t"].to(batch["x"]), batch.cond)
        return batch.plan.gaussian(policy.backbone, raw, batch["x"], batch["t"], batch["s"])
