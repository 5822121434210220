"""What losses on preferences share: how much better than a reference the policy fits a
clip."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from vidrl.diffusion.path import Path, exact
from vidrl.diffusion.schedule import segment_fractions
from vidrl.diffusion.segments import pool
from vidrl.training.policy import Policy
from vidrl.training.rollout import Plan

from ._forward import Forward
from .base import Batch, Experience


@dataclass(eq=False, kw_only=True)
class Preference(Forward):
    """Learns from what is better and what is worse: of a group's samples, or of files of
    pairs.

    Options of the loss: `beta` β, large where the policy is to stay near the reference;
    `reference`, the weights that the policy is compared with: "reference" (before training)
    or "old" (at the round's start); `weight` w of a noise level: "one" counts errors of the
    network's prediction, "noise" errors of the noise that it means. On the flow path the
    latter are (1 − t)² times the former: Flow-DPO (arXiv 2501.13918) derives them, and
    found "one" better.
    """

    data: ClassVar[str] = "optional pairs"

    beta: float = 2000.0
    reference: Literal["reference", "old"] = "reference"
    weight: Literal["one", "noise"] = "one"

    @property
    def moving(self) -> bool:  # type: ignore[override]  # for Forward: whether the weights "old" are kept
        return self.reference == "old"

    def __post_init__(self) -> None:
        old = self.decay or self.decay_type or self.sample_from == "old"
        if self.reference != "old" and old:
            raise ValueError(
                'expected reference = "old" with decay, decay_type or sample_from = "old", '
                f'got "{self.reference}": old weights are kept for that reference alone'
            )
        super().__post_init__()
        if self.beta <= 0:
            raise ValueError(
                f"expected beta > 0, got {self.beta}: with 0 nothing is learned; a small "
                "beta lets the policy go far from the reference, a large one keeps it near"
            )

    @abstractmethod
    def compared(self, seen: Experience) -> tuple[Tensor, Tensor]:
        """What a row is about: samples (M,) or pairs of samples (M, 2), and their labels
        (M, S)."""

    def minibatches(self, seen: Experience) -> Iterator[Batch]:
        """Rows are a sample, or a pair, under one noise; where no label says anything there
        is no batch."""
        about, label = self.compared(seen)
        whole = len(about) * self.noises
        about, label = about[label.any(1)], label[label.any(1)]
        if not len(about):
            return
        first = about.reshape(len(about), -1)[:, 0]
        owner = seen.group[first] if self.same_noise else torch.arange(len(about))  # of a noise
        level, seeds = self.noise(seen, int(owner.max()) + 1)
        items = about.repeat_interleave(self.noises, 0)
        # ties may leave fewer rows than updates, which is no error
        few = min(self.updates, len(items))
        for row, share in seen.cut(items, self.updates if whole < self.updates else few):
            item = row // self.noises
            at = owner[item] * self.noises + row % self.noises
            yield seen.batch(
                first[item],
                share,
                x0=seen.rollout.latents[seen.here[about[item]]],
                eps=self.drawn(seeds, at),
                t=level[at],
                label=label[item],
            )

    def gain(self, policy: Policy, batch: Batch) -> tuple[Tensor, Tensor]:
        """How far the policy's error lies below the reference's in each segment, w (e_ref −
        e), (n, S).

        It stands for the log-ratio log p − log p_ref. The second value, w ‖v − v_ref‖² (n,
        S) without gradient, is its mean over what the policy itself would draw.
        """
        path, segments = policy.backbone.path, batch.plan.segments
        raw = self.predict(policy, batch)[1]
        mine, other = exact(raw), exact(self.other(policy, batch, self.reference, raw))
        target = path.target(batch["x0"], batch["eps"], batch["t"])
        # e_ref − e, at first exactly 0
        below = pool((other - mine) * (other + mine - 2 * target), segments)
        apart = pool((mine - other).detach().square(), segments)
        w = self.level_weight(path, target, batch["t"])
        return w * below, w * apart

    def level_weight(self, path: Path, like: Tensor, t: Tensor) -> Tensor:
        """w of each row's noise level, (n, 1): 1, or the squared derivative of the noise by
        the prediction."""
        one = torch.ones_like(like.flatten(1)[:, :1])
        return one if self.weight == "one" else path.split(one, 0 * one, t)[1].square()

    def sizes(self, like: Tensor, plan: Plan) -> Tensor:
        """The part |S_j|/L of the clip's latent frames that each segment has, (S,)."""
        return segment_fractions(self.backbone.shape[1], plan.segments).to(like) / plan.segments

    @staticmethod
    def labels(seen: Experience, pairs: Tensor) -> Tensor:
        """The labels of the files' pairs, (P, S): 1 for every segment where the files hold
        none."""
        expected = len(pairs), seen.rollout.plan.segments
        label = torch.ones(expected) if seen.labels is None else seen.labels
        if label.shape != expected:
            raise ValueError(
                f"expected labels of shape {expected}, one for each pair and segment, got "
                f"{tuple(label.shape)}: set algorithm.options.segments to the number of "
                "labels that a pair has"
            )
        return label
