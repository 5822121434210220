"""Chunk advantages without ratios, as RLinf trains them: NFT by segments whose steps are
bounded.

RLinf's public code (rlinf/algorithms/losses.py, `compute_nft_actor_loss`) gives each chunk
of actions an advantage of its own, and shortens Δv = v − v_old of a chunk to a norm of at
most `max_drift`. NFT with segments has everything but this bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vidrl.algorithms.base import Batch
from vidrl.algorithms.nft import NFT
from vidrl.diffusion.segments import borders
from vidrl.training.policy import Policy


def shortened(change: Tensor, segments: int, most: float) -> Tensor:
    """Δv (n, C, L, h, w), of each segment the vector shortened to a norm of at most `most`.

    Example:
        >>> shortened(torch.tensor([3.0, 4.0, 0.3, 0.4]).view(1, 1, 4, 1, 1), 2, 1.0).flatten()
        tensor([0.6000, 0.8000, 0.3000, 0.4000])
    """
    sizes = [b - a for a, b in borders(change.shape[2], segments)]
    parts = [
        part * (most / part.flatten(1).norm(dim=1).clamp(min=most)).reshape(-1, 1, 1, 1, 1)
        for part in change.split(sizes, 2)
    ]
    return torch.cat(parts, 2)


@dataclass(eq=False, kw_only=True)
class ChunkNFT(NFT):
    """NFT whose v± are v_old ± β Δv_j, with Δv_j of segment j shortened to a norm of
    `max_drift`.

    The norm is over the channels, frames and pixels of a segment; 0.5 is RLinf's default.
    The gradient goes through the shortening: along Δv_j it is 0 for a segment that is
    shortened. The KL of the loss is of v itself.
    """

    max_drift: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_drift <= 0:
            raise ValueError(
                f"expected max_drift > 0, the longest step of a segment, got {self.max_drift}"
            )

    def errors(
        self, policy: Policy, batch: Batch, x: Tensor, raw: Tensor, old: Tensor
    ) -> tuple[Tensor, Tensor]:
        near = old + shortened(raw - old, batch.plan.segments, self.max_drift)
        return super().errors(policy, batch, x, near, old)
