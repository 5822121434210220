"""KTO learns from single clips: Diffusion-KTO (arXiv 2404.04465; KTO is 2402.01306)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vidrl.training.policy import Policy

from ._preference import Preference
from .base import Batch, Experience, Loss


@dataclass(eq=False, kw_only=True)
class KTO(Preference):
    """KTO learns from single clips, each desirable or undesirable in each of its segments.

    L = Σ_j (|S_j|/L) λ_j (1 − σ(h_j β (ρ_j − z_j))), with ρ_j = e_j,ref − e_j in place of
    the log-ratio, where e_j is the mean squared error of the prediction in segment j. h_j is 1
    where a sample is desirable in segment j, −1 where it is undesirable, and 0 where it has no
    label: such a segment has no gradient. λ_j is the option `desirable` or `undesirable`.

    z_j is the reference point of prospect theory: ‖v − v_ref‖²_j without gradient, which is the
    mean of ρ_j over what the policy itself would draw, a KL. Diffusion-KTO's code estimates
    this KL by the mean of ρ over a batch, not below 0; the exact value does not depend on how a
    batch is cut into micro-batches.

    The samples of a round are desirable where their advantage is above 0, that is above
    their group's mean, and undesirable where it is below. A round without any takes no
    optimiser step, and events.jsonl says so. Of the pairs of files (data.pairs) the chosen
    clip is desirable and the rejected one undesirable, in each segment as the files' labels
    say; a label of the whole clip counts for each segment.

    Logged: `implicit_accuracy`, the fraction of labelled segments on the right side of z;
    `margin`, the argument of σ; `winner_displacement` and `loser_displacement`, ρ of
    desirable and of undesirable segments.
    """

    beta: float = 1000.0
    desirable: float = 1.0
    undesirable: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = sorted((self.desirable, self.undesirable))
        if low < 0 or high == 0:
            raise ValueError(
                "expected desirable and undesirable, the weights, ≥ 0 and not both 0, got "
                f"{self.desirable} and {self.undesirable}"
            )

    def labelled_rows(self, experience: Experience) -> tuple[Tensor, Tensor]:
        """Return the samples, with 1 for their desirable segments and −1 for the undesirable."""
        if experience.pairs is not None:
            chosen = self.labels(experience, experience.pairs)
            return experience.pairs.flatten(), torch.stack([chosen, -chosen], 1).flatten(0, 1)
        advantage = experience.advantage
        credit = advantage.mean(1) if advantage.dim() == 3 else advantage
        return torch.arange(len(credit)), credit.sign()

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        gain, point = self.gain(policy, batch)
        label = batch["label"].to(gain)
        margin = label * self.beta * (gain - point)
        weight = self.desirable * (label > 0) + self.undesirable * (label < 0)
        value = self.mean(weight * (1 - torch.sigmoid(margin)), batch.plan)
        labelled, moved = margin.detach()[label != 0], gain.detach()
        metrics = {
            "implicit_accuracy": (labelled.sign() + 1) / 2,
            "margin": labelled,
            "winner_displacement": moved[label > 0],
            "loser_displacement": moved[label < 0],
        }
        # a micro-batch may have winners alone; the mean of nothing would be NaN
        return Loss(value, {name: each for name, each in metrics.items() if len(each)})
