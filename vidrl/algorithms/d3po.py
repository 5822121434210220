"""D3PO (arXiv 2311.13231) is direct preference optimisation on the denoising steps of two clips."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from vidrl.diffusion import transition
from vidrl.diffusion.schedule import segment_fractions
from vidrl.training.policy import Policy

from ._credit import Credited
from ._trajectory import Trajectory
from .base import Batch, Experience, Loss


@dataclass(eq=False, kw_only=True)
class D3PO(Credited, Trajectory):
    """D3PO prefers the steps that led to the best clip of a group to those of the worst clip.

    L = mean over rows of −log σ(τ mean_j h_j [log clip(ρ_w,j) − log clip(ρ_l,j)]), where w is
    the best clip of a group and l the worst, ρ_j = p_j/p_ref,j of a step in segment j, clip is
    to 1 ± ε√S, and h_j = ±1 says which of the two is better in segment j. A group whose clips
    tie is left out.

    Options of the loss: `temperature` τ.
    """

    temperature: float = 0.1
    clip_range: float = 1e-2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature <= 0 or self.clip >= 1:
            raise ValueError(
                "expected temperature > 0 and clip_range √segments < 1, got "
                f"{(self.temperature, self.clip)}: the logarithm of a ratio needs a ratio above 0"
            )

    def minibatches(self, experience: Experience) -> Iterator[Batch]:
        pairs, better = best_and_worst(experience.advantage, experience.group)
        rollout, plan = experience.rollout, experience.rollout.plan
        if not len(pairs):
            return
        kept, step = len(plan.keep), torch.tensor(plan.keep)
        times = torch.tensor(plan.times, dtype=torch.float64)
        better = better * segment_fractions(self.backbone.shape[1], plan.segments).to(better)
        weights = self.step_weights(plan)
        # a row is one pair at one kept step; both clips of the pair are in one process
        for item, share in experience.cut(pairs.repeat_interleave(kept, 0), self.updates):
            pair, k = pairs[item // kept], item % kept
            row = experience.here[pair]
            yield experience.batch(
                pair[:, 0],
                share,
                x=rollout.before[row, k[:, None]],
                after=rollout.after[row, k[:, None]],
                t=times[step[k]],
                s=times[step[k] + 1],
                better=better[item // kept],
                step_weight=weights[k],
            )

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        both = _rows_of_pairs(batch)
        step = self.step(policy, both)
        with torch.no_grad(), policy.using("reference"):
            reference = self.log_density(self.step(policy, both), both)
        ratio = (self.log_density(step, both) - reference).exp()
        gain = ratio.clamp(1 - self.clip, 1 + self.clip).log().unflatten(0, (-1, 2))
        margin = self.temperature * (batch["better"].to(gain) * (gain[:, 0] - gain[:, 1])).mean(1)
        terms = -batch["step_weight"].to(margin) * logsigmoid(margin)
        right = (margin.detach().sign() + 1) / 2  # ½ while the policy is the reference
        return Loss(
            terms.mean() + self.penalty(policy, both, step),
            {"implicit_accuracy": right, "reference_ratio": ratio.detach()},
        )

    def divergence(
        self,
        policy: Policy,
        batch: Batch,
        step: transition.Step | None = None,
        weight: Tensor | None = None,
        name: str = "reference",
    ) -> Tensor:
        # `penalty` calls it with a step, and then with rows that are clips already
        rows = batch if step else _rows_of_pairs(batch)
        return super().divergence(policy, rows, step, weight, name)


def best_and_worst(advantage: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """Return the best and the worst sample of each group, (P, 2), and which is better, (P, S).

    The second value is 1 where the best sample is better in a segment, −1 where it is worse.
    Groups in which all samples tie are left out.

    Example:
        >>> advantage = torch.tensor([[1.0, 1.0], [-2.0, 3.0], [0.5, -1.0]])
        >>> best_and_worst(advantage, torch.tensor([0, 0, 0]))
        (tensor([[0, 2]]), tensor([[1., 1.]]))
    """
    credit, found = advantage.mean(1) if advantage.dim() == 3 else advantage, []
    for number in group.unique():
        members = (group == number).nonzero().flatten()
        clip = credit[members].mean(1)
        found.append(torch.stack([members[clip.argmax()], members[clip.argmin()]]))
    pairs = torch.stack(found)
    pairs = pairs[(credit[pairs[:, 0]].mean(1) > credit[pairs[:, 1]].mean(1))]
    return pairs, (credit[pairs[:, 0]] - credit[pairs[:, 1]]).sign()


def _rows_of_pairs(batch: Batch) -> Batch:
    """Return a batch in which the two steps of each pair are two rows."""
    data = {name: batch[name].flatten(0, 1) for name in ("x", "after")}
    data |= {name: batch[name].repeat_interleave(2, 0) for name in ("t", "s")}
    cond = {name: value.repeat_interleave(2, 0) for name, value in batch.cond.items()}
    return Batch(data, cond, [p for p in batch.prompts for _ in (0, 1)], batch.share, batch.plan)
