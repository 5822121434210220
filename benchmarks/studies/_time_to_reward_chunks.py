"""Define the arm "chunks": NFT by segments with bounded steps, after RLinf's code.

RLinf's code (rlinf/algorithms/losses.py, `compute_nft_actor_loss`) gives each chunk of
actions an advantage, uses no ratios, and shortens the Δv = v − v_old of a chunk to a norm
of at most `max_drift`. NFT with segments has everything but this bound.
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
    """Shorten Δv (n, C, L, h, w) so that the norm of each segment is at most `most`.

    Example:
        >>> shortened(torch.tensor([3.0, 4.0, 0.3, 0.4]).view(1, 1, 4, 1, 1), 2, 1.0).flatten()
        tensor([0.6000, 0.8000, 0.3000, 0.4000])
    """
    sizes = [b - a for a, b in borders(change.shape[2], segments)]
    parts = [  # clamping the norm from below makes the factor 1 for segments that are short enough
        part * (most / part.flatten(1).norm(dim=1).clamp(min=most)).reshape(-1, 1, 1, 1, 1)
        for part in change.split(sizes, 2)
    ]
    return torch.cat(parts, 2)


@dataclass(eq=False, kw_only=True)
class ChunkNFT(NFT):
    """NFT with v± = v_old ± β Δv_j, where Δv_j of segment j is shortened to `max_drift`.

    The norm is over the channels, frames and pixels of a segment; 0.5 is RLinf's default.
    The gradient passes through the shortening: along Δv_j the gradient is 0 for a segment
    that is shortened. The KL of the loss is computed from v itself, which is not shortened.
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
