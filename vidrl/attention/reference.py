"""Compute attention as the formula says, in float32, as the reference of every proof.

Queries are computed in pieces, and each piece again in the backward pass, so that the memory
grows with the length, and not with its square.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .kernels import WIDE, Kernel, additive

PIECE = 2**26  # weights that are held at once


def written_out(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
    *,
    rounded: bool = False,
) -> Tensor:
    """Return softmax(scale · q kᵀ + mask) v, in float32 or float64 inside, in the type of v.

    `rounded` rounds the weights to the type of v, as kernels of half precision do.

    Example:
        >>> q = torch.zeros(1, 1, 2, 4)
        >>> v = torch.tensor([[[[1.0], [3.0]]]])
        >>> written_out(q, q, v).flatten().tolist()
        [2.0, 2.0]
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    size = max(1, PIECE // max(1, q.shape[0] * q.shape[1] * k.shape[2]))
    starts = range(0, q.shape[2], size)
    if len(starts) == 1:
        return _piece(q, k, v, mask, causal, scale, rounded, 0)
    pieces = []
    for start in starts:
        rows = slice(start, start + size)
        by_row = mask is not None and mask.dim() > 1 and mask.shape[-2] > 1
        own = mask[..., rows, :] if by_row and mask is not None else mask
        inputs = (q[:, :, rows], k, v, own, causal, scale, rounded, start)
        pieces.append(checkpoint(_piece, *inputs, use_reentrant=False))
    return torch.cat(pieces, 2)


def _piece(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    causal: bool,
    scale: float,
    rounded: bool,
    start: int,
) -> Tensor:
    """Return the attention of some queries, the first of which is number `start`."""
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    # without autocast, which would lower the precision of the products
    with torch.autocast(q.device.type, enabled=False):
        scores = scale * (q.to(wide) @ k.to(wide).transpose(-1, -2))
        if causal:
            numbers = torch.arange(q.shape[2], device=q.device)[:, None] + start
            mask = numbers >= torch.arange(k.shape[2], device=q.device)
        scores = scores if mask is None else scores + additive(mask, wide)
        # torch returns 0 for a query whose keys are all hidden
        blind = scores.isneginf().all(-1, keepdim=True)
        weights = scores.masked_fill(blind, 0.0).softmax(-1).masked_fill(blind, 0.0)
        weights = weights.to(v.dtype).to(wide) if rounded else weights
        return (weights @ v.to(wide)).to(v.dtype)


REFERENCE = Kernel("the formula in float32", "written out", written_out, dtypes=WIDE)
ROUNDED = Kernel(
    "the formula with rounded weights", "written out", partial(written_out, rounded=True)
)
