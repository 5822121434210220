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
from vidrl.policy import Policy
from vidrl.rewards import Score
from vidrl.rollout import Plan, Rollout
from vidrl.segments import Span, frame_spans, pool

from .base import Algorithm, Batch, Loss


def clipped(ratio: Tensor, advantage: Tensor, clip_range: float) -> Tensor:
    """PPO's pessimistic objective, negated: −min(ρA, clip(ρ, 1 ± ε) A), elementwise (arXiv 1707.06347).

    Example:
        >>> clipped(torch.tensor([1.5, 0.5]), torch.tensor([1.0, 1.0]), 0.2)
        tensor([-1.2000, -0.5000])
    """
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip_range, 1 + clip_range) * advantage)


def stochastic_steps(times: Sequence[float], window: int, start: int, min_width: float) -> tuple[int, ...]:
    """Steps that may draw noise: within the window [start, start + window), not the last, and not shorter than a width.

    Example:
        >>> stochastic_steps([1.0, 0.6, 0.3, 0.0], window=0, start=0, min_width=0.01)
        (0, 1)
    """
    widths = [t - s for t, s in zip(times[:-1], times[1:], strict=True)]
    wide = [k for k, width in enumerate(widths[:-1]) if width >= min_width]
    return tuple(k for k in wide if start <= k < start + window) if window else tuple(wide)


class GRPO(Algorithm):
    """Group-relative advantages and clipped ratios, (N, S).

    ρ_j = exp(log p_j − log p_j,old) with log p_j the mean over segment j's elements; L = mean over pairs and segments
    of −min(ρ_j A_j, clip(ρ_j, 1 ± ε√S) A_j) + β KL. The clip range widens with √S because means over fewer elements do.

    Options: `sampler` and `eta`, `steps` of a rollout, `segments` S (1 is whole-clip), `alpha` of segment credit (0 is
    whole-clip credit), `window` of stochastic steps (0 is all; `window_stride` rounds at each place), `min_width` of a
    stochastic step, `train_steps` drawn of the stochastic ones for the update (0 is all), `updates` optimiser steps a
    round, `clip_range` ε at S = 1, `beta` of the KL to the reference, `scale` of advantages ("group", "batch", "none"),
    `per_part` to normalise each part of a composite before weighting, `same_start` for one first noise a group (as
    DanceGRPO), `max_advantage`.
    """

    def __init__(
        self, sampler: str = "dance_sde", eta: float = 0.3, steps: int = 10, segments: int = 1, alpha: float = 0.5,
        window: int = 0, window_stride: int = 1, min_width: float = 0.01, train_steps: int = 0, updates: int = 2,
        clip_range: float = 1e-3, beta: float = 0.0, scale: Literal["group", "batch", "none"] = "group",
        per_part: bool = False, same_start: bool = False, max_advantage: float = 5.0,
    ):  # fmt: skip
        if sampler == "ode" or eta <= 0:
            raise ValueError(f"expected a stochastic sampler and eta > 0, got {sampler} and {eta}: a policy must draw")
        if updates < 1:
            raise ValueError(f"expected at least one update a round, got {updates}")
        if not 0 <= alpha <= 1:
            raise ValueError(f"expected alpha in [0, 1], got {alpha}")
        self.sampler, self.eta, self.steps, self.segments, self.alpha = sampler, eta, steps, segments, alpha
        self.window, self.window_stride, self.min_width = window, window_stride, min_width
        self.train_steps, self.updates, self.clip_range, self.beta = train_steps, updates, clip_range, beta
        self.scale, self.per_part, self.same_start, self.max_advantage = scale, per_part, same_start, max_advantage

    def plan(self, backbone: Denoiser, round: int, draw: torch.Generator) -> Plan:
        times = backbone.times(self.steps)
        places = max(len(times) - 1 - self.window, 1)
        start = round // self.window_stride % places if self.window else 0
        noisy = stochastic_steps(times, self.window, start, self.min_width)
        if not noisy:
            cure = f"raise steps, or lower min_width ({self.min_width})"
            raise ValueError(f"expected a stochastic step, got none of {self.steps}: {cure}")
        chosen = torch.randperm(len(noisy), generator=draw)[: self.train_steps or len(noisy)].sort().values
        keep = tuple(noisy[int(i)] for i in chosen)
        return Plan(times, self.sampler, self.eta, self.segments, noisy, keep, self.same_start)

    def credit(self, score: Score, group: Tensor, plan: Plan, frame_map: Sequence[Span]) -> Tensor:
        parts = list(score.parts.items()) if self.per_part and score.weights else [("", score)]
        weights = torch.tensor([score.weights.get(name, 1.0) for name, _ in parts]).to(score.value)
        spans, missing = frame_spans(frame_map, plan.segments), score.value.isnan()
        made = torch.stack([self._advantage(part, missing, group, spans) for _, part in parts])
        total = torch.einsum("p,pns->ns", weights / weights.sum(), made)
        return total.clamp(-self.max_advantage, self.max_advantage)

    def _advantage(self, score: Score, missing: Tensor, group: Tensor, spans: list[Span]) -> Tensor:
        """(1 − α) A + α a_j for one score; a sample that is missing, or has no value, gets none, whatever its curve."""
        value = score.value.masked_fill(missing, torch.nan)
        local = credit.by_segment(value, score.frames, score.support, spans)
        local = local.masked_fill(value.isnan()[:, None], torch.nan)
        whole = credit.normalise(value, group, self.scale)
        return credit.blend(whole, credit.normalise(local, group, self.scale), self.alpha)

    def minibatches(
        self, rollout: Rollout, advantage: Tensor, index: Tensor, total: int, draw: torch.Generator
    ) -> Iterator[Batch]:
        plan, kept = rollout.plan, len(rollout.plan.keep)
        order = torch.randperm(total * kept, generator=draw)  # of all processes' pairs, so that any split trains alike
        mine = torch.full((total,), -1).index_put((index,), torch.arange(len(index)))
        times = torch.tensor(plan.times, dtype=torch.float64)
        at = torch.tensor(plan.keep)
        if len(order) < self.updates:
            raise ValueError(f"expected at least {self.updates} (sample, step) pairs, one an update, got {len(order)}")
        for every in order.tensor_split(self.updates):
            pairs = every[mine[every // kept] >= 0]
            row, k = mine[pairs // kept], pairs % kept
            device = rollout.latents.device
            yield Batch(
                rows(rollout.cond, row.to(device)), rollout.before[row, k], rollout.after[row, k],
                times[at[k]].to(device), times[at[k] + 1].to(device), rollout.log_density[row, k],
                advantage[row], 1 / len(every), plan,
            )  # fmt: skip

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        step = self.step(policy, batch)
        ratio = (pool(transition.log_density(step, batch.after), batch.plan.segments) - batch.old).exp()
        clip_range = self.clip_range * sqrt(batch.plan.segments)
        value = clipped(ratio, batch.advantage, clip_range).mean()
        if self.beta:
            value = value + self.beta * self.divergence(policy, batch, step)
        seen = ratio.detach()
        return Loss(value, {"ratio": seen, "clip_share": ((seen - 1).abs() > clip_range).float()})
