"""`Forward` is the base of forward-process algorithms, which add noise to clean samples anew.

No trajectory is kept: the sampler may be deterministic, and the loss compares predictions at
noise levels that are drawn for it. Legend: N samples of all processes, M noises of a sample,
S segments, n rows of a minibatch.
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
from vidrl.training import sharding
from vidrl.training.policy import Policy
from vidrl.training.rollout import Plan

from ._credit import Credited
from ._gate import Gated
from ._levels import levels, stratified
from .base import Batch, Experience


@dataclass(eq=False, kw_only=True)
class Forward(Credited, Gated):
    """An algorithm whose rows are (sample, noise) pairs.

    A row has the clean latent `x0`, the noise `eps`, the level `t` and the `advantage` (n, S).

    Options of the rollout:
    - `steps` of the deterministic sampler.
    - `sample_from`, the weights that sample: the "live" ones, the "old" ones, or the "ema" that
      `train.ema` keeps.

    Options of the update:
    - `noises` M, how many noises are added to each sample, at levels t from `low` to `high`.
    - `levels`: "uniform", "discrete" (the sampler's own times) or "logit_normal".
    - `same_noise` gives the samples of a group the same noises and levels.
    - `updates`, the optimiser steps a round.
    - `decay`: at a round's end the weights "old" become decay · old + (1 − decay) · live. With
      0, "old" are the weights with which the round began.
    - `decay_type`: 0 is a constant `decay`; 1 and 2 are the schedules of DiffusionNFT
      (`old_decay`).
    """

    noises_clips: ClassVar[bool] = True

    # Whether the loss reads the moving average of weights "old". Algorithms that do not read it
    # do not keep it, because it costs the memory of one set of weights.
    moving: ClassVar[bool] = True

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
                "is of the noise that the steps of a rollout draw"
            )
        if not self.moving and (self.decay or self.decay_type or self.sample_from == "old"):
            raise ValueError(
                'expected decay = 0, decay_type = 0 and sample_from = "live" or '
                f'"ema", because {type(self).__name__} keeps no old weights'
            )

    def unread(self, reward: Reward, pairs: bool) -> dict[str, str]:
        found = super().unread(reward, pairs)
        if pairs:
            names = ["sample_from"] if self.levels == "discrete" else ["sample_from", "steps"]
            reason = "the clips are those of data.pairs, and nothing is sampled"
            found |= dict.fromkeys(names, reason)
        return found

    def setup(self, policy: Policy, reward: Reward, group: int) -> None:
        super().setup(policy, reward, group)
        if self.sample_from == "ema" and "ema" not in policy.sets:
            raise ValueError(
                'expected train.ema > 0 for algorithm.options.sample_from = "ema", '
                'got 0: set train.ema, as 0.9, or sample from "live" or "old"'
            )
        times = self.backbone.times(self.steps)
        # Fail early: this raises ValueError if the range contains no level.
        levels(torch.zeros(1), self.levels, self.low, self.high, times)
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

    def levels_and_seeds(self, experience: Experience, items: int) -> tuple[Tensor, list[int]]:
        """Draw the level and the seed of each noise of each item, (items · M,).

        Every process draws all levels and seeds, and then makes only the noises of its own
        rows: the result is the same however the rows are divided among processes.
        """
        draw, times = experience.draw("levels"), experience.rollout.plan.times
        u = stratified(items, self.noises, draw)
        level = levels(u, self.levels, self.low, self.high, times).flatten()
        return level, torch.randint(2**62, level.shape, generator=draw).tolist()

    def noise_of(self, seeds: list[int], numbers: Tensor) -> Tensor:
        """Return the noises of these numbers, each drawn from its own seed."""
        generators = [torch.Generator().manual_seed(seeds[i]) for i in numbers.tolist()]
        return self.backbone.chunk_noise(generators)

    def minibatches(self, experience: Experience) -> Iterator[Batch]:
        count, noises = len(experience.group), self.noises
        # The samples of one owner get the same noises: each sample owns its noises, or each group.
        owner = experience.group if self.same_noise else torch.arange(count)
        level, seeds = self.levels_and_seeds(experience, int(owner.max()) + 1)
        # Row i is noise i % M of sample i // M.
        for row, share in experience.cut(torch.arange(count * noises) // noises, self.updates):
            sample = row // noises
            number = owner[sample] * noises + row % noises
            x0 = experience.rollout.latents[experience.here[sample]]
            yield experience.batch(
                sample,
                share,
                x0=x0,
                eps=self.noise_of(seeds, number),
                t=level[number],
                advantage=experience.advantage[sample],
                **self.gated(experience, sample),
            )

    def predict(self, policy: Policy, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return x_t of each row, and the live policy's prediction at x_t."""
        x = policy.backbone.path.noise(batch["x0"], batch["eps"], batch["t"])
        return x, policy.predict(x, batch["t"].to(x), batch.cond)

    def predict_with(
        self, policy: Policy, batch: Batch, name: str, live: Tensor | None = None
    ) -> Tensor:
        """Return the prediction of a named set of weights, without gradient.

        `live`, if given, is the prediction of the live weights. It saves a call of the network
        while both sets hold the same numbers: for "old" at the first update of a round, for the
        reference at the first update of a run.
        """
        if live is not None and equal(policy, name):
            return live.detach()
        with torch.no_grad(), policy.using(name):
            return self.predict(policy, batch)[1]

    def error(self, policy: Policy, batch: Batch, raw: Tensor) -> Tensor:
        """Return the mean squared error of a prediction over each segment, (n, S)."""
        target = policy.backbone.path.target(batch["x0"], batch["eps"], batch["t"])
        return pool((raw - target).square(), batch.plan.segments)

    def mean(self, terms: Tensor, plan: Plan) -> Tensor:
        """Return the mean of terms (n, S) over rows and segments.

        A segment counts in proportion to its number of latent frames.
        """
        return (terms * segment_fractions(self.backbone.shape[1], plan.segments).to(terms)).mean()

    def penalty(self, policy: Policy, batch: Batch, raw: Tensor) -> Tensor:
        """Return the KL of the loss: mean ‖v − v_anchor‖², with gradient through v = `raw`.

        With `gate`, the mean is over the samples that the KL applies to (`Gated`).
        """
        if "kl_weight" not in batch.data:
            return self.divergence(policy, batch, raw, self.anchor)
        other = self.predict_with(policy, batch, self.anchor, raw)
        distance = (raw - other).square().flatten(1).mean(1)
        return (distance * batch["kl_weight"].to(distance)).mean()

    def divergence(
        self, policy: Policy, batch: Batch, raw: Tensor | None = None, name: str = "reference"
    ) -> Tensor:
        """Return the mean squared distance of predictions from those of a named set of weights.

        `raw`, if given, is the prediction of the live weights.
        """
        raw = self.predict(policy, batch)[1] if raw is None else raw
        return (raw - self.predict_with(policy, batch, name, raw)).square().mean()


def old_decay(step: int, decay_type: int = 0, decay: float = 0.0) -> float:
    """Return the decay of the old weights after `step` optimiser steps.

    Type 0 is the constant `decay`; type 1 is min(0.001 step, 0.5); type 2 is 0 for 75 steps,
    and then rises by 0.0075 a step to 0.999 (the public code of DiffusionNFT, arXiv
    2509.16117).

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
    """Return whether a named set of weights holds the same numbers as the live ones."""
    pairs = zip(policy.sets[name], policy.weights.values(), strict=True)
    return sharding.equal(pairs)
