"""Branching rollouts (BranchGRPO, arXiv 2509.06040): a step is credited by the clips that
share it.

Legend: the clips of a group are the leaves of a tree; the d-th fork makes nodes of depth d;
K kept steps, S segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Literal

import torch
from torch import Tensor

from vidrl.rewards import Reward, Score
from vidrl.training.policy import Policy
from vidrl.training.rollout import Plan

from ._credit import Credited
from ._trajectory import Trajectory
from .base import Batch, Loss, clipped


@dataclass(eq=False, kw_only=True)
class Branch(Credited, Trajectory):
    """GRPO on a tree: the clips of a prompt begin as one and divide at forks.

    V of a node is the mean credit of its leaves. The steps from a node's fork to the next
    have the advantage A = (V − mean V)/(std V + eps) over the nodes of this depth in the
    tree (`baseline` "depth", BranchGRPO), or V less the mean of the siblings in place of V
    − mean V ("siblings"), in which the luck of the steps before does not count. L =
    −min(ρ_j A_j, clip(ρ_j, 1 ± ε√S) A_j) + β KL. What clips share is sampled and trained
    once, and counts for all of them, in the KL too: its mean is over clips and steps. One
    fork into the whole group is TempFlow-GRPO (2508.04324): `at = [0]`, `factors = [8]` in
    a group of 8, `window = 1`, `step_weight = "noise"`.

    Options of the tree: it forks at the stochastic steps numbered `at` (0 is the round's
    first) into `factors` children each, whose product is train.group. Both empty stand for
    the prime factors of train.group, evenly over the steps. Steps before the first fork
    draw no noise.

    Example:
        >>> Branch(at=[0, 3, 6], factors=[2, 2, 2]).forks((0, 1, 2, 3, 4, 5, 6, 7))
        ((0, 2), (3, 2), (6, 2))
    """

    at: list[int] = field(default_factory=list)
    factors: list[int] = field(default_factory=list)
    baseline: Literal["depth", "siblings"] = "depth"
    scale: Literal["group", "batch", "none", "unbiased"] = "group"  # type: ignore[assignment]
    same_start: bool = field(default=True, init=False)  # no option: a tree has one root
    group: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.at) != len(self.factors):
            raise ValueError(
                f"expected as many steps `at` as `factors`, got {self.at} and "
                f"{self.factors}: leave both out for forks that fit train.group"
            )
        if self.at != sorted(set(self.at)) or min([*self.at, 0]) < 0 or min([*self.factors, 2]) < 2:
            raise ValueError(
                "expected forks at rising steps from 0, each into 2 children or more, got "
                f"at = {self.at} and factors = {self.factors}"
            )

    def check(self, reward: Reward, group: int) -> None:
        super().check(reward, group)
        if self.factors and prod(self.factors) != group:
            raise ValueError(
                f"expected train.group = {prod(self.factors)}, the product of factors = "
                f"{self.factors}, got {group}: change one of them, or leave at and factors out"
            )

    def setup(self, policy: Policy, reward: Reward, group: int) -> None:
        self.group = group
        super().setup(policy, reward, group)

    def forks(self, noisy: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
        if not self.factors:
            children = factored(self.group, len(noisy)) if self.group else [0]
            return tuple(
                (noisy[i * len(noisy) // len(children)], n) for i, n in enumerate(children)
            )
        if self.at[-1] >= len(noisy):
            raise ValueError(
                f"expected forks at the round's {len(noisy)} stochastic steps, numbered from "
                f"0, got at = {self.at}: fork earlier, take more steps, or widen the window"
            )
        return tuple((noisy[i], n) for i, n in zip(self.at, self.factors, strict=True))

    def advantages(self, score: Score, group: Tensor, prompts: Sequence[str], plan: Plan) -> Tensor:
        leaf = self.unbounded(score, group, plan)
        leaf = leaf if leaf.dim() == 3 else leaf[:, None].expand(-1, len(plan.keep), -1)
        lost = score.value.isnan()[:, None, None]
        leaf = leaf.masked_fill(lost, torch.nan)
        children = [n or int(group.bincount()[0]) for _, n in plan.forks]
        trees = leaf.unflatten(0, (-1, *children))  # (trees, n_1, ..., n_D, K, S)
        made = [self.of_nodes(trees.select(-2, i), plan.depth(k)) for i, k in enumerate(plan.keep)]
        like = trees.select(-2, 0).shape
        found = torch.stack([one.expand(like).reshape(len(leaf), -1) for one in made], 1)
        found = found.masked_fill(lost, 0.0).nan_to_num(0.0)
        return found.clamp(-self.max_advantage, self.max_advantage)

    def of_nodes(self, trees: Tensor, depth: int) -> Tensor:
        """Advantages of the nodes of a depth, (trees, n_1, ..., n_depth, 1, ..., S), from
        leaves' credit."""
        later, nodes = list(range(depth + 1, trees.dim() - 1)), list(range(1, depth + 1))
        value = trees.nanmean(later, keepdim=True) if later else trees
        away = value - value.nanmean(nodes if self.baseline == "depth" else depth, keepdim=True)
        if self.scale == "none":
            return away
        among = [0, *nodes] if self.scale == "batch" else nodes
        size = away.square().nanmean([*among, -1], keepdim=True).sqrt()
        count = prod(trees.shape[n] for n in nodes)
        wider = (count / (count - 1)) ** 0.5 if self.scale == "unbiased" else 1.0
        return away / (size * wider + self.scale_eps)

    def merged(self, advantage: Tensor, plan: Plan) -> tuple[Tensor, Tensor]:
        """The first leaf of a node stands for all, whose rows of a step are equal but for
        unscored ones."""
        # leaves of a node
        widths = [prod(n for _, n in plan.forks[plan.depth(k) :]) for k in plan.keep]
        sums = [
            advantage[:, i].unflatten(0, (-1, w)).sum(1).repeat_interleave(w, 0)
            for i, w in enumerate(widths)
        ]
        first = torch.arange(len(advantage))[:, None] % torch.tensor(widths) == 0
        return torch.stack(sums, 1), first

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        step = self.step(policy, batch)
        ratio = self.ratio(step, batch)
        value = clipped(ratio, batch["advantage"], self.clip).mean()
        seen = ratio.detach()
        metrics = {"ratio": seen, "clip_share": ((seen - 1).abs() > self.clip).float()}
        return Loss(value + self.penalty(policy, batch, step), metrics)


def factored(number: int, most: int) -> list[int]:
    """The prime factors of a number, rising; the last ones are multiplied where there are
    over `most`.

    Example:
        >>> factored(12, 3), factored(16, 3), factored(7, 3)
        ([2, 2, 3], [2, 2, 4], [7])
    """
    found: list[int] = []
    rest = number
    for prime in range(2, number + 1):
        while rest % prime == 0:
            found, rest = [*found, prime], rest // prime
    return [*found[: most - 1], prod(found[most - 1 :])] if len(found) > most else found
