"""The control of studies of credit: advantages that are dealt to the segments in a random order."""

from __future__ import annotations

import torch
from torch import Tensor

from vidrl.credit import permuted
from vidrl.rewards import Score


def dealt(advantages: Tensor, score: Score) -> Tensor:
    """Return advantages dealt to the segments of each video in a random order.

    The order depends on the scores alone, and so on the round.
    """
    number = int(score.value.double().sum().abs() * 1e9) % 2**31
    return permuted(advantages, torch.Generator().manual_seed(number))
