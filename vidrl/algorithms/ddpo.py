"""DDPO (arXiv 2305.13301) compares a clip with the earlier rewards of its prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan
from typing import Any, Literal

import torch
from torch import Tensor

from vidrl.credit import segment_sums
from vidrl.data import references
from vidrl.diffusion.segments import frame_spans
from vidrl.rewards import Reward, Score
from vidrl.training.policy import Policy
from vidrl.training.rollout import Plan

from ._trajectory import Trajectory
from .base import Batch, Loss, clipped


@dataclass(eq=False, kw_only=True)
class DDPO(Trajectory):
    """DDPO trains by the score function, or by importance sampling with a clipped ratio.

    With `estimator` "sf", the score function, L = −A_j log p_j, and there is one update a
    round. With "is", importance sampling, L = −min(ρ_j A_j, clip(ρ_j, 1 ± ε√S) A_j), where
    ρ_j = exp(log p_j − log p_j,old). Both add β KL.

    A = (r − mean)/(std + 1e-6), bounded by `max_advantage`, with the mean and std of the last
    `buffer` rewards of the clip's prompt, or of the round's rewards while the prompt has fewer
    than `least`. With segments, r_j is the contribution of the frames of segment j to the
    reward (`vidrl.credit.segment_sums`); each segment has its own mean, and all have one std.
    The rewards of the prompts are kept in `past` and are part of a checkpoint; `advantages`
    adds those of its round.

    Example:
        >>> DDPO().sampler, DDPO(estimator="sf").updates
        ('ddim', 1)
    """

    estimator: Literal["sf", "is"] = "is"
    sampler: str = "ddim"
    eta: float = 1.0
    updates: int = 1
    clip_range: float = 1e-4
    buffer: int = 32
    least: int = 16
    max_advantage: float = 5.0
    # up to `buffer` rewards of each prompt, each a list of S numbers; not an option
    past: dict[str, list[list[float]]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.estimator == "sf" and self.updates > 1:
            raise ValueError(
                f'expected updates = 1 with estimator = "sf", got {self.updates}: the score '
                "function is right for the policy that sampled alone, so take estimator = "
                '"is" for more updates'
            )
        if not 2 <= self.least <= self.buffer or self.max_advantage <= 0:
            got = self.max_advantage, self.least, self.buffer
            raise ValueError(
                "expected max_advantage > 0 and 2 ≤ least ≤ buffer, because a prompt keeps no "
                f"more than buffer rewards, got {got}"
            )

    def check(self, reward: Reward, group: int) -> None:
        super().check(reward, group)
        if self.same_start and group < 2:
            raise ValueError(
                "train.group: expected at least 2 with algorithm.options.same_start, got 1: a "
                "group of one has no other clip to start with; raise it, or leave same_start out"
            )

    def unread(self, reward: Reward, pairs: bool) -> dict[str, str]:
        found = super().unread(reward, pairs)
        if self.estimator == "sf":
            found["clip_range"] = 'no ratio is clipped with estimator = "sf"'
        return found

    def advantages(self, score: Score, group: Tensor, prompts: Sequence[str], plan: Plan) -> Tensor:
        lost, spans = score.value.isnan(), frame_spans(self.backbone.frame_map, plan.segments)
        # The key has the references too: images of one text each have their own past.
        prompts = [references.key(prompt) for prompt in prompts]
        rewards = score.value[:, None] if len(spans) == 1 else segment_sums(score, spans)
        rewards = rewards.double().masked_fill(lost[:, None], torch.nan)  # (N, S)
        self._remember(prompts, rewards)
        scored, found = rewards[~lost], torch.zeros_like(rewards)
        for prompt in dict.fromkeys(prompts):
            mine = torch.tensor([one == prompt for one in prompts])
            past = torch.tensor(self.past.get(prompt, []), dtype=rewards.dtype)
            baseline = past if len(past) >= self.least else scored
            std = baseline.var(0, correction=0).mean().sqrt()  # one for all segments
            found[mine] = (rewards[mine] - baseline.mean(0)) / (std + 1e-6)
        bounded = found.nan_to_num(0.0).clamp(-self.max_advantage, self.max_advantage)
        return bounded.to(score.value.dtype)

    def _remember(self, prompts: Sequence[str], rewards: Tensor) -> None:
        """Add the scored rewards (N, S) to the past of their prompts."""
        for prompt, values in zip(prompts, rewards.tolist(), strict=True):
            if not isnan(values[0]):
                self.past[prompt] = [*self.past.get(prompt, []), values][-self.buffer :]

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        step = self.step(policy, batch)
        ratio = self.ratio(step, batch)
        if self.estimator == "sf":
            terms = -batch["advantage"] * self.log_density(step, batch)
        else:
            terms = clipped(ratio, batch["advantage"], self.clip)
        detached = ratio.detach()
        metrics = {"ratio": detached, "clip_share": ((detached - 1).abs() > self.clip).float()}
        return Loss(terms.mean() + self.penalty(policy, batch, step), metrics)

    def state(self) -> dict[str, Any]:
        return {"past": self.past}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.past = {
            prompt: [list(one) for one in rewards]
            for prompt, rewards in state.get("past", {}).items()
        }
