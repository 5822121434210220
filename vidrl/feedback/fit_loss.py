"""The log-likelihood of labels, given the utility of each clip and each frame.

Legend: N answers, P points, L levels. Utilities are in logits.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def davidson(gap: Tensor, choice: Tensor, tie: Tensor) -> Tensor:
    """Return the log-probability of choices 1, 0 (a tie) and −1, (N,).

    The same model as `vidrl.feedback.bradley_terry.log_likelihood`, with gradients.

    >>> davidson(torch.zeros(1), torch.ones(1), torch.tensor(0.0)).exp()
    tensor([0.3333])
    """
    half = gap / 2
    logit = torch.where(choice == 0, tie.expand_as(half), choice * half)
    return logit - torch.logaddexp(torch.logaddexp(half, -half), tie.expand_as(half))


def ordinal(utility: Tensor, level: Tensor, thresholds: Tensor) -> Tensor:
    """Return the log-probability of levels 0 to L − 1, (P,): the proportional-odds model.

    P(level ≤ k) = σ(θ_k − u) with ascending thresholds θ (L − 1,); McCullagh 1980. Thresholds
    that do not ascend have no probability, and give NaN.

    >>> ordinal(torch.zeros(1), torch.tensor([1]), torch.tensor([0.0])).exp()
    tensor([0.5000])
    """
    far = torch.full((1,), 1e4).to(thresholds)
    ends = torch.cat([-far, thresholds, far])
    high, low = ends[level + 1] - utility, ends[level] - utility
    # log(σ(high) − σ(low)) = log σ(high) + log σ(−low) + log(1 − e^(low − high))
    return logsigmoid(high) + logsigmoid(-low) + torch.log1p(-torch.exp(low - high))
