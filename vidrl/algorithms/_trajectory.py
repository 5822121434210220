"""What algorithms on sampled steps share: the steps, the ratio of their densities, the KL
to the reference.

Legend: N samples, K kept steps, S segments, n (sample, step) rows of a minibatch. A step t
→ s < t of the policy is the Gaussian N(μ, std²); μ_old is its mean in the rollout.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt
from typing import ClassVar, Literal

import torch
from torch import Tensor

from vidrl.backbones.base import Denoiser
from vidrl.diffusion import transition
from vidrl.diffusion.schedule import (
    default_sampler,
    divergence_weight,
    segment_fractions,
    step_weights,
    stochastic_steps,
    window_start,
)
from vidrl.diffusion.segments import pool
from vidrl.training.policy import Policy
from vidrl.training.rollout import Plan

from ._gate import Gated
from .base import Batch, Experience

NOISY = tuple(name for name in transition.SAMPLERS if name != "ode")
AUTO = "auto"  # as a sampler: that of `vidrl.diffusion.schedule.default_sampler` for the backbone's path


@dataclass(eq=False, kw_only=True)
class Trajectory(Gated):
    """Rows are (sample, step) pairs: x at time t went to `after` at time s with old
    log-densities `old` (n, S).

    Options of the rollout: `sampler` and its noise level `eta`, where "auto" is dance_sde
    on the straight path of flow models and ddim on a variance-preserving one; `steps`;
    `window` of stochastic steps (0 is all that `vidrl.diffusion.schedule.may_draw` noise),
    moved by `window_schedule` with `window_stride`; `same_start` for one first noise a
    group.

    Published rollouts: Flow-GRPO (arXiv 2505.05470), a step of std η √(t/(1 − t)) √(t − s),
    is `sampler = "flow_sde"`, `eta = 0.7`. DanceGRPO (2505.07818), std η √(t − s), is
    `sampler = "dance_sde"`, `same_start = true`. MixGRPO (2507.21802), noise and ratios in
    a window of steps and the ODE elsewhere, is `window = 4`. Flash-GRPO (2605.15980), one
    noisy step a round for all clips, weighted by 1/c with c = (∂μ/∂v)/std = √(t − s)/g + g
    √(t − s) (1 − t)/(2t) and std = g √(t − s), is `window = 1`, `window_schedule =
    "random"`, `equalise = true`. TempFlow-GRPO (2508.04324), one noisy step after a start
    that the group segment_fractions, weighted by std, is `window = 1`, `same_start = true`,
    `step_weight = "noise"`; the algorithm `branch` forks more often.

    Options of the update: `segments` S, each with a ratio of its own; `train_steps` drawn
    of the stochastic steps (0 is all); `updates`, the optimiser steps a round; `clip_range`
    ε of the ratio at S = 1, which widens with √S because means over fewer elements do;
    `step_weight`, how much a step counts (`vidrl.diffusion.schedule.step_weights`), or
    `equalise` to let every step count alike; `beta` of the KL to the reference, measured as
    `kl` says (`vidrl.diffusion.schedule.divergence_weight`).
    """

    sampler: str = AUTO
    eta: float = 0.3
    steps: int = 10
    segments: int = 1
    window: int = 0
    window_stride: int = 1
    window_schedule: Literal["progressive", "random", "decay", "exp_decay"] = "progressive"
    same_start: bool = False
    train_steps: int = 0
    equalise: bool = False
    step_weight: Literal["uniform", "noise", "inverse_length"] = "uniform"
    updates: int = 2
    clip_range: float = 1e-3
    beta: float = 0.0
    kl: Literal["step", "time", "velocity", "mean"] = "step"

    coefficients: ClassVar[tuple[str, ...]] = ("beta",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sampler not in (AUTO, *NOISY) or self.eta <= 0:
            known = ", ".join((*NOISY, AUTO))
            raise ValueError(
                f"expected a stochastic sampler, out of {known}, and eta > 0, "
                f"got {self.sampler!r} and {self.eta}: a step that draws no noise has no "
                "density, so nothing to take the ratio of"
            )
        least = {
            "steps": 1,
            "window": 0,
            "window_stride": 1,
            "train_steps": 0,
            "updates": 1,
            "beta": 0,
        }
        low = [name for name, bound in least.items() if getattr(self, name) < bound]
        if low or self.clip_range <= 0:
            got = ", ".join(f"{name} = {getattr(self, name)}" for name in low or ["clip_range"])
            raise ValueError(
                "expected window, train_steps, beta ≥ 0, clip_range > 0, and at least one "
                f"update a round, one step, and a window_stride of 1, got {got}"
            )
        if not self.window and (self.window_stride, self.window_schedule) != (1, "progressive"):
            raise ValueError(
                "expected window > 0 with a window_stride or a window_schedule, got window = 0, "
                "with which all steps draw noise and no window moves: set window, or leave them out"
            )
        if self.equalise and self.step_weight != "uniform":
            raise ValueError(
                "expected equalise or step_weight, got equalise = true and step_weight = "
                f"{self.step_weight!r}: both say how much a step counts, so leave one out"
            )
        if self.kl != "step" and not self.beta:
            raise ValueError(
                f"expected beta > 0 with kl = {self.kl!r}, got beta = 0, with which the "
                "loss has no KL: set beta, or leave kl out"
            )

    def plan(self, backbone: Denoiser, round: int, draw: torch.Generator) -> Plan:
        times = backbone.times(self.steps)
        sampler = default_sampler(backbone.path) if self.sampler == AUTO else self.sampler
        wide = stochastic_steps(backbone.path, sampler, times, self.eta)
        _fits("window", self.window, len(wide), f"of {self.steps} steps may draw noise")
        places, stride = len(wide) - self.window + 1, self.window_stride
        start = (
            window_start(round, places, stride, self.window_schedule, draw) if self.window else 0
        )
        noisy = wide[start : start + self.window] if self.window else wide
        forks = self.forks(noisy)
        # what a step before the first fork draws is alike for the whole group, so it draws
        # nothing
        if forks:
            noisy = tuple(k for k in noisy if k >= forks[0][0])
        _fits("train_steps", self.train_steps, len(noisy), "draw noise")
        chosen = (
            torch.randperm(len(noisy), generator=draw)[: self.train_steps or len(noisy)]
            .sort()
            .values
        )
        keep = tuple(noisy[int(i)] for i in chosen)
        return Plan(times, sampler, self.eta, self.segments, noisy, keep, forks)

    def forks(self, noisy: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
        """The forks of a group's tree: `same_start` is one, into the whole group, where the
        noise begins."""
        return ((noisy[0], 0),) if self.same_start else ()

    def step_weights(self, plan: Plan) -> Tensor:
        """How much each kept step counts in the loss, (K,); the mean over all steps that
        may be drawn is 1."""
        path, kind = self.backbone.path, "rectified" if self.equalise else self.step_weight
        wide = stochastic_steps(path, plan.sampler, plan.times, plan.eta)
        made = step_weights(path, plan.sampler, plan.times, wide, plan.eta, kind)
        return made[[wide.index(k) for k in plan.keep]]

    def merged(self, advantage: Tensor, plan: Plan) -> tuple[Tensor, Tensor]:
        """Advantages (N, K, S), and which (sample, step) rows are trained, (N, K): here,
        all of them.

        Where a row stands for several equal ones, its advantage is their sum.
        """
        return advantage, torch.ones(advantage.shape[:2], dtype=torch.bool)

    def minibatches(self, seen: Experience) -> Iterator[Batch]:
        rollout, plan, kept = seen.rollout, seen.rollout.plan, len(seen.rollout.plan.keep)
        times, at = torch.tensor(plan.times, dtype=torch.float64), torch.tensor(plan.keep)
        axes = seen.advantage if seen.advantage.dim() == 3 else seen.advantage[:, None]
        merged, trained = self.merged(axes.expand(-1, kept, -1), plan)
        rows = trained.flatten().nonzero().flatten()
        counts = self.step_weights(plan)[:, None] * segment_fractions(
            self.backbone.shape[1], plan.segments
        )
        counted = merged * (counts * len(rows) / trained.numel()).to(merged)  # (N, K, S)
        owned = None if bool(trained.all()) else self.owned(seen, trained)
        for item, share in seen.cut(rows // kept, self.updates):
            sample, k = rows[item] // kept, rows[item] % kept
            row = seen.here[sample]
            means = {} if rollout.mean is None else {"mean": rollout.mean[row, k]}
            gated = self.gated(seen, sample) | ({} if owned is None else {"held": owned[sample, k]})
            yield seen.batch(
                sample,
                share,
                x=rollout.before[row, k],
                after=rollout.after[row, k],
                t=times[at[k]],
                s=times[at[k] + 1],
                old=rollout.log_density[row, k],
                advantage=counted[sample, k],
                **means,
                **gated,
            )

    def owned(self, seen: Experience, trained: Tensor) -> Tensor:
        """The KL's weights (N, K) of rows that stand for several: those of all the samples
        whose row it is.

        The KL of the loss is the mean over samples and steps, whether their rows are merged
        or not.
        """
        each = self.gated(seen, torch.arange(len(trained))).get("held", torch.ones(len(trained)))
        mine = each.cpu().double()[:, None, None].expand(*trained.shape, 1)
        return self.merged(mine, seen.rollout.plan)[0][..., 0] * (
            int(trained.sum()) / trained.numel()
        )

    def log_density(self, step: transition.Step, batch: Batch) -> Tensor:
        """log p_j of each row's end, (n, S): the mean over the elements of segment j."""
        return pool(transition.log_density(step, batch["after"]), batch.plan.segments)

    def ratio(self, step: transition.Step, batch: Batch) -> Tensor:
        """ρ_j = exp(log p_j − log p_j,old), (n, S)."""
        return (self.log_density(step, batch) - batch["old"]).exp()

    def normalised(self, step: transition.Step, batch: Batch) -> Tensor:
        """GRPO-Guard's ratio exp((log p_j − log p_j,old + D_j) std), (n, S) (arXiv
        2510.22319).

        Its logarithm is the mean of (μ − μ_old) ε over segment j, with ε the noise that was
        drawn: of mean 0 under the old policy, where log p − log p_old has mean −D.
        """
        change = self.log_density(step, batch) - batch["old"] + self.away(step, batch)
        return (change * step.std.reshape(-1, 1)).exp()

    @staticmethod
    def away(step: transition.Step, batch: Batch) -> Tensor:
        """D_j = (μ − μ_old)²/(2 std²), (n, S), the mean over segment j; needs a plan that
        keeps means."""
        old = transition.Step(batch["mean"], step.std)
        return pool(transition.divergence(step, old), batch.plan.segments)

    @property
    def clip(self) -> float:
        """The clip range of a segment's ratio, ε √S."""
        return self.clip_range * sqrt(self.segments)

    def penalty(self, policy: Policy, batch: Batch, step: transition.Step) -> Tensor | float:
        """β KL to the reference, of the samples that it holds, a scalar with gradient; 0
        where β is."""
        if not self.beta:
            return 0.0
        plan, t, s = batch.plan, batch["t"], batch["s"]
        scale = divergence_weight(
            policy.backbone.path, plan.sampler, t, s, plan.eta, plan.times[1], self.kl
        )
        weight = scale * batch.data.get("held", torch.ones_like(scale)).to(scale)
        return self.beta * self.divergence(policy, batch, step, weight, self.anchor)

    def divergence(
        self,
        policy: Policy,
        batch: Batch,
        step: transition.Step | None = None,
        weight: Tensor | None = None,
        name: str = "reference",
    ) -> Tensor:
        """Mean KL of the batch's steps to those of a named set of weights, each times its
        `weight` (n,).

        `step` where the live policy's is known already.
        """
        with torch.no_grad(), policy.using(name):
            other = self.step(policy, batch)
        each = transition.divergence(step or self.step(policy, batch), other)
        return (
            each if weight is None else each * weight.to(each).reshape(-1, *[1] * (each.dim() - 1))
        ).mean()

    @staticmethod
    def step(policy: Policy, batch: Batch) -> transition.Step:
        """The Gaussian that the policy gives each row."""
        raw = policy.predict(batch["x"], batch["t"].to(batch["x"]), batch.cond)
        return batch.plan.gaussian(policy.backbone, raw, batch["x"], batch["t"], batch["s"])


def _fits(name: str, asked: int, there: int, which: str) -> None:
    """Raise ValueError where an option asks for more steps than there are."""
    if asked > there:
        raise ValueError(
            f"expected algorithm.options.{name} of at most {there}, because {there} {which}, got {asked}: "
            f"lower it (0 is all of them), or raise steps"
        )
