"""Noise levels of the forward process: at which times a clean sample gets noise.

Legend: I items, M noises of an item; levels t in (0, 1], where t = 1 is pure noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def stratified(items: int, noises: int, draw: torch.Generator) -> Tensor:
    """Draw one number u in each of M equal parts of [0, 1), (I, M).

    The levels of an item then cover the whole range, which lowers the variance of the loss.

    Example:
        >>> (stratified(1, 4, torch.Generator().manual_seed(0)) * 4).floor()
        tensor([[0., 1., 2., 3.]], dtype=torch.float64)
    """
    u = torch.rand(items, noises, generator=draw, dtype=torch.float64)
    return (u + torch.arange(noises)) / noises


def levels(u: Tensor, how: str, low: float, high: float, times: Sequence[float]) -> Tensor:
    """Map uniform numbers u in [0, 1) to levels t in [low, high], of the shape of u.

    - "uniform": low + u (high − low).
    - "logit_normal": the quantile u of t = 1/(1 + exp(−z)), z a unit Gaussian, restricted to
      the range (Stable Diffusion 3, arXiv 2403.03206).
    - "discrete": one of the sampler's own `times` in the range, with equal probability. Raises
      ValueError if the range contains none.

    Example:
        >>> u = torch.tensor([0.0, 0.5, 0.9])
        >>> levels(u, "discrete", 0.1, 1.0, [1.0, 0.5, 0.0])
        tensor([0.5000, 1.0000, 1.0000], dtype=torch.float64)
    """
    if how == "uniform":
        return low + (high - low) * u
    if how == "discrete":
        own = torch.tensor(sorted(t for t in times if low <= t <= high), dtype=torch.float64)
        if not len(own):
            raise ValueError(
                f"expected one of the sampler's times from algorithm.options.low = {low} to high = "
                f"{high}, got none of {[round(t, 4) for t in times]}: widen the range, or take "
                "more steps"
            )
        return own[(u * len(own)).long()]
    # Φ(logit t) is the distribution function of t; low and high may be 0 and 1, where it is exact
    ends = torch.special.ndtr(torch.tensor([low, high], dtype=torch.float64).logit())
    return torch.special.ndtri(ends[0] + (ends[1] - ends[0]) * u).sigmoid()
