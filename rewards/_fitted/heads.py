"""Heads of fitted rewards: from the features of frames to the utility of each frame.

Legend: B clips, F frames, K features, M members of an ensemble, H hidden units. The features z
(B, F, K) are standardised; a utility of 1 is one logit of preference.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import pad

Tensors = Mapping[str, Tensor]


def linear(z: Tensor, head: Tensors) -> tuple[Tensor, Tensor]:
    """Return utilities u = w · z, (B, F), and the standard deviation of their mean, (B,).

    head: weights (K,) and their covariance (K, K). The variance of the value of a clip with the
    mean features z̄ is z̄ᵀ Σ z̄: the clip is compared with one of average features.

    >>> head = {"weights": torch.tensor([2.0]), "covariance": torch.tensor([[0.25]])}
    >>> linear(torch.ones(1, 3, 1), head)
    (tensor([[2., 2., 2.]]), tensor([0.5000]))
    """
    mean = z.mean(1)
    variance = torch.einsum("bk,kl,bl->b", mean, head["covariance"].to(z), mean)
    return z @ head["weights"].to(z), _root(variance)


def temporal(z: Tensor, head: Tensors) -> tuple[Tensor, Tensor]:
    """Return the mean utilities of an ensemble, (B, F), and the deviation of its values, (B,).

    Member m: u_t = v · z_t + a · tanh(b + W (z_{t−1}, z_t, z_{t+1})). head: linear (M, K) v, outer
    (M, H) a, bias (M, H) b, window (M, H, 3 K) W. The first and the last frame are repeated.
    """
    each = members(z, head)
    values = each.mean(2)
    return each.mean(0), _root(values.var(0, correction=1 if len(each) > 1 else 0))


def members(z: Tensor, head: Tensors) -> Tensor:
    """Return the utilities of each member of an ensemble, (M, B, F)."""
    padded = pad(z.mT, (1, 1), mode="replicate").mT
    windows = torch.cat([padded[:, :-2], padded[:, 1:-1], padded[:, 2:]], -1)
    hidden = torch.einsum("bfw,mhw->mbfh", windows, head["window"].to(z))
    hidden = (hidden + head["bias"].to(z)[:, None, None]).tanh()
    curved = torch.einsum("mbfh,mh->mbf", hidden, head["outer"].to(z))
    return curved + torch.einsum("bfk,mk->mbf", z, head["linear"].to(z))


def _root(variance: Tensor) -> Tensor:
    """Return the square root, with a finite slope at 0."""
    return variance.clamp(min=1e-12).sqrt()


HEADS = {"linear": linear, "temporal": temporal}


def distance(z: Tensor, precision: Tensor) -> Tensor:
    """Return the Mahalanobis distance of clips from the average clip of the fit, (B,).

    √(z̄ᵀ P z̄) with the mean features z̄ of a clip and the precision P (K, K) of the fit's clips.

    >>> distance(torch.tensor([[[3.0, 4.0]]]), torch.eye(2))
    tensor([5.])
    """
    mean = z.mean(1)
    return _root(torch.einsum("bk,kl,bl->b", mean, precision.to(z), mean))
