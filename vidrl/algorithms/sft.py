"""SFT fine-tunes on clips of files by supervised flow matching (arXiv 2210.02747)."""

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
    """SFT lowers the error of the prediction on noised clips of files.

    L = mean ‖v_θ(x_t, t) − target‖² over clips, noises ε and levels t, with x_t = (1 − t)
    x0 + t ε on a flow. The clips are those of `data.clips`: no clip is sampled or scored. With
    `train.data_weight`, the same loss is added to the loss of another algorithm.

    Options: `noises` of a clip, at levels t spread evenly from `low` to `high`; `updates`,
    the optimiser steps a round; `segments` S whose errors are logged separately (1: that of the
    whole clip only). The loss is that of the whole clip for every S, because a segment counts
    by its number of latent frames.
    """

    data: ClassVar[str] = "clips"
    noises_clips: ClassVar[bool] = True

    noises: int = 4
    updates: int = 2
    low: float = 0.02
    high: float = 1.0
    segments: int = 1

    def __post_init__(self) -> None:
        if min(self.noises, self.updates, self.segments) < 1 or not 0 <= self.low < self.high <= 1:
            raise ValueError(
                "expected noises, updates and segments of at least 1, and 0 <= low < high <= 1, "
                f"got {(self.noises, self.updates, self.segments)} and {(self.low, self.high)}"
            )

    def plan(self, backbone: Denoiser, round: int, draw: torch.Generator) -> Plan:
        return Plan(backbone.times(2), "ode", 0.0, self.segments, scored=False)

    def advantages(self, score: Score, group: Tensor, prompts: Sequence[str], plan: Plan) -> Tensor:
        return torch.zeros(len(group), plan.segments)

    def minibatches(self, experience: Experience) -> Iterator[Batch]:
        draw, count = experience.draw("levels"), len(experience.group)
        u = stratified(count, self.noises, draw)
        level = levels(u, "uniform", self.low, self.high, ()).flatten()
        # Every process draws all seeds, and then only the noises of its own rows.
        seeds = torch.randint(2**62, level.shape, generator=draw).tolist()
        clip = torch.arange(count * self.noises) // self.noises
        for row, share in experience.cut(clip, self.updates):
            sample = row // self.noises
            generators = [torch.Generator().manual_seed(seeds[i]) for i in row.tolist()]
            x0 = experience.rollout.latents[experience.here[sample]]
            eps = self.backbone.chunk_noise(generators)
            yield experience.batch(sample, share, x0=x0, eps=eps, t=level[row])

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        target = policy.backbone.path.target(batch["x0"], batch["eps"], batch["t"])
        squares = (self._predicted(policy, batch) - target).square()
        error = pool(squares, batch.plan.segments)  # (n, S)
        fraction = segment_fractions(self.backbone.shape[1], batch.plan.segments).to(error)
        metrics = {"data_error": (error * fraction).detach().mean(1)}
        if batch.plan.segments > 1:
            for j in range(batch.plan.segments):
                metrics[f"data_error_{j}"] = error[:, j].detach()
        return Loss((error * fraction).mean(), metrics)

    def divergence(self, policy: Policy, batch: Batch) -> Tensor:
        with torch.no_grad(), policy.using("reference"):
            other = self._predicted(policy, batch)
        return (self._predicted(policy, batch) - other).square().mean()

    def _predicted(self, policy: Policy, batch: Batch) -> Tensor:
        """Return the prediction at x_t of each row, with the policy's current weights."""
        x = policy.backbone.path.noise(batch["x0"], batch["eps"], batch["t"])
        return policy.predict(x, batch["t"].to(x), batch.cond)
