"""The base of every algorithm: how to sample, which clip gets the credit, and the loss.

`Algorithm` is the interface that the training loop calls. `Experience` holds the samples and
advantages of a round, `Batch` the rows of one optimiser step. Legend: B samples of this
process, N of all processes, K kept steps, S segments, n rows of a minibatch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from vidrl.backbones.base import Cond, Denoiser, on, rows
from vidrl.credit.influence import Influence
from vidrl.rewards import Reward, Score
from vidrl.training.chunks import check_one_piece, columns, split
from vidrl.training.policy import Policy
from vidrl.training.rollout import Plan, Rollout, draws


@dataclass(frozen=True)
class Batch:
    """A batch holds the rows of one optimiser step: tensors by name, each (n, ...).

    A row is what one term of the loss needs: a (sample, step), a (sample, noise level), a
    pair of samples, or a clip. `share` is 1 / (the rows of this optimiser step in all
    processes): summed over the rows of all processes, loss · share is the mean loss.
    """

    data: Mapping[str, Tensor]
    cond: Cond
    prompts: Sequence[str]
    share: float
    plan: Plan

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, name: str) -> Tensor:
        return self.data[name]

    def split(self, size: int) -> list[Batch]:
        """Split the rows into micro-batches of at most `size` rows."""
        return [self.part(slice(a, a + size)) for a in range(0, len(self), size)]

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device: a rollout, and so its rows, may be in host memory."""
        data = {name: value.to(device) for name, value in self.data.items()}
        return replace(self, data=data, cond=on(self.cond, device))

    def by_time(self) -> Batch:
        """Return the same rows sorted by falling time t, if they have a time.

        Most micro-batches of the sorted rows have one time only. This saves calls of the
        network, because some backbones call the network once for each time in a micro-batch.
        The gradient of the whole batch does not depend on the order of the rows. A measure on
        some of the rows does, so such a measure must use the unsorted batch.
        """
        if "t" not in self.data:
            return self
        return self.part(self["t"].argsort(descending=True, stable=True))

    def part(self, part: slice | Tensor) -> Batch:
        """Return the batch of some of the rows."""
        numbers = torch.arange(len(self))[part.cpu() if isinstance(part, Tensor) else part].tolist()
        prompts = [self.prompts[i] for i in numbers]
        data = {name: value[part] for name, value in self.data.items()}
        return replace(self, data=data, cond=rows(self.cond, part), prompts=prompts)


