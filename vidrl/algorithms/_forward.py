"""What forward-process algorithms share: clean samples are noised anew, and no trajectory
is kept.

Legend: N samples of all processes, M noises of a sample, S segments, n rows of a minibatch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from vidrl.backbones.base import Denoiser
from vidrl.diffusion.schedule import segment_fractions
from vidrl.diffusion.segments import pool
from vidrl.rewards import Reward
from vidrl.training.policy import Policy
from vidrl.training.rollout import Plan

from ._credit import Credited
from ._gate import Gated
from ._levels import levels, stratified
from .base import Batch, Experience


@dataclass(eq=False, kw_only=True)
class Forward(Credited, Gated):
    """Rows are (sample, noise) pairs: clean `x0`, noise `eps`, level `t`, `advantage` (n,
    S).

    Options of the rollout: `steps` of the deterministic sampler; `sample_from`, the weights
    that sample: the "live" ones, the "old" ones, or the "ema" that `train.ema` keeps.

    Options of the update: `noises` M of a sample, at levels t from `low` to `high`;
    `levels` are "uniform", "discrete" (the sampler's own times) or "logit_normal";
    `same_noise` gives the samples of a group the same noises and levels; `updates`, the
    optimiser steps a round. At a round's end the weights "old" become decay · old + (1 −
    decay) · live. `decay_type` 0 is a constant `decay`; decay = 0 makes "old" the weights
    with which each round begins. 1 and 2 are the schedules of DiffusionNFT (`old_decay`).
    """

    moving: ClassVar[bool] = True  # whether the loss reads the weights "old"

    steps: int = 10
    sample_from: Literal["live", "old", "ema"] = "live"
    noises: int = 4
    levels: Literal["uniform", "discrete", "logit_normal"] = "uniform"
    low: float = 0.05
    high: float = 0.95
    same_noise: bool = False
    updates: int = 2
    decay: float = 0.0
    decay_type: Literal[0, 1, 2] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        counts, ends = (self.steps, self.noises, self.updates), (self.low, self.high)
        if min(counts) < 1 or not 0 < self.low < self.high <= 1:
            raise ValueError(
                "expected steps, noises, updates ≥ 1 and 0 < low < high ≤ 1, where "
                f"level 1 is pure noise, got {counts} and {ends}"
            )
        if not 0 <= self.decay < 1 or (self.decay and self.decay_type):
            raise ValueError(
                "expected decay in [0, 1), and decay = 0 with decay_type 1 or 2, which "
                f"have their own schedule, got {self.decay} and {self.decay_type}"
            )
        if self.reads_influence:
            raise ValueError(
                'expected credit = "segment" or "whole" of an algorithm that '
                f'samples without noise, got "{self.credit}": a measured influence '
                "tells of the noise that the steps of a rollout draw"
            )
        if not self.moving and (self.decay or self.decay_type or self.sample_from == "old"):
            raise ValueError(
                'expected decay = 0, decay_type = 0 and sample_from = "live" or '
                f'"ema", because {type(self).__name__} keeps no old weights'
            )

    def unread(self, reward: Reward, pairs: bool) -> dict[str, str]:
        mine = ["sample_from", *(["steps"] if self.levels != "discrete" else [])] if pairs else []
        none = dict.fromkeys(mine, "the clips are those of data.pairs, and nothing is sampled")
        return super().unread(reward, pairs) | none

    def setup(self, policy: Policy, reward: Reward, group: int) -> None:
        super().setup(policy, reward, group)
        if self.sample_from == "ema" and "ema" not in policy.sets:
            raise ValueError(
                'expected train.ema > 0 for algorithm.options.sample_from = "ema", '
                'got 0: set train.ema, as 0.9, or sample from "live" or "old"'
            )
        times = self.backbone.times(self.steps)
        levels(torch.zeros(1), self.levels, self.low, self.high, times)  # raises if there is none
        if self.moving:
            policy.remember("old")

    def after(self, policy: Policy, round: int) -> None:
        super().after(policy, round)
        if self.moving:
            steps = (round + 1) * self.updates
            policy.remember("old", old_decay(steps, self.decay_type, self.decay))

    def plan(self, backbone: Denoiser, round: int, draw: torch.Generator) -> Plan:
        times = backbone.times(self.steps)
        return Plan(times, "ode", 0.0, self.segments, weights=self.sample_from)

    def noise(self, seen: Experience, items: int) -> tuple[Tensor, list[int]]:
        """The level and the seed of each noise of each item, (items · M,), for every
        process."""
        draw, times = seen.draw("levels"), seen.rollout.plan.times
        u = stratified(items, self.noises, draw)
        level = levels(u, self.levels, self.low, self.high, times).flatten()
        return level, torch.randint(2**62, level.shape, generator=draw).tolist()

    def drawn(self, seeds: list[int], noises: Tensor) -> Tensor:
        """These noises, each drawn from its seed."""
        made = [torch.Generator().manual_seed(seeds[i]) for i in noises.tolist()]
        return self.backbone.noise(made)

    def minibatches(self, seen: Experience) -> Iterator[Batch]:
        count, times = len(seen.group), self.noises
        owner = seen.group if self.same_noise else torch.arange(count)  # whose noises a sample gets
        level, seeds = self.noise(seen, int(owner.max()) + 1)
        for row, share in seen.cut(torch.arange(count * times) // times, self.updates):
            sample = row // times
            at = owner[sample] * times + row % times
            x0 = seen.rollout.latents[seen.here[sample]]
            yield seen.batch(
                sample,
                share,
                x0=x0,
                eps=self.drawn(seeds, at),
                t=level[at],
                advantage=seen.advantage[sample],
                **self.gated(seen, sample),
            )

    def predict(self, policy: Policy, batch: Batch) -> tuple[Tensor, Tensor]:
        """x_t, and the prediction there."""
        x = policy.backbone.path.noise(batch["x0"], batch["eps"], batch["t"])
        return x, policy.predict(x, batch["t"].to(x), batch.cond)

    def other(self, policy: Policy, batch: Batch, name: str, live: Tensor | None = None) -> Tensor:
        """The prediction of a named set of weights, without gradient.

        `live` is the prediction of the live weights, where it is known. If both sets hold
        the same numbers, the network then does not run again: so it is with "old" at the
        first update of a round, and with the reference at the first update of a run.
        """
        if live is not None and equal(policy, name):
            return live.detach()
        with torch.no_grad(), policy.using(name):
            return self.predict(policy, batch)[1]

    def error(self, policy: Policy, batch: Batch, raw: Tensor) -> Tensor:
        """The mean squared error of a prediction over each segment, (n, S)."""
        target = policy.backbone.path.target(batch["x0"], batch["eps"], batch["t"])
        return pool((raw - target).square(), batch.plan.segments)

    def mean(self, terms: Tensor, plan: Plan) -> Tensor:
        """The mean of terms (n, S) over rows and segments, which count by their latent
        frames."""
        return (terms * segment_fractions(self.backbone.shape[1], plan.segments).to(terms)).mean()

    def penalty(self, policy: Policy, batch: Batch, raw: Tensor) -> Tensor:
        """The mean squared distance of the samples that the KL holds, with gradient."""
        if "held" not in batch.data:
            return self.divergence(policy, batch, raw, self.anchor)
        away = (raw - self.other(policy, batch, self.anchor, raw)).square().flatten(1).mean(1)
        return (away * batch["held"].to(away)).mean()

    def divergence(
        self, policy: Policy, batch: Batch, raw: Tensor | None = None, name: str = "reference"
    ) -> Tensor:
        """The mean squared distance of predictions from those of a named set of weights.

        `raw` is the live prediction, where it is known already.
        """
        raw = self.predict(policy, batch)[1] if raw is None else raw
        return (raw - self.other(policy, batch, name, raw)).square().mean()


def old_decay(step: int, decay_type: int = 0, decay: float = 0.0) -> float:
    """How much of the old weights stays after `step` optimiser steps (DiffusionNFT's public
    code).

    Type 0 is the constant `decay`; type 1 is min(0.001 step, 0.5); type 2 is 0 for 75
    steps, and then rises by 0.0075 a step to 0.999.

    Example:
        >>> [old_decay(step, 1) for step in (0, 100, 900)]
        [0.0, 0.1, 0.5]
        >>> [old_decay(step, 2) for step in (74, 95, 900)]
        [0.0, 0.15, 0.999]
    """
    if decay_type == 0:
        return decay
    return min(0.001 * step, 0.5) if decay_type == 1 else min(max(step - 75, 0) * 0.0075, 0.999)


def equal(policy: Policy, name: str) -> bool:
    """Whether a named set of weights holds the numbers of the live ones."""
    pairs = zip(policy.sets[name], policy.weights.values(), strict=True)
    return all(torch.equal(kept, live) for kept, live in pairs)
