"""What an algorithm is: how to sample, who gets the credit, and the loss of a minibatch.

Legend: B samples of this process, N of all processes, K kept steps, S segments, n rows of a
minibatch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from vidrl.backbones.base import Cond, Denoiser, rows
from vidrl.credit.influence import Influence
from vidrl.rewards import Reward, Score
from vidrl.training.policy import Policy
from vidrl.training.rollout import Plan, Rollout, draws


@dataclass(frozen=True)
class Batch:
    """The rows of one optimiser step: tensors by name, each (n, ...).

    A row is what one term of the loss needs: a (sample, step), a (sample, noise level), a
    pair of samples, a clip.
    """

    data: Mapping[str, Tensor]
    cond: Cond
    prompts: Sequence[str]
    share: float  # of one row among all processes' rows of this optimiser step
    plan: Plan

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, name: str) -> Tensor:
        return self.data[name]

    def split(self, size: int) -> list[Batch]:
        """Micro-batches of at most `size` rows."""
        return [self._part(slice(a, a + size)) for a in range(0, len(self), size)]

    def by_time(self) -> Batch:
        """The same rows by falling time t, where they have one, so that most micro-batches
        are of one time.

        A backbone that runs the rows of each time apart then runs less often. For the
        gradient the order is nothing; what is measured on a part of the batch must take it
        from the batch as it was drawn.
        """
        if "t" not in self.data:
            return self
        return self._part(self["t"].argsort(descending=True, stable=True))

    def _part(self, part: slice | Tensor) -> Batch:
        numbers = torch.arange(len(self))[part.cpu() if isinstance(part, Tensor) else part].tolist()
        prompts = [self.prompts[i] for i in numbers]
        data = {name: value[part] for name, value in self.data.items()}
        return replace(self, data=data, cond=rows(self.cond, part), prompts=prompts)


@dataclass(frozen=True)
class Loss:
    """A scalar to minimise, the mean over the batch's rows, and detached means to log."""

    value: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Experience:
    """What a round brought: this process's rollout (B), and the credit, prompts and groups
    of all N samples.

    `advantage` (N, S) or (N, K, S); `group` (N,) numbers the `prompts` (N,); `index` (B,)
    says which of the N samples this process holds. Where the samples are pairs read from
    files, `pairs` (P, 2) are the numbers of the chosen and the rejected samples and
    `labels` (P, S) is 1 where the chosen one is better in a segment, −1 where it is worse.
    """

    rollout: Rollout
    advantage: Tensor
    group: Tensor
    prompts: Sequence[str]
    index: Tensor
    seed: int
    round: int
    pairs: Tensor | None = None
    labels: Tensor | None = None
    score: Score | None = None  # of all N samples, where the loop scored them

    @cached_property
    def here(self) -> Tensor:
        """Of each of the N samples its row in this process's rollout, or −1."""
        mine = torch.full((len(self.group),), -1)
        return mine.index_put((self.index,), torch.arange(len(self.index)))

    def draw(self, *name: object) -> torch.Generator:
        """A generator of this name, round and seed: it draws the same in every process."""
        return draws(self.seed, [(*name, self.round)])[0]

    def cut(self, samples: Tensor, updates: int) -> Iterator[tuple[Tensor, float]]:
        """Divide I items among `updates` optimiser steps, in a random order that is the
        same in every process.

        Yields for each step the numbers of the items that this process trains, and 1 / (the
        step's items in all processes). `samples` (I,) or (I, m) are the samples (of N) that
        each item reads. Raises ValueError for fewer items than updates, and for an item
        whose samples lie in several processes.
        """
        order = torch.randperm(len(samples), generator=self.draw("minibatches"))
        if len(order) < updates:
            raise ValueError(
                f"expected at least {updates} rows, one an update, got {len(order)}: lower "
                "algorithm.options.updates, or take more samples a round"
            )
        at = self.here[samples.reshape(len(samples), -1)] >= 0
        if bool((at.any(1) != at.all(1)).any()):
            raise ValueError(
                "expected the samples of a group in one process, got a group cut in two: make "
                "train.prompts_per_round a multiple of the number of processes"
            )
        for every in order.tensor_split(updates):
            yield every[at.all(1)[every]], 1 / len(every)

    def batch(self, sample: Tensor, share: float, **data: Tensor) -> Batch:
        """A batch of rows about samples (of N), with their conditions and prompts, on the
        rollout's device."""
        device = self.rollout.latents.device
        moved = {name: value.to(device) for name, value in data.items()}
        cond = rows(self.rollout.cond, self.here[sample].to(device))
        return Batch(
            moved, cond, [self.prompts[i] for i in sample.tolist()], share, self.rollout.plan
        )


