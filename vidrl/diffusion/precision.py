"""Name the precision of a network's products, and what it rounds a ratio of densities by."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

# The types of autocast, by the values of train.mixed_precision.
MIXED = {"bf16": torch.bfloat16, "fp16": torch.float16}
HALF = tuple(MIXED.values())
# The largest |ratio − 1| that is still rounding, by the precision of the network's products.
RATIO_TOLERANCE = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 2e-2}


def of_products(networks: Iterable[nn.Module], mixed: str = "no") -> torch.dtype:
    """Return the type of the networks' products: that of mixed precision, or of their weights.

    `mixed`: a value of train.mixed_precision. Weights of half precision beside others count;
    other weights are float32.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> of_products([net]), of_products([net], "bf16"), of_products([net.half()])
        (torch.float32, torch.bfloat16, torch.float16)
    """
    if mixed in MIXED:
        return MIXED[mixed]
    found = {weight.dtype for network in networks for weight in network.parameters()}
    return next((dtype for dtype in HALF if dtype in found), torch.float32)
