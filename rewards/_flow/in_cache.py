"""Arithmetic on a few frames at a time, whose intermediate results stay in the CPU's cache.

Shapes: B clips, T frames or pairs of frames.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Numbers of the largest tensor in a piece, 1 MB. Larger intermediate results leave the cache, and
# the operating system takes their memory back and clears it again, which takes longer than the
# arithmetic.
NUMBERS = 250_000


def in_cache(compute: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Return `compute(*tensors)`, on a CPU computed for a few frames at a time.

    The tensors are (B, T, ...) or (B, 1, ...), and `compute` returns (B, T, ...). An entry
    (b, t) of the result must depend only on the entries (b, t) of the tensors. Other devices, and
    tensors that need a gradient, are computed at once.

    >>> frames = torch.rand(2, 5, 3, 300, 400)
    >>> in_cache(lambda part: part.mean((2, 3, 4)), frames).shape
    torch.Size([2, 5])
    """
    clips, frames = tensors[0].shape[:2]
    # of a frame, at least one number: an empty tensor has none
    size = max(1, NUMBERS // max(1, *(x[:1, :1].numel() for x in tensors)))
    graph = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    if clips * frames <= size or graph or tensors[0].device.type != "cpu":
        return compute(*tensors)
    if frames <= size:
        several = size // frames
        return torch.cat([compute(*part) for part in zip(*(x.split(several) for x in tensors))])
    pieces = -(-frames // size)
    ends = [frames * k // pieces for k in range(pieces + 1)]
    return torch.cat(
        [
            torch.cat(
                [
                    compute(
                        *(
                            x[b : b + 1, start:end] if x.shape[1] > 1 else x[b : b + 1]
                            for x in tensors
                        )
                    )
                    for start, end in zip(ends, ends[1:])
                ],
                1,
            )
            for b in range(clips)
        ]
    )