def clipped(ratio: Tensor, advantage: Tensor, clip_range: float) -> Tensor:
    """PPO's pessimistic objective, negated: −min(ρA, clip(ρ, 1 ± ε) A), elementwise (arXiv
    1707.06347).

    Example:
        >>> clipped(torch.tensor([1.5, 0.5]), torch.tensor([1.0, 1.0]), 0.2)
        tensor([-1.2000, -0.5000])
    """
    if advantage.dim() and ratio.shape != advantage.shape:
        raise ValueError(
            f"expected advantages of the ratios' shape {tuple(ratio.shape)}, got "
            f"{tuple(advantage.shape)}: one a segment; advantage[:, None].expand_as(ratio) for whole-clip "
            "credit"
        )
    return -torch.minimum(
        ratio * advantage, ratio.clamp(1 - clip_range, 1 + clip_range) * advantage
    )


@dataclass(eq=False, kw_only=True)
class Algorithm(ABC):
    """Base of every algorithm; its dataclass fields, and those that it inherits, are its
    options.

    The loop calls `setup` once, and in each round `plan`, `advantages`, `minibatches`,
    `loss` and `after`. `plan` changes nothing: what the later calls need, they compute from
    the plan that the rollout or the batch carries.
    """

    # Where the samples come from: "none" is the policy, "clips" data.clips, and "optional
    # pairs" data.pairs where a recipe names that file, else the policy.
    data: ClassVar[str] = "none"

    # how far noise moves the reward
    measured_influence: Influence | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:  # noqa: B027  each class checks its own options, then calls the next
        """Raise ValueError for options that cannot be."""

    def check(self, reward: Reward, group: int) -> None:  # noqa: B027  most can train on any reward
        """Raise ValueError for a reward or a number of samples a prompt that it cannot
        train on. Needs no model."""

    def unread(self, reward: Reward, pairs: bool) -> dict[str, str]:
        """Options that have no effect beside the others, each with the reason; `pairs`: the
        samples are data.pairs."""
        return {}

    def setup(self, policy: Policy, reward: Reward, group: int) -> None:
        """Take the policy and the reward, once, before the first `plan`; raise ValueError
        for what cannot be trained.

        An algorithm that needs another set of weights names it here:
        `policy.remember("old")`.
        """
        self.check(reward, group)
        self.backbone, self.reward = policy.backbone, reward

    @abstractmethod
    def plan(self, backbone: Denoiser, round: int, draw: torch.Generator) -> Plan:
        """How to sample this round; `draw` is seeded by the run's seed and the round."""

    @abstractmethod
    def advantages(self, score: Score, group: Tensor, prompts: Sequence[str], plan: Plan) -> Tensor:
        """Advantages (N, S) or (N, K, S) of all processes' samples; `group` (N,) numbers
        the `prompts` (N,)."""

    @abstractmethod
    def minibatches(self, seen: Experience) -> Iterator[Batch]:
        """One batch an optimiser step; the rows' samples are this process's."""

    @abstractmethod
    def loss(self, policy: Policy, batch: Batch) -> Loss:
        """The loss of a micro-batch; where it reports a `ratio`, that is 1 before the first
        update."""

    @abstractmethod
    def divergence(self, policy: Policy, batch: Batch) -> Tensor:
        """How far the policy's predictions are from the reference's on a micro-batch, 0 at
        first; logged as `kl`."""

    def after(self, policy: Policy, round: int) -> None:  # noqa: B027  most move no other weights
        """Move named sets of weights after a round's updates."""

    def state(self) -> dict[str, Any]:
        """What a resumed run needs beside weights, such as running statistics: numbers,
        text, lists, dicts, tensors."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:  # noqa: B027  most have none
        """Put back what `state` returned; an empty mapping is the state before the first
        round."""
