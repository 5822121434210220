"""D3PO (arXiv 2311.13231): direct preference optimisation on the denoising steps of two
clips."""

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
    """Preferences between the steps that made the best and the worst clip of a group, by
    segment.

    L = mean over rows of −log σ(τ mean_j h_j [log clip(ρ_w,j) − log clip(ρ_l,j)]), where w
    is the best clip of a group and l the worst, ρ_j = p_j/p_ref,j of a step in segment j,
    clip is to 1 ± ε√S, and h_j = ±1 says which of the two is better in segment j. A group
    whose clips tie is left out.

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

    def minibatches(self, seen: Experience) -> Iterator[Batch]:
        pairs, better = best_and_worst(seen.advantage, seen.group)
        rollout, plan, kept = seen.rollout, seen.rollout.plan, len(seen.rollout.plan.keep)
        if not len(pairs):
            return
        times, at = torch.tensor(plan.times, dtype=torch.float64), torch.tensor(plan.keep)
        better = better * segment_fractions(self.backbone.shape[1], plan.segments).to(better)
        count = self.step_weights(plan)
        for item, share in seen.cut(pairs.repeat_interleave(kept, 0), self.updates):
            pair, k = pairs[item // kept], item % kept
            row = seen.here[pair]
            yield seen.batch(
                pair[:, 0],
                share,
                x=rollout.before[row, k[:, None]],
                after=rollout.after[row, k[:, None]],
                t=times[at[k]],
                s=times[at[k] + 1],
                better=better[item // kept],
                count=count[k],
            )

    def loss(self, policy: Policy, batch: Batch) -> Loss:
        both = _apart(batch)
        step = self.step(policy, both)
        with torch.no_grad(), policy.using("reference"):
            base = self.log_density(self.step(policy, both), both)
        ratio = (self.log_density(step, both) - base).exp()
        gain = ratio.clamp(1 - self.clip, 1 + self.clip).log().unflatten(0, (-1, 2))
        margin = self.temperature * (batch["better"].to(gain) * (gain[:, 0] - gain[:, 1])).mean(1)
        value = -(batch["count"].to(margin) * logsigmoid(margin)).mean() + self.penalty(
            policy, both, step
        )
        right = (margin.detach().sign() + 1) / 2  # ½ while the policy is the reference
        return Loss(value, {"implicit_accuracy": right, "reference_ratio": ratio.detach()})

    def divergence(
        self,
        policy: Policy,
        batch: Batch,
        step: transition.Step | None = None,
        weight: Tensor | None = None,
        name: str = "reference",
    ) -> Tensor:
        return super().divergence(policy, batch if step else _apart(batch), step, weight, name)


def best_and_worst(advantage: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """The best and the worst sample of each group that does not tie, (P, 2), and who is
    better where, (P, S).

    Example:
        >>> best_and_worst(torch.tensor([[1.0, 1.0], [-2.0, 3.0], [0.5, -1.0]]), torch.tensor([0, 0, 0]))
        (tensor([[0, 2]]), tensor([[1., 1.]]))
    """
    credit, found = advantage.mean(1) if advantage.dim() == 3 else advantage, []
    for number in group.unique():
        members = (group == number).nonzero().flatten()
        whole = credit[members].mean(1)
        found.append(torch.stack([members[whole.argmax()], members[whole.argmin()]]))
    pairs = torch.stack(found)
    pairs = pairs[(credit[pairs[:, 0]].mean(1) > credit[pairs[:, 1]].mean(1))]
    return pairs, (credit[pairs[:, 0]] - credit[pairs[:, 1]]).sign()


def _apart(batch: Batch) -> Batch:
    """The two steps of each pair as rows of their own."""
    data = {name: batch[name].flatten(0, 1) for name in ("x", "after")}
    data |= {name: batch[name].repeat_interleave(2, 0) for name in ("t", "s")}
    cond = {name: value.repeat_interleave(2, 0) for name, value in batch.cond.items()}
    return Batch(data, cond, [p for p in batch.prompts for _ in (0, 1)], batch.share, batch.plan)
