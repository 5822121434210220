"""DPO learns from pairs: Diffusion-DPO (arXiv 2311.12908), and Flow-DPO (2501.13918) on a flow.

With labels of segments, the loss is that of DenseDPO (2506.03517).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from vidrl.rewards import Reward
from vidrl.training.policy import Policy

from ._preference import Preference
from .base import Batch, Experience, Loss


@dataclass(eq=False, kw_only=True)
class DPO(Preference):
    """DPO raises the fit of the better clip of a pair and lowers that of the worse, by segment.

    L = −log σ(−½ β Σ_j (|S_j|/L) h_j [(e_w − e_w,ref) − (e_l − e_l,ref)]_j), at one noise
    and one time: w is the chosen clip and l the rejected one, and both get the same noise. e_j
    is the mean squared error of the prediction in segment j. h_j is 1 where the chosen clip is
    better in segment j, −1 where it is worse, and 0 where the two tie: such a segment has no
    gradient. With one segment, or all h_j = 1, it is Diffusion-DPO.

    The pairs of a round are the best sample of a group with its worst, the second best with the
    second worst and so on, `pairs` a group; h_j compares their advantages in segment j. Two
    samples that tie are no pair. A sample whose advantage is 0, such as an unscored one, is in
    no pair. A round in which all samples tie takes no optimiser step, and events.jsonl says so.
    The pairs of files (data.pairs) have the labels of the files; a label of the whole clip
    counts for each segment.

    Logged: `implicit_accuracy`, the fraction of pairs whose winner the policy prefers more than
    the reference does; `margin`, the argument of σ; `winner_displacement` and
    `loser_displacement`, e_ref − e in the segments that won and in those that lost. DPO often
    pushes both below 0: the policy then unlearns the winners too, only less than the losers.
    """

    pairs: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pairs < 1:
            raise ValueError(f"expected at least one pair a group, got pairs = {self.pairs}")

    def check(self, reward: Reward, group: int) -> None:
        super().check(reward, group)
        if self.pairs > group // 2:
            raise ValueError(
                f"expected at most {group // 2} pairs of a group of {group}, because a "
                f"sample is in one pair, got algorithm.options.pairs = {self.pairs}: lower "
                f"it, or raise train.group to {2 * self.pairs}"
            )

    def unread(self, reward: Reward, pairs: bool) -> dict[str, str]:
        found = super().unread(reward, pairs)
        return found | ({"pairs": "each row of data.pairs is one pair"} if pairs else {})

    def labelled_rows(self, experience: Experience) -> tuple[Tensor, Tensor]:
        """Return the pairs of the files or those of `ranked`, and their segments' labels."""
        if experience.pairs is not None:
            return experience.pairs, self.labels(experience, experience.pairs)
        sizes = self.segment_sizes(experience.advantage, experience.rollout.plan)
        return ranked(experience, sizes, self.pairs)

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        gain = self.gain(policy, _rows_of_pairs(batch))[0].unflatten(0, (-1, 2))  # (n, 2, S)
        label = batch["label"]
        better = label.to(gain) * (gain[:, 0] - gain[:, 1])
        margin = 0.5 * self.beta * (self.segment_sizes(gain, batch.plan) * better).sum(1)
        chosen, rejected = gain.detach().unbind(1)
        return Loss(
            -logsigmoid(margin).mean(),
            {
                # ½ while the policy is the reference
                "implicit_accuracy": (margin.detach().sign() + 1) / 2,
                "margin": margin.detach(),
                "winner_displacement": torch.where(label > 0, chosen, rejected)[label != 0],
                "loser_displacement": torch.where(label > 0, rejected, chosen)[label != 0],
            },
        )

    def divergence(
        self, policy: Policy, batch: Batch, raw: Tensor | None = None, name: str = "reference"
    ) -> Tensor:
        return super().divergence(policy, _rows_of_pairs(batch), raw, name)


def ranked(experience: Experience, sizes: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Return the pairs of each group, (P, 2), and their labels, (P, S).

    Pairs are the best and the worst sample, the second best and the second worst, and so on, at
    most `most` a group. `sizes` (S,) are the fractions |S_j|/L of the clip. Samples without
    advantage are put in the middle of their group, where they pair with each other, and the
    labels of their pairs are 0.
    """
    advantage = experience.advantage
    credit = advantage.mean(1) if advantage.dim() == 3 else advantage
    clip, able = (credit * sizes).sum(1), credit.any(1)
    found = []
    for number in experience.group.unique():
        members = (experience.group == number).nonzero().flatten()
        order = members[clip[members].argsort(descending=True, stable=True)]
        good, half = order[able[order]], int(able[order].sum() + 1) // 2
        order = torch.cat([good[:half], order[~able[order]], good[half:]])
        found.append(torch.stack([order, order.flip(0)], 1)[: min(most, len(order) // 2)])
    pairs = torch.cat(found)
    label = (credit[pairs[:, 0]] - credit[pairs[:, 1]]).sign()
    return pairs, label * able[pairs].all(1, keepdim=True)


def _rows_of_pairs(batch: Batch) -> Batch:
    """Return a batch in which the two clips of each pair are two rows, at one noise and time."""
    data = {"x0": batch["x0"].flatten(0, 1)}
    data |= {name: batch[name].repeat_interleave(2, 0) for name in ("eps", "t")}
    cond = {name: value.repeat_interleave(2, 0) for name, value in batch.cond.items()}
    return Batch(data, cond, [p for p in batch.prompts for _ in (0, 1)], batch.share, batch.plan)
