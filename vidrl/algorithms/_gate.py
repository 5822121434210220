"""A KL for the samples whose reward is uncertain, to a reference that moves (GARDO, arXiv
2512.24138).

A KL on every sample also holds back the good ones. GARDO holds those alone that the trained
reward ranks higher than other rewards do; here these others are the parts of the composite,
among them parts of weight 0, which judge and do not train. Legend: N samples of a round, P
parts, n rows of a minibatch.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import ClassVar

import torch
from torch import Tensor

from vidrl.rewards import Reward, Score
from vidrl.training.policy import Policy

from .base import Algorithm, Experience


def win_rate(value: Tensor) -> Tensor:
    """The share of the other scored samples that each of N is better than, a tie counts
    half; NaN where unscored.

    Example:
        >>> win_rate(torch.tensor([3.0, 1.0, 1.0, float("nan")]))
        tensor([1.0000, 0.2500, 0.2500,    nan])
    """
    known = ~value.isnan()
    ahead = (value[:, None] > value).double() + 0.5 * (value[:, None] == value).double()
    # without the tie with itself
    others = (ahead[:, known].sum(1) - 0.5) / max(int(known.sum()) - 1, 1)
    return others.masked_fill(~known, torch.nan).to(value)


def uncertainty(score: Score) -> Tensor:
    """U = w(r) − mean over parts p of w(r_p), with w the win rate, (N,): above 0 where the
    reward alone likes a sample.

    Of a part that counts, r_p is what it adds to the composite, so that more is better also
    under a band; of a part of weight 0, it is its value. A part that leaves a sample
    unscored has no say in it.

    Example:
        >>> parts = {"a": Score(torch.tensor([9.0, 1.0, 2.0])), "b": Score(torch.tensor([0.0, 1.0, 2.0]))}
        >>> uncertainty(Score(torch.tensor([9.0, 2.0, 4.0]), parts=parts))  # only part a likes the first clip
        tensor([ 0.5000, -0.2500, -0.2500])
    """
    # it adds nothing, and has no say either
    said = [
        score.adds[name][:, 0].masked_fill(part.value.isnan(), torch.nan)
        if score.weights.get(name) and name in score.adds
        else part.value
        for name, part in score.parts.items()
    ]
    return win_rate(score.value) - torch.stack([win_rate(one) for one in said]).nanmean(0)


def held(uncertain: Tensor, share: float) -> Tensor:
    """Weights (N,) of a KL that is the mean over the held samples: N / their number for
    these, 0 for the others.

    Held is, of the samples with U > 0, the share with the largest U, at least one of them,
    and those that tie with it.

    Example:
        >>> held(torch.tensor([0.1, 0.4, -0.3, 0.2]), 0.5)  # the upper half of three, rounded up
        tensor([0., 2., 0., 2.])
    """
    above = uncertain[uncertain > 0].sort(descending=True).values
    if not len(above):
        return torch.zeros_like(uncertain)
    chosen = (uncertain >= above[ceil(share * len(above)) - 1]).to(uncertain)
    return chosen * (len(chosen) / chosen.sum())


@dataclass(eq=False, kw_only=True)
class Gated(Algorithm):
    """Which samples the KL of the loss holds, and to what.

    Options of the KL: `gate`, the share of the uncertain samples that the KL holds (see
    `held`); 0 holds all samples, and GARDO has about 0.1. After every `reference_every`
    rounds the weights to which the KL holds the policy become the live ones; with 0 they
    stay the base model's. The logged `kl` is always of all samples, to the base model.
    """

    # the options whose value above 0 puts a KL into the loss
    coefficients: ClassVar[tuple[str, ...]] = ()

    gate: float = 0.0
    reference_every: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.gate <= 1 or self.reference_every < 0:
            raise ValueError(
                "expected gate in [0, 1] and reference_every ≥ 0, got "
                f"{(self.gate, self.reference_every)}"
            )
        if (self.gate or self.reference_every) and not any(
            getattr(self, name) for name in self.coefficients
        ):
            cure = " or ".join(f"algorithm.options.{name}" for name in self.coefficients)
            raise ValueError(
                "expected a KL in the loss for algorithm.options.gate and reference_every, got none: "
                + (f"set {cure} above 0" if cure else "this algorithm has no KL; set both to 0")
            )

    def check(self, reward: Reward, group: int) -> None:
        super().check(reward, group)
        if self.gate and len(getattr(reward, "parts", {})) < 2:
            raise ValueError(
                "expected a composite of two or more parts for algorithm.options.gate, whose disagreement "
                "says which rewards are uncertain: name them in [reward.parts] (a part of weight 0 judges "
                "and does not train), or set gate = 0"
            )

    def setup(self, policy: Policy, reward: Reward, group: int) -> None:
        super().setup(policy, reward, group)
        if self.reference_every:
            policy.remember(self.anchor)

    def after(self, policy: Policy, round: int) -> None:
        super().after(policy, round)
        if self.reference_every and (round + 1) % self.reference_every == 0:
            policy.remember(self.anchor)

    @property
    def anchor(self) -> str:
        """The set of weights to which the KL of the loss holds the policy."""
        return "anchor" if self.reference_every else "reference"

    def gated(self, seen: Experience, sample: Tensor) -> dict[str, Tensor]:
        """The KL's weights (n,) of rows about these samples, for `Experience.batch`; empty
        where it holds all alike."""
        if not self.gate or seen.score is None:
            return {}
        return {
            "held": held(uncertainty(seen.score), self.gate)[sample.to(seen.score.value.device)]
        }
