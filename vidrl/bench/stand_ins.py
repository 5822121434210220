"""Offer others' formulas with networks that may be shipped where theirs may not.

The formula is theirs, the numbers are not: the networks differ.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from vidrl.rewards._networks.rife import Rife
from vidrl.rewards._networks.weights import package_file, read_tensors
from vidrl.rewards.rife_smoothness import CURE, FILE, PACKAGE
from vidrl.rewards.vbench_motion_smoothness import VbenchMotionSmoothness


class MotionSmoothnessByRife(VbenchMotionSmoothness):
    """VBench's motion_smoothness computed with RIFE (arXiv:2011.06294) instead of AMT-S.

    The licence of AMT-S forbids shipping it. The numbers cannot be compared with published
    ones. Raises ImportError at first use if RIFE's weights are missing.

    Source: VBench, arXiv:2311.17982.
    """

    needs = (PACKAGE,)

    def __init__(self, chunk: int = 4) -> None:
        super().__init__(midway, chunk)


def midway(first: Tensor, last: Tensor) -> Tensor:
    """Return the interpolated frames between two batches (N, 3, H, W) in [0, 1]."""
    with torch.no_grad():
        between: Tensor = _rife()(first, last)
    return between.clamp(0, 1)


@lru_cache(maxsize=1)
def _rife() -> Rife:
    network = Rife().eval().requires_grad_(False)
    network.load_state_dict(read_tensors(package_file(PACKAGE, FILE, CURE)))
    return network
