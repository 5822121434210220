"""Branching rollouts (BranchGRPO, arXiv 2509.06040) credit a step by the clips that share it.

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
from vidrl.training.chunks import columns
from vidrl.training.policy import Policy
from vidrl.training.rollout import Plan

from ._credit import Credited
from ._trajectory import Trajectory
from .base import Batch, Loss, clipped


@dataclass(eq=False, kw_only=True)
class Branch(Credited, Trajectory):
    """Branch is GRPO on a tree: the clips of a prompt begin as one and divide at forks.

    V of a node is the mean credit of its leaves. The steps from a node's fork to the next have
    the advantage

    - A = (V − mean V)/(std V + eps) over the nodes of this depth in the tree, with `baseline`
      "depth" (BranchGRPO), or
    - the same with the mean over the siblings, with `baseline` "siblings": then the outcome of
      earlier steps, which siblings share, does not count.

    L = −min(ρ_j A_j, clip(ρ_j, 1 ± ε√S) A_j) + β KL. Steps that clips share are sampled and
    trained once, and count for each of these clips, in the KL too: both are means over clips
    and steps. One fork into the whole group is TempFlow-GRPO (2508.04324): `at = [0]`,
    `factors = [8]` in a group of 8, `window = 1`, `step_weight = "noise"`.

    Options of the tree: it forks at the stochastic steps numbered `at` (0 is the round's first)
    into `factors` children each, whose product is train.group. If both are empty, the factors
    are the prime factors of train.group, evenly over the steps. Steps before the first fork
    draw no noise. In a clip of several chunks with n stochastic steps each, step i of chunk j
    has the number j n + i; chunks before the first fork are shared, and not trained.

    Example:
        >>> Branch(at=[0, 3, 6], factors=[2, 2, 2]).forks((0, 1, 2, 3, 4, 5, 6, 7))
        ((0, 2), (3, 2), (6, 2))
    """

    at: list[int] = field(default_factory=list)
    factors: list[int] = field(default_factory=list)
    baseline: Literal["depth", "siblings"] = "depth"
    scale: Literal["group", "batch", "none", "unbiased"] = "group"  # type: ignore[assignment]
    same_start: bool = field(default=True, init=False)  # no option: a tree has one root
    group: int = field(default=0, init=False, repr=False)  # set by `setup`

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
        if self.segments % policy.backbone.chunks:
            raise ValueError(
                "expected algorithm.options.segments to be a multiple of the "
                f"{policy.backbone.chunks} chunks of a clip, because a tree credits each chunk by "
                f"the clips that share it, got {self.segments}: take {policy.backbone.chunks}"
            )
        self.group = group  # before super(), which makes a plan
        super().setup(policy, reward, group)

    def forks(self, noisy: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
        """Return the forks (step, children) of the options, or those of the prime factors."""
        if not self.factors:
            # Before `setup` the group size is not known: one fork into the whole group.
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
        credit = self.unbounded(score, group, plan)
        credit = credit if credit.dim() == 3 else credit[:, None].expand(-1, len(plan.keep), -1)
        lost = score.value.isnan()[:, None, None]
        # NaN, not 0: the mean of a node is then over its scored leaves
        credit = credit.masked_fill(lost, torch.nan)
        children = [n or int(group.bincount()[0]) for _, n in plan.forks]
        trees = credit.unflatten(0, (-1, *children))  # (trees, n_1, ..., n_D, K, S)
        advantages = [
            self.step_advantages(trees.select(-2, i), plan, k) for i, k in enumerate(plan.keep)
        ]
        found = torch.stack([each.reshape(len(credit), -1) for each in advantages], 1)
        found = found.masked_fill(lost, 0.0).nan_to_num(0.0)
        return found.clamp(-self.max_advantage, self.max_advantage)

    def step_advantages(self, trees: Tensor, plan: Plan, k: int) -> Tensor:
        """Return the advantages of step k of every chunk, in the shape of the leaves' credit.

        `trees` is (trees, n_1, ..., n_D, S).
        """
        steps = len(plan.times) - 1
        return torch.cat(
            [
                self.node_advantages(part, plan.depth(k + j * steps)).expand(part.shape)
                for j, part in enumerate(columns(trees, plan.chunks))
            ],
            -1,
        )

    def node_advantages(self, trees: Tensor, depth: int) -> Tensor:
        """Return the advantages of the nodes of a depth from the credit of the leaves.

        `trees` is (trees, n_1, ..., n_D, S), the result (trees, n_1, ..., n_depth, 1, ..., S).
        At depth 0, before the first fork, a tree is one node, and its advantage is 0.
        """
        if not depth:
            return torch.zeros_like(trees)
        deeper, nodes = list(range(depth + 1, trees.dim() - 1)), list(range(1, depth + 1))
        value = trees.nanmean(deeper, keepdim=True) if deeper else trees
        siblings = depth  # the last axis of the nodes
        baseline = value.nanmean(nodes if self.baseline == "depth" else siblings, keepdim=True)
        deviation = value - baseline
        if self.scale == "none":
            return deviation
        pool = [0, *nodes] if self.scale == "batch" else nodes
        size = deviation.square().nanmean([*pool, -1], keepdim=True).sqrt()
        count = prod(trees.shape[n] for n in nodes)
        wider = (count / (count - 1)) ** 0.5 if self.scale == "unbiased" else 1.0
        return deviation / (size * wider + self.scale_eps)

    def merge_rows(self, advantage: Tensor, plan: Plan) -> tuple[Tensor, Tensor]:
        """Return the sum of advantages of the leaves of each node, and the rows of first leaves.

        The leaves of a node share their steps, so that their rows are equal; one is trained,
        and none before the first fork. With several chunks, `advantage` has the rows of the
        first chunks, then those of the second ones, and so on.
        """
        merged = [
            self.merge_chunk(rows, plan, j)
            for j, rows in enumerate(advantage.tensor_split(plan.chunks))
        ]
        sums, first = zip(*merged, strict=True)
        return torch.cat(sums), torch.cat(first)

    @staticmethod
    def merge_chunk(advantage: Tensor, plan: Plan, chunk: int) -> tuple[Tensor, Tensor]:
        """Return `merge_rows` of the rows (N, K, S) of one chunk of all clips."""
        steps = len(plan.times) - 1
        depths = [plan.depth(k + chunk * steps) for k in plan.keep]
        leaves = [prod(n for _, n in plan.forks[depth:]) for depth in depths]
        sums = [
            advantage[:, i].unflatten(0, (-1, count)).sum(1).repeat_interleave(count, 0)
            for i, count in enumerate(leaves)
        ]
        first = torch.arange(len(advantage))[:, None] % torch.tensor(leaves) == 0
        return torch.stack(sums, 1), first & (torch.tensor(depths) > 0)

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        step = self.step(policy, batch)
        ratio = self.ratio(step, batch)
        value = clipped(ratio, batch["advantage"], self.clip).mean()
        detached = ratio.detach()
        metrics = {"ratio": detached, "clip_share": ((detached - 1).abs() > self.clip).float()}
        return Loss(value + self.penalty(policy, batch, step), metrics)


def factored(number: int, most: int) -> list[int]:
    """Return the prime factors of a number, rising; at most `most`, the last ones multiplied.

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
