"""`Trajectory` is the base of algorithms on sampled steps: steps, ratios, and the KL.

Legend: N samples, K kept steps, S segments, n (sample, step) rows of a minibatch. A step
t → s < t of the policy is the Gaussian N(μ, std²); μ_old is its mean in the rollout.
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
from vidrl.rewards import Reward
from vidrl.training.policy import Policy
from vidrl.training.rollout import Plan

from . import _learned_std
from ._gate import Gated
from .base import Batch, Experience

NOISY = tuple(name for name in transition.SAMPLERS if name != "ode")
AUTO = "auto"  # the sampler is `vidrl.diffusion.schedule.default_sampler` of the backbone's path


@dataclass(eq=False, kw_only=True)
class Trajectory(Gated):
    """An algorithm whose rows are (sample, step) pairs of a noisy sampler.

    A row holds one step of the rollout: the latent `x` at time `t`, the latent `after` at time
    `s` < `t` that the step ended at, and the step's log-densities `old` (n, S).

    Options of the rollout:
    - `sampler` and its noise level `eta`; "auto" is dance_sde on the straight path of flow
      models and ddim on a variance-preserving path.
    - `steps`, the number of denoising steps.
    - `window`, the number of neighbouring steps that draw noise; 0 is all steps that
      `vidrl.diffusion.schedule.may_draw` noise. The window moves over the rounds by
      `window_schedule` and `window_stride` (`vidrl.diffusion.schedule.window_start`).
    - `same_start`: the clips of a group start from one noise.

    Options of the update:
    - `segments` S, each with a ratio of its own.
    - `train_steps`, how many of the stochastic steps are trained in a round; they are drawn
      anew in each round, and 0 is all.
    - `updates`, the optimiser steps a round.
    - `clip_range` ε of the ratio at S = 1. The range of a segment is ε√S: a mean over fewer
      elements varies more.
    - `step_weight`, how much a step counts (`vidrl.diffusion.schedule.step_weights`), or
      `equalise` to let every step count equally.
    - `beta` of the KL to the reference, measured as `kl` says
      (`vidrl.diffusion.schedule.divergence_weight`).

    Published rollouts:

    - Flow-GRPO (arXiv 2505.05470), a step of std η √(t/(1 − t)) √(t − s): `sampler =
      "flow_sde"`, `eta = 0.7`.
    - DanceGRPO (2505.07818), std η √(t − s): `sampler = "dance_sde"`, `same_start = true`.
    - MixGRPO (2507.21802), noise and ratios in a window of steps and the ODE elsewhere:
      `window = 4`.
    - Flash-GRPO (2605.15980), one noisy step a round for all clips, weighted by 1/c with c =
      (∂μ/∂v)/std = √(t − s)/g + g √(t − s) (1 − t)/(2t) and std = g √(t − s): `window = 1`,
      `window_schedule = "random"`, `equalise = true`.
    - TempFlow-GRPO (2508.04324), one noisy step after a start that the group shares, weighted
      by std: `window = 1`, `same_start = true`, `step_weight = "noise"`. The algorithm `branch`
      forks more often.
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

    # The options that put a KL into the loss: `Gated` refuses its own options where all are 0.
    coefficients: ClassVar[tuple[str, ...]] = ("beta",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sampler not in (AUTO, *NOISY) or self.eta <= 0:
            names = ", ".join((*NOISY, AUTO))
            raise ValueError(
                f"expected a stochastic sampler, out of {names}, and eta > 0, "
                f"got {self.sampler!r} and {self.eta}: a step that draws no noise has no "
                "density, so nothing to take the ratio of"
            )
        minimum = {
            "steps": 1,
            "window": 0,
            "window_stride": 1,
            "train_steps": 0,
            "updates": 1,
            "beta": 0,
        }
        low = [name for name, bound in minimum.items() if getattr(self, name) < bound]
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

    def setup(self, policy: Policy, reward: Reward, group: int) -> None:
        super().setup(policy, reward, group)
        _learned_std.check(self, policy.backbone)

    def plan(self, backbone: Denoiser, round: int, draw: torch.Generator) -> Plan:
        times = backbone.times(self.steps)
        sampler = default_sampler(backbone.path) if self.sampler == AUTO else self.sampler
        allowed = stochastic_steps(backbone.path, sampler, times, self.eta)
        _check_at_most("window", self.window, len(allowed), f"of {self.steps} steps may draw noise")
        noisy = allowed
        if self.window:
            places = len(allowed) - self.window + 1
            start = window_start(round, places, self.window_stride, self.window_schedule, draw)
            noisy = allowed[start : start + self.window]
        # the steps of all chunks, in the order in which they are sampled
        forks = self.forks(tuple(k + j * self.steps for j in range(backbone.chunks) for k in noisy))
        # Before the first fork all clips of a group are one clip. Noise drawn there would be the
        # same for the whole group, and its ratio could not say which clip was better. A fork in
        # a later chunk leaves the steps as they are, because all chunks have the same ones.
        if forks and forks[0][0] < self.steps:
            noisy = tuple(k for k in noisy if k >= forks[0][0])
        _check_at_most("train_steps", self.train_steps, len(noisy), "draw noise")
        count = self.train_steps or len(noisy)
        chosen = torch.randperm(len(noisy), generator=draw)[:count].sort().values
        keep = tuple(noisy[int(i)] for i in chosen)
        ends = backbone.path.learned
        return Plan(
            times,
            sampler,
            self.eta,
            self.segments,
            noisy,
            keep,
            forks,
            noisy_end=ends,
            chunks=backbone.chunks,
        )

    def forks(self, noisy: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
        """Return the forks of a group's tree, (step, children); 0 children are the whole group.

        Here, `same_start` is one fork into the whole group, at the first noisy step.
        """
        return ((noisy[0], 0),) if self.same_start else ()

    def step_weights(self, plan: Plan) -> Tensor:
        """Return how much each kept step counts in the loss, (K,).

        The mean over all steps that may be drawn in some round is 1.
        """
        path, kind = self.backbone.path, "rectified" if self.equalise else self.step_weight
        # All steps that any round may draw, and not those of this plan: with a moving window,
        # the weight of a step must not change with the other steps of its window.
        allowed = stochastic_steps(path, plan.sampler, plan.times, plan.eta)
        weights = step_weights(path, plan.sampler, plan.times, allowed, plan.eta, kind)
        return weights[[allowed.index(k) for k in plan.keep]]

    def merge_rows(self, advantage: Tensor, plan: Plan) -> tuple[Tensor, Tensor]:
        """Return advantages (N, K, S), and which (sample, step) rows are trained, (N, K).

        Here, all rows are trained. A subclass may train one row in place of several equal
        ones; its advantage is then their sum.
        """
        return advantage, torch.ones(advantage.shape[:2], dtype=torch.bool)

    def minibatches(self, experience: Experience) -> Iterator[Batch]:
        rollout, plan = experience.rollout, experience.rollout.plan
        kept, step = len(plan.keep), torch.tensor(plan.keep)
        times = torch.tensor(plan.times, dtype=torch.float64)
        advantage = experience.advantage
        advantage = advantage if advantage.dim() == 3 else advantage[:, None]  # (N, K or 1, S)
        merged, trained = self.merge_rows(advantage.expand(-1, kept, -1), plan)
        rows = trained.flatten().nonzero().flatten()
        fractions = segment_fractions(self.backbone.shape[1], plan.segments)
        weights = self.step_weights(plan)[:, None] * fractions  # (K, S)
        # The loss is a mean over the trained rows alone. The factor (trained rows) / (all rows)
        # turns it into the mean over all N · K rows: a row that is not trained is represented by
        # the merged advantage of a trained row.
        weighted = merged * (weights * len(rows) / trained.numel()).to(merged)  # (N, K, S)
        kl_weight = None if bool(trained.all()) else self.merged_kl_weights(experience, trained)
        for item, share in experience.cut(rows // kept, self.updates):
            sample, k = rows[item] // kept, rows[item] % kept
            row = experience.here[sample]
            means = {} if rollout.mean is None else {"mean": rollout.mean[row, k]}
            gated = self.gated(experience, sample)
            if kl_weight is not None:
                gated["kl_weight"] = kl_weight[sample, k]
            yield experience.batch(
                sample,
                share,
                x=rollout.before[row, k],
                after=rollout.after[row, k],
                t=times[step[k]],
                s=times[step[k] + 1],
                old=rollout.log_density[row, k],
                advantage=weighted[sample, k],
                **means,
                **gated,
            )

    def merged_kl_weights(self, experience: Experience, trained: Tensor) -> Tensor:
        """Return the KL's weights (N, K) of merged rows: the sum over the rows that they replace.

        The KL of the loss is the mean over samples and steps, whether rows are merged or not.
        """
        all_samples = torch.arange(len(trained))
        weight = self.gated(experience, all_samples).get("kl_weight", torch.ones(len(trained)))
        rows = weight.cpu().double()[:, None, None].expand(*trained.shape, 1)
        merged = self.merge_rows(rows, experience.rollout.plan)[0][..., 0]
        return merged * (int(trained.sum()) / trained.numel())

    def log_density(self, step: transition.Step, batch: Batch) -> Tensor:
        """Return log p_j of the latent `after` of each row, (n, S), a mean over segment j."""
        return pool(transition.log_density(step, batch["after"]), batch.plan.segments)

    def ratio(self, step: transition.Step, batch: Batch) -> Tensor:
        """Return the ratio ρ_j = exp(log p_j − log p_j,old) of each segment, (n, S)."""
        return (self.log_density(step, batch) - batch["old"]).exp()

    def normalised_ratio(self, step: transition.Step, batch: Batch) -> Tensor:
        """Return GRPO-Guard's ratio exp((log p_j − log p_j,old + D_j) std), (n, S).

        Its logarithm is the mean of (μ − μ_old) ε over segment j, where ε is the noise that was
        drawn. It has mean 0 under the old policy, while log p − log p_old has mean −D, so that
        the clip range is centred (arXiv 2510.22319).
        """
        change = self.log_density(step, batch) - batch["old"] + self.old_divergence(step, batch)
        return (change * step.std.reshape(-1, 1)).exp()

    @staticmethod
    def old_divergence(step: transition.Step, batch: Batch) -> Tensor:
        """Return D_j = (μ − μ_old)²/(2 std²), (n, S), the mean over segment j.

        The plan must keep the means of the rollout (`means`).
        """
        old = transition.Step(batch["mean"], step.std)
        return pool(transition.divergence(step, old), batch.plan.segments)

    @property
    def clip(self) -> float:
        """Return the clip range of a segment's ratio, ε √S."""
        return self.clip_range * sqrt(self.segments)

    def penalty(self, policy: Policy, batch: Batch, step: transition.Step) -> Tensor | float:
        """Return β times the KL to the reference, a scalar with gradient; 0.0 if β is 0.

        With `gate`, the KL is of the samples that it applies to (`Gated`).
        """
        if not self.beta:  # saves a call of the network
            return 0.0
        plan, path = batch.plan, policy.backbone.path
        scale = divergence_weight(
            path, plan.sampler, batch["t"], batch["s"], plan.eta, plan.times[1], self.kl
        )
        weight = scale * batch.data.get("kl_weight", torch.ones_like(scale)).to(scale)
        return self.beta * self.divergence(policy, batch, step, weight, self.anchor)

    def divergence(
        self,
        policy: Policy,
        batch: Batch,
        step: transition.Step | None = None,
        weight: Tensor | None = None,
        name: str = "reference",
    ) -> Tensor:
        """Return the mean KL of the batch's steps to those of a named set of weights.

        Each row's KL is multiplied by its `weight` (n,), if given. `step`, if given, is the
        live policy's, which saves a call of the network.
        """
        with torch.no_grad(), policy.using(name):
            other = self.step(policy, batch)
        kl = transition.divergence(step or self.step(policy, batch), other)
        if weight is not None:
            kl = kl * weight.to(kl).reshape(-1, *[1] * (kl.dim() - 1))
        return kl.mean()

    @staticmethod
    def step(policy: Policy, batch: Batch) -> transition.Step:
        """Return the Gaussian of each row's step under the policy's current weights."""
        raw = policy.predict(batch["x"], batch["t"].to(batch["x"]), batch.cond)
        return batch.plan.gaussian(policy.backbone, raw, batch["x"], batch["t"], batch["s"])


def _check_at_most(name: str, asked: int, available: int, which: str) -> None:
    """Raise ValueError if an option asks for more steps than there are."""
    if asked > available:
        raise ValueError(
            f"expected algorithm.options.{name} of at most {available}, because {available} "
            f"{which}, got {asked}: lower it (0 is all of them), or raise steps"
        )
