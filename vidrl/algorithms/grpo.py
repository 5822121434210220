"""Group-relative policy optimisation, one clipped ratio a segment of the clip.

With one segment it is Flow-GRPO (arXiv 2505.05470) or DanceGRPO (2505.07818), by the sampler; with a window it is
MixGRPO (2507.21802). Legend: N samples, n (sample, step) pairs, K kept steps, S segments.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import sqrt
from typing import Literal

import torch
from torch import Tensor

from vidrl import credit, transition
from vidrl.backbones.base import Denoiser, rows
from vidrl.credit import MEASURED
from vidrl.influence import WHOLE, Influence
from vidrl.policy import Policy
from vidrl.rewards import Reward, Score
from vidrl.rollout import Plan, Rollout
from vidrl.schedule import divergence_weight, equaliser, shares, stochastic_steps, window_start
from vidrl.segments import Span, frame_spans, pool

from .base import Algorithm, Batch, Loss, clipped


class GRPO(Algorithm):
    """Group-relative advantages and clipped ratios, (N, S).

    ρ_j = exp(log p_j − log p_j,old) with log p_j the mean over segment j's elements; L = mean over pairs and elements
    of −min(ρ_j A_j, clip(ρ_j, 1 ± ε√S) A_j) + β KL. The clip range widens with √S because means over fewer elements do.

    Options: `sampler` and `eta`, `steps` of a rollout, `segments` S (1 is whole-clip), `credit` of segments ("whole",
    "segment", "influence", "gls", "posterior": see `vidrl.credit.advantages`) blended by `alpha` with the whole clip's,
    `influence` a file of `vidrl influence` ("" is the model folder's); `window` of stochastic steps (0 is all that
    `vidrl.schedule.may_draw` noise), moved by `window_schedule` with `window_stride`; `train_steps` drawn of these for
    the update (0 is all), `equalise` to let every step count alike; `updates` optimiser steps a round, `clip_range` ε
    at S = 1, `beta` of the KL to the reference, measured as `kl` says (`vidrl.schedule.divergence_weight`), `scale` of
    advantages with `scale_eps` (`vidrl.estimators.normalise`), `per_part` to weigh the normalised parts of a composite,
    `same_start` for one first noise a group (as DanceGRPO), `max_advantage`. docs/coming_from.md has other trainers'.
    """

    def __init__(
        self, sampler: str = "dance_sde", eta: float = 0.3, steps: int = 10, segments: int = 1, alpha: float = 1.0,
        credit: Literal["whole", "segment", "influence", "gls", "posterior"] = "segment", influence: str = "",
        window: int = 0, window_stride: int = 1, train_steps: int = 0, equalise: bool = False, updates: int = 2,
        window_schedule: Literal["progressive", "random", "decay", "exp_decay"] = "progressive",
        clip_range: float = 1e-3, beta: float = 0.0, kl: Literal["step", "time", "velocity", "mean"] = "step",
        scale: Literal["group", "batch", "none", "unbiased", "global"] = "group", scale_eps: float = 1e-4,
        per_part: bool = False, same_start: bool = False, max_advantage: float = 5.0,
    ):  # fmt: skip
        if sampler == "ode" or eta <= 0:
            raise ValueError(f"expected a stochastic sampler and eta > 0, got {sampler} and {eta}: a policy must draw")
        if min(window, train_steps, beta) < 0 or min(clip_range, max_advantage) <= 0:
            raise ValueError("expected window, train_steps, beta ≥ 0 and clip_range, max_advantage > 0, got "
                             f"{(window, train_steps, beta, clip_range, max_advantage)}")
        if updates < 1 or not 0 <= alpha <= 1:
            raise ValueError(f"expected at least one update a round and alpha in [0, 1], got {updates} and {alpha}")
        if scale in ("unbiased", "global") and segments > 1 and alpha and credit != "whole" or scale_eps < 0:
            raise ValueError("expected scale group, batch or none for credit of segments (unbiased and global are of "
                             f"whole clips), and scale_eps ≥ 0, got {scale} and {scale_eps}")
        self.sampler, self.eta, self.steps, self.segments, self.alpha = sampler, eta, steps, segments, alpha
        self.way, self.influence, self.scale, self.per_part = credit, influence, scale, per_part
        self.window, self.window_stride, self.window_schedule = window, window_stride, window_schedule
        self.train_steps, self.equalise, self.updates = train_steps, equalise, updates
        self.kl, self.scale_eps = kl, scale_eps
        self.clip_range, self.beta, self.same_start, self.max_advantage = clip_range, beta, same_start, max_advantage
        self.measured = credit in MEASURED and segments > 1 and alpha > 0
        self.weights, self.shares = torch.ones(1), torch.ones(1)  # of the kept steps, and of the segments

    def plan(self, backbone: Denoiser, round: int, draw: torch.Generator) -> Plan:
        times = backbone.times(self.steps)
        wide = stochastic_steps(backbone.path, self.sampler, times, self.eta)
        places, stride = max(len(wide) - self.window + 1, 1), self.window_stride
        start = window_start(round, places, stride, self.window_schedule, draw) if self.window else 0
        noisy = wide[start : start + self.window] if self.window else wide
        chosen = torch.randperm(len(noisy), generator=draw)[: self.train_steps or len(noisy)].sort().values
        keep = tuple(noisy[int(i)] for i in chosen)
        plan = Plan(times, self.sampler, self.eta, self.segments, noisy, keep, self.same_start)
        if self.known is None:
            self.known = Influence.find(self.influence, backbone, plan, self.measured)
            if self.known is not None and self.measured:  # steps that it does not tell of show before the first round
                self.known.of(WHOLE, [times[k] for k in wide], self.segments)
        all_ = equaliser(backbone.path, self.sampler, times, wide, self.eta) if self.equalise else torch.ones(len(wide))
        self.weights = all_[[wide.index(k) for k in keep]].float()
        self.shares = shares(backbone.shape[1], self.segments)
        return plan

    def check(self, reward: Reward) -> None:
        if self.per_part and (getattr(reward, "bands", {}) or getattr(reward, "gates", {})):
            held = sorted({*getattr(reward, "bands", {}), *getattr(reward, "gates", {})})
            raise ValueError("expected algorithm.options.per_part = false, because more is not always better of a part "
                             f"with a band or a gate ({', '.join(held)}): set it to false, or take those away")
        if self.measured and self.known:
            self.known.check(getattr(reward, "parts", {}))

    def credit(self, score: Score, group: Tensor, plan: Plan, frame_map: Sequence[Span]) -> Tensor:
        spans, moments = frame_spans(frame_map, plan.segments), None
        if self.known is not None and self.measured:
            moments = self.known.moments(score, [plan.times[k] for k in plan.keep], plan.segments)
        made = credit.advantages(score, group, spans, self.way, self.alpha, self.scale, self.per_part, moments,
                                 eps=self.scale_eps)  # fmt: skip
        return made.clamp(-self.max_advantage, self.max_advantage)

    def minibatches(
        self, rollout: Rollout, advantage: Tensor, index: Tensor, total: int, draw: torch.Generator
    ) -> Iterator[Batch]:
        plan, kept = rollout.plan, len(rollout.plan.keep)
        order = torch.randperm(total * kept, generator=draw)  # of all processes' pairs, so that any split trains alike
        mine = torch.full((total,), -1).index_put((index,), torch.arange(len(index)))
        times = torch.tensor(plan.times, dtype=torch.float64)
        at, axes = torch.tensor(plan.keep), advantage if advantage.dim() == 3 else advantage[:, None]
        counted = axes.expand(-1, kept, -1) * self.weights.to(axes)[:, None] * self.shares.to(axes)  # (N, K, S)
        if len(order) < self.updates:
            raise ValueError(f"expected at least {self.updates} (sample, step) pairs, one an update, got {len(order)}")
        for every in order.tensor_split(self.updates):
            pairs = every[mine[every // kept] >= 0]
            row, k = mine[pairs // kept], pairs % kept
            device = rollout.latents.device
            yield Batch(
                rows(rollout.cond, row.to(device)), rollout.before[row, k], rollout.after[row, k],
                times[at[k]].to(device), times[at[k] + 1].to(device), rollout.log_density[row, k],
                counted[row, k], 1 / len(every), plan,
            )  # fmt: skip

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        step = self.step(policy, batch)
        ratio = (pool(transition.log_density(step, batch.after), batch.plan.segments) - batch.old).exp()
        clip_range = self.clip_range * sqrt(batch.plan.segments)
        value = clipped(ratio, batch.advantage, clip_range).mean()
        if self.beta:
            plan, path = batch.plan, policy.backbone.path
            scale = divergence_weight(path, plan.sampler, batch.t, batch.s, plan.eta, plan.times[1], self.kl)
            value = value + self.beta * self.divergence(policy, batch, step, scale)
        seen = ratio.detach()
        return Loss(value, {"ratio": seen, "clip_share": ((seen - 1).abs() > clip_range).float()})
