"""Check by running a network both ways that gradient checkpointing keeps its prediction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ._row_independence import TOLERANCE


def prove(
    networks: Sequence[Any],
    predicted: Callable[[float], Tensor],
    times: Sequence[float],
    dtype: torch.dtype,
) -> None:
    """Raise ValueError if gradient checkpointing changes what a network predicts.

    `predicted(time)` is the prediction for fixed noise, and `dtype` that of the networks.

    diffusers' networks checkpoint only while gradients are recorded, so the same prediction
    with and without gradients shows a difference. Such differences exist: some networks of
    diffusers call their blocks with other arguments in the checkpointed branch, which
    silently trains another function.
    """
    if not any(network.is_gradient_checkpointing for network in networks):
        return
    for time in times:
        with torch.no_grad():
            plain = predicted(time)
        with torch.enable_grad():
            checkpointed = predicted(time).detach()
        gap, size = float((checkpointed - plain).abs().max()), float(plain.abs().max())
        if gap > TOLERANCE[dtype] * max(size, 1e-6):
            names = ", ".join(type(network).__name__ for network in networks)
            raise ValueError(
                f"expected gradient checkpointing to leave the prediction of {names} as it is, "
                f"got a difference of {gap / max(size, 1e-6):.1%} of its maximum: set "
                "gradient_checkpointing = false"
            )
