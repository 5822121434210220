"""`Preference` is the base of losses on preferences: a clip or a segment is better or worse.

Such a loss compares how well the policy and a reference predict a clip.
"""

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
    """An algorithm that learns from better and worse clips of a group, or from pairs of files.

    Options of the loss:
    - `beta` β: a large value keeps the policy near the reference.
    - `reference`, the weights that the policy is compared with: "reference" (those before
      training) or "old" (those at the round's start).
    - `weight` w of a noise level: "one" counts errors of the network's prediction, "noise"
      errors of the noise that the prediction implies. On the flow path the latter are (1 − t)²
      times the former: Flow-DPO (arXiv 2501.13918) derives them, and found "one" better.
    """

    data: ClassVar[str] = "optional pairs"

    beta: float = 2000.0
    reference: Literal["reference", "old"] = "reference"
    weight: Literal["one", "noise"] = "one"

    @property
    def moving(self) -> bool:  # type: ignore[override]
        """Return whether `Forward` must keep the weights "old"."""
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
    def labelled_rows(self, experience: Experience) -> tuple[Tensor, Tensor]:
        """Return what the rows are about, and which of it is better.

        The first value are numbers of samples (M,) or of pairs of samples (M, 2); the second
        are labels (M, S): 1, −1, or 0 for no preference.
        """

    def minibatches(self, experience: Experience) -> Iterator[Batch]:
        """Yield rows of one sample, or one pair, under one noise; no batch if all labels are 0."""
        about, label = self.labelled_rows(experience)
        all_rows = len(about) * self.noises
        about, label = about[label.any(1)], label[label.any(1)]
        if not len(about):
            return
        first = about.reshape(len(about), -1)[:, 0]
        # whose noises an item gets: its own, or those of its group
        owner = experience.group[first] if self.same_noise else torch.arange(len(about))
        level, seeds = self.levels_and_seeds(experience, int(owner.max()) + 1)
        items = about.repeat_interleave(self.noises, 0)
        # Ties may leave fewer rows than updates, which is no error: then there are fewer updates.
        # If there were too few rows before ties were left out, `cut` raises ValueError.
        few = min(self.updates, len(items))
        updates = self.updates if all_rows < self.updates else few
        for row, share in experience.cut(items, updates):
            item = row // self.noises
            number = owner[item] * self.noises + row % self.noises
            yield experience.batch(
                first[item],
                share,
                x0=experience.rollout.latents[experience.here[about[item]]],
                eps=self.noise_of(seeds, number),
                t=level[number],
                label=label[item],
            )

    def gain(self, policy: Policy, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return w (e_ref − e) and w ‖v − v_ref‖² of each segment, both (n, S).

        e is the mean squared error of the prediction. The first value takes the place of the
        log-ratio log p − log p_ref. The second has no gradient: it is the mean of the first
        over clips that the policy itself would draw.
        """
        path, segments = policy.backbone.path, batch.plan.segments
        raw = self.predict(policy, batch)[1]
        mine, other = exact(raw), exact(self.predict_with(policy, batch, self.reference, raw))
        target = path.target(batch["x0"], batch["eps"], batch["t"])
        # e_ref − e as a product: exactly 0 where the predictions are equal, and without the
        # rounding error of a difference of two large squares
        gain = pool((other - mine) * (other + mine - 2 * target), segments)
        distance = pool((mine - other).detach().square(), segments)
        w = self.level_weight(path, target, batch["t"])
        return w * gain, w * distance

    def level_weight(self, path: Path, like: Tensor, t: Tensor) -> Tensor:
        """Return w of each row's noise level, (n, 1).

        w is 1, or the squared derivative of the implied noise with respect to the prediction.
        """
        # ε̂ is linear in the prediction: its derivative is ε̂ at x = 0 and a prediction of 1.
        one = torch.ones_like(like.flatten(1)[:, :1])
        return one if self.weight == "one" else path.split(one, 0 * one, t)[1].square()

    def segment_sizes(self, like: Tensor, plan: Plan) -> Tensor:
        """Return |S_j|/L, the fraction of the clip's latent frames in each segment, (S,)."""
        return segment_fractions(self.backbone.shape[1], plan.segments).to(like) / plan.segments

    @staticmethod
    def labels(experience: Experience, pairs: Tensor) -> Tensor:
        """Return the labels of the files' pairs, (P, S); 1 everywhere if the files have none."""
        expected = len(pairs), experience.rollout.plan.segments
        label = torch.ones(expected) if experience.labels is None else experience.labels
        if label.shape != expected:
            raise ValueError(
                f"expected labels of shape {expected}, one for each pair and segment, got "
                f"{tuple(label.shape)}: set algorithm.options.segments to the number of "
                "labels that a pair has"
            )
        return label