@dataclass(frozen=True)
class Loss:
    """A loss is a scalar to minimise, the mean over the batch's rows, and metrics to log.

    The metrics are detached tensors, whose means over all rows and processes are logged.
    """

    value: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Experience:
    """An experience holds what a round produced: rollout, advantages, prompts and groups.

    The rollout holds the B samples of this process; all other fields are of all N samples.

    - `advantage` (N, S) or (N, K, S).
    - `group` (N,) numbers the `prompts` (N,): samples of one prompt have one number.
    - `index` (B,): which of the N samples this process holds.
    - `pairs` (P, 2), if the samples are pairs that were read from files: the numbers of the
      chosen and of the rejected sample.
    - `labels` (P, S): 1 where the chosen sample is better in a segment, −1 where it is worse.
    - `score`: of all N samples, if the loop scored them.
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
    score: Score | None = None

    @cached_property
    def here(self) -> Tensor:
        """Return the row of each of the N samples in this process's rollout, (N,).

        The row of a sample of another process is −1.
        """
        row = torch.full((len(self.group),), -1)
        return row.index_put((self.index,), torch.arange(len(self.index)))

    def by_chunk(self, backbone: Denoiser) -> Experience:
        """Return the experience whose N · J samples are the J chunks of each of the N clips.

        Sample j · N + i is chunk j of clip i, and the chunks of one place in the clips of one
        prompt are a group. The clips of other backbones are one chunk each.
        """
        chunks, count = backbone.chunks, len(self.group)
        if chunks == 1:
            return self
        place = torch.arange(chunks).repeat_interleave(count)
        groups = int(self.group.max()) + 1
        own = torch.arange(chunks).repeat_interleave(len(self.index))
        return replace(
            self,
            rollout=split(self.rollout, backbone),
            advantage=torch.cat(columns(self.advantage, chunks)),
            group=self.group.repeat(chunks) + place * groups,
            prompts=list(self.prompts) * chunks,
            index=self.index.repeat(chunks) + own * count,
        )

    def draw(self, *name: object) -> torch.Generator:
        """Return a generator of this name, round and seed, which is the same in every process."""
        return draws(self.seed, [(*name, self.round)])[0]

    def cut(self, samples: Tensor, updates: int) -> Iterator[tuple[Tensor, float]]:
        """Divide I items among `updates` optimiser steps, in a random order.

        The order is the same in every process. `samples` (I,) or (I, m) are the samples (of N)
        that each item reads. For each step, yields the numbers of the items that this process
        trains, and 1 / (the items of the step in all processes). Raises ValueError for fewer
        items than updates, and for an item whose samples lie in several processes.
        """
        order = torch.randperm(len(samples), generator=self.draw("minibatches"))
        if len(order) < updates:
            raise ValueError(
                f"expected at least {updates} rows, one an update, got {len(order)}: lower "
                "algorithm.options.updates, or take more samples a round"
            )
        local = self.here[samples.reshape(len(samples), -1)] >= 0  # (I, m)
        if bool((local.any(1) != local.all(1)).any()):
            raise ValueError(
                "expected the samples of a group in one process, got a group cut in two: make "
                "train.prompts_per_round a multiple of the number of processes"
            )
        for items in order.tensor_split(updates):
            # 1 / the items of all processes: their gradients are summed, not averaged
            yield items[local.all(1)[items]], 1 / len(items)

    def batch(self, sample: Tensor, share: float, **data: Tensor) -> Batch:
        """Return a batch whose rows are about these samples (of N), where the rollout is kept.

        `data` are the rows' tensors by name; the samples' conditions and prompts are added.
        """
        device = self.rollout.latents.device
        moved = {name: value.to(device) for name, value in data.items()}
        cond = rows(self.rollout.cond, self.here[sample].to(device))
        return Batch(
            moved, cond, [self.prompts[i] for i in sample.tolist()], share, self.rollout.plan
        )


def clipped(ratio: Tensor, advantage: Tensor, clip_range: float) -> Tensor:
    """Return PPO's clipped loss −min(ρA, clip(ρ, 1 ± ε) A), elementwise (arXiv 1707.06347).

    `ratio` ρ and `advantage` A have one shape, `clip_range` is ε. Raises ValueError for
    advantages of another shape, which would broadcast silently.

    Example:
        >>> clipped(torch.tensor([1.5, 0.5]), torch.tensor([1.0, 1.0]), 0.2)
        tensor([-1.2000, -0.5000])
    """
    if advantage.dim() and ratio.shape != advantage.shape:
        raise ValueError(
            f"expected advantages of the ratios' shape {tuple(ratio.shape)}, got "
            f"{tuple(advantage.shape)}: one a segment; advantage[:, None].expand_as(ratio) for "
            "whole-clip credit"
        )
    return -torch.minimum(
        ratio * advantage, ratio.clamp(1 - clip_range, 1 + clip_range) * advantage
    )


@dataclass(eq=False, kw_only=True)
class Algorithm(ABC):
    """An algorithm decides how clips are sampled, how they are credited, and what the loss is.

    The dataclass fields of a subclass, and those that it inherits, are its options. The loop
    calls `setup` once, and in each round `plan`, `advantages`, `minibatches`, `loss` and
    `after`, in this order.

    `setup` is the only method that may store what other methods read (backbone, reward, group
    size, measured influence); the other methods may be called only after `setup`. `plan`
    changes nothing: later methods compute what they need from the plan that the rollout or
    the batch carries. An algorithm that keeps statistics over rounds must save and restore
    them in `state` and `load_state`.
    """

    # Where the samples come from: "none" is the policy, "clips" is data.clips, and "optional
    # pairs" is data.pairs if a recipe names that file, else the policy.
    data: ClassVar[str] = "none"

    # Whether the loss itself scores the clips, and follows the gradient of the reward.
    differentiates_reward: ClassVar[bool] = False

    # Whether the loss adds noise of several levels to finished clips.
    noises_clips: ClassVar[bool] = False

    # How far noise moves the reward: `setup` reads it from a file. It is not an option.
    measured_influence: Influence | None = field(default=None, init=False, repr=False)

    # "noqa: B027": these methods do nothing here on purpose; a subclass overrides those that
    # it needs, and must not be forced to write the others.

    def __post_init__(self) -> None:  # noqa: B027
        """Raise ValueError for options that contradict each other or are out of range.

        A subclass checks its own options and calls `super().__post_init__()`.
        """

    def check(self, reward: Reward, group: int) -> None:  # noqa: B027
        """Raise ValueError for a reward or a group size that the algorithm cannot train on.

        No model is needed, so that a wrong recipe stops before anything is loaded.
        """

    def unread(self, reward: Reward, pairs: bool) -> dict[str, str]:
        """Return the options that have no effect beside the others, each with the reason.

        `pairs` says whether the samples are those of data.pairs.
        """
        return {}

    def setup(self, policy: Policy, reward: Reward, group: int) -> None:
        """Keep the backbone and the reward; raise ValueError for what cannot be trained.

        The loop calls it once, before the first `plan`. An algorithm that needs another set of
        weights creates it here: `policy.remember("old")`.
        """
        self.check(reward, group)
        if self.noises_clips and policy.backbone.path.learned:
            raise ValueError(
                f"expected a backbone with noise levels for {type(self).__name__}, which adds "
                f"noise to finished clips, got {type(policy.backbone).__name__}, whose latent is "
                "one learned Gaussian: take an algorithm on sampled steps, as grpo, rloo or ddpo, "
                "or reward_backprop"
            )
        if self.differentiates_reward:
            cure = "take an algorithm that samples, as grpo or nft"
            check_one_piece(policy.backbone, "a gradient of the reward", cure)
        self.backbone, self.reward = policy.backbone, reward

    @abstractmethod
    def plan(self, backbone: Denoiser, round: int, draw: torch.Generator) -> Plan:
        """Return how to sample this round, and change nothing.

        `draw` is a generator seeded by the run's seed and the round: the same arguments give
        the same plan.
        """

    @abstractmethod
    def advantages(self, score: Score, group: Tensor, prompts: Sequence[str], plan: Plan) -> Tensor:
        """Return the advantages (N, S) or (N, K, S) of all processes' samples.

        `group` (N,) numbers the `prompts` (N,). The loop calls it once a round.
        """

    @abstractmethod
    def minibatches(self, experience: Experience) -> Iterator[Batch]:
        """Yield one batch for each optimiser step, of rows about this process's samples."""

    @abstractmethod
    def loss(self, policy: Policy, batch: Batch) -> Loss:
        """Return the loss of a micro-batch.

        A metric called `ratio` must be 1 before the first update; the loop checks it.
        """

    @abstractmethod
    def divergence(self, policy: Policy, batch: Batch) -> Tensor:
        """Return how far the policy's predictions are from the reference's on a micro-batch.

        It is 0 before the first update, and is logged as `kl`.
        """

    def after(self, policy: Policy, round: int) -> None:  # noqa: B027
        """Move named sets of weights after a round's updates."""

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs besides the weights, such as statistics over rounds.

        The values are numbers, text, lists, dicts and tensors.
        """
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Restore what `state` returned; an empty mapping is the state before the first round."""
