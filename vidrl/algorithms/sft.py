"""Supervised flow matching: fine-tuning on clips of files (flow matching, arXiv
2210.02747)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vidrl.backbones.base import Denoiser
from vidrl.diffusion.schedule import segment_fractions
from vidrl.diffusion.segments import pool
from vidrl.rewards import Score
from vidrl.training.policy import Policy
from vidrl.training.rollout import Plan

from ._levels import levels, stratified
from .base import Algorithm, Batch, Experience, Loss


@dataclass(eq=False, kw_only=True)
class SFT(Algorithm):
    """Supervised matching: the error of the prediction on clips of files that are noised.

    L = mean ‖v_θ(x_t, t) − target‖² over clips, noises ε and levels t, with x_t = (1 − t)
    x0 + t ε on a flow. The clips are those of `data.clips`; nothing is sampled and nothing
    is scored. As `train.data_weight` the same loss stands beside the loss of another
    algorithm.

    Options: `noises` of a clip, at levels t spread evenly from `low` to `high`; `updates`,
    the optimiser steps a round; `segments` S of which the error is logged by itself (1: the
    whole clip's alone). The loss is that of the whole clip whatever `segments` is, because
    a segment counts by its number of latent frames.
    """

    data: ClassVar[str] = "clips"

    noises: int = 4
    updates: int = 2
    low: float = 0.02
    high: float = 1.0
    segments: int = 1

    def __post_init__(self) -> None:
        if min(self.noises, self.updates, self.segments) < 1 or not 0 <= self.low < self.high <= 1:
            raise ValueError(
                "expected noises, updates and segments of at least 1, and 0 <= low < high <= 1, got "
                f"{(self.noises, self.updates, self.segments)} and {(self.low, self.high)}"
            )

    def plan(self, backbone: Denoiser, round: int, draw: torch.Generator) -> Plan:
        return Plan(backbone.times(2), "ode", 0.0, self.segments, scored=False)

    def advantages(self, score: Score, group: Tensor, prompts: Sequence[str], plan: Plan) -> Tensor:
        return torch.zeros(len(group), plan.segments)

    def minibatches(self, seen: Experience) -> Iterator[Batch]:
        draw, n = seen.draw("levels"), len(seen.group)
        level = levels(
            stratified(n, self.noises, draw), "uniform", self.low, self.high, ()
        ).flatten()
        seeds = torch.randint(2**62, level.shape, generator=draw).tolist()
        for row, share in seen.cut(torch.arange(n * self.noises) // self.noises, self.updates):
            sample = row // self.noises
            noise = self.backbone.noise(
                [torch.Generator().manual_seed(seeds[i]) for i in row.tolist()]
            )
            yield seen.batch(
                sample, share, x0=seen.rollout.latents[seen.here[sample]], eps=noise, t=level[row]
            )

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        target = policy.backbone.path.target(batch["x0"], batch["eps"], batch["t"])
        # (n, S)
        error = pool((self._predicted(policy, batch) - target).square(), batch.plan.segments)
        size = segment_fractions(self.backbone.shape[1], batch.plan.segments).to(error)
        seen = {"data_error": (error * size).detach().mean(1)}
        if batch.plan.segments > 1:
            seen |= {f"data_error_{j}": error[:, j].detach() for j in range(batch.plan.segments)}
        return Loss((error * size).mean(), seen)

    def divergence(self, policy: Policy, batch: Batch) -> Tensor:
        with torch.no_grad(), policy.using("reference"):
            other = self._predicted(policy, batch)
        return (self._predicted(policy, batch) - other).square().mean()

    def _predicted(self, policy: Policy, batch: Batch) -> Tensor:
        x = policy.backbone.path.noise(batch["x0"], batch["eps"], batch["t"])
        return policy.predict(x, batch["t"].to(x), batch.cond)
