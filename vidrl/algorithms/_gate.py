"""`Gated` limits the KL to the samples whose reward is uncertain (GARDO, arXiv 2512.24138).

A KL on every sample also holds back the good ones. GARDO applies it only to the samples that
the trained reward ranks higher than other rewards do, because there the reward may be wrong.
Here the other rewards are the parts of the composite, including parts of weight 0, which only
judge. The reference of this KL may move. Legend: N samples of a round, P parts, n rows of a
minibatch.
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
    """Return the fraction of the other scored samples that each sample beats, (N,).

    A tie counts half; an unscored sample gets NaN.

    Example:
        >>> win_rate(torch.tensor([3.0, 1.0, 1.0, float("nan")]))
        tensor([1.0000, 0.2500, 0.2500,    nan])
    """
    scored = ~value.isnan()
    wins = (value[:, None] > value).double() + 0.5 * (value[:, None] == value).double()
    # every sample ties with itself, which added ½
    rate = (wins[:, scored].sum(1) - 0.5) / max(int(scored.sum()) - 1, 1)
    return rate.masked_fill(~scored, torch.nan).to(value)


def uncertainty(score: Score) -> Tensor:
    """Return U = w(r) − mean over parts p of w(r_p), (N,), where w is the `win_rate`.

    U > 0 means that the composite ranks a sample higher than its parts do. For a part that
    counts, r_p is what it adds to the composite, so that more is better even under a band; for
    a part of weight 0, r_p is its value. Parts that leave a sample unscored are ignored for it.

    Example:
        >>> high, low = torch.tensor([9.0, 1.0, 2.0]), torch.tensor([0.0, 1.0, 2.0])
        >>> parts = {"a": Score(high), "b": Score(low)}
        >>> uncertainty(Score(high + low, parts=parts))  # only part a prefers the first clip
        tensor([ 0.5000, -0.2500, -0.2500])
    """
    values = [
        score.adds[name][:, 0].masked_fill(part.value.isnan(), torch.nan)
        if score.weights.get(name) and name in score.adds
        else part.value
        for name, part in score.parts.items()
    ]
    return win_rate(score.value) - torch.stack([win_rate(part) for part in values]).nanmean(0)


def kl_weights(uncertain: Tensor, fraction: float) -> Tensor:
    """Return the weight of each sample in the KL, (N,): 0, or N / (the samples with a KL).

    The mean over all samples of weight · KL is then the mean KL of the chosen ones. Chosen are,
    of the samples with U > 0, the `fraction` with the largest U, at least one, and those that
    tie with the last of them.

    Example:
        >>> kl_weights(torch.tensor([0.1, 0.4, -0.3, 0.2]), 0.5)  # half of three, rounded up
        tensor([0., 2., 0., 2.])
    """
    above = uncertain[uncertain > 0].sort(descending=True).values
    if not len(above):
        return torch.zeros_like(uncertain)
    chosen = (uncertain >= above[ceil(fraction * len(above)) - 1]).to(uncertain)
    return chosen * (len(chosen) / chosen.sum())


@dataclass(eq=False, kw_only=True)
class Gated(Algorithm):
    """An algorithm whose KL may be limited to uncertain samples, and whose reference may move.

    Options of the KL:
    - `gate`, the fraction of the uncertain samples that the KL applies to (`kl_weights`); 0
      applies it to all samples, and GARDO has about 0.1.
    - `reference_every`: after every so many rounds, the weights to which the KL holds the
      policy become the live ones; with 0 they stay those of the base model.

    The logged `kl` is always of all samples, to the base model.
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
                "expected a KL in the loss for algorithm.options.gate and reference_every, got "
                "none: "
                + (f"set {cure} above 0" if cure else "this algorithm has no KL; set both to 0")
            )

    def check(self, reward: Reward, group: int) -> None:
        super().check(reward, group)
        if self.gate and len(getattr(reward, "parts", {})) < 2:
            raise ValueError(
                "expected a composite of two or more parts for algorithm.options.gate, whose "
                "disagreement says which rewards are uncertain: name them in [reward.parts] (a "
                "part of weight 0 judges and does not train), or set gate = 0"
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
        """Return the name of the set of weights to which the KL of the loss holds the policy."""
        return "anchor" if self.reference_every else "reference"

    def gated(self, experience: Experience, sample: Tensor) -> dict[str, Tensor]:
        """Return the KL's weights (n,) of rows about these samples, as data for a batch.

        The mapping is empty if all samples have the same weight.
        """
        if not self.gate or experience.score is None:
            return {}
        weights = kl_weights(uncertainty(experience.score), self.gate)
        # sample j · N + i is chunk j of clip i
        sample = sample % len(weights)
        return {"kl_weight": weights[sample.to(weights.device)]}
