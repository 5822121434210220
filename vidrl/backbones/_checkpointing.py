"""Check by running a network both ways that gradient checkpointing keeps its prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ._row_independence import TOLERANCE

if TYPE_CHECKING:
    from .pipeline import Pipeline


def prove(backbone: Pipeline) -> None:
    """Raise ValueError if gradient checkpointing changes what a network predicts.

    diffusers' networks checkpoint only while gradients are recorded, so the same prediction
    with and without gradients shows a difference. Such differences exist: some networks of
    diffusers call their blocks with other arguments in the checkpointed branch, which
    silently trains another function.
    """
    if not any(network.is_gradient_checkpointing for network in backbone.networks.values()):
        return
    # Several times, because a pipeline of two experts uses one network early and the other late.
    for time in backbone.times(4)[:-1]:
        with torch.no_grad():
            plain = _predicted(backbone, time)
        with torch.enable_grad():
            checkpointed = _predicted(backbone, time).detach()
        gap, size = float((checkpointed - plain).abs().max()), float(plain.abs().max())
        if gap > TOLERANCE[next(backbone.network.parameters()).dtype] * max(size, 1e-6):
            names = ", ".join(type(network).__name__ for network in backbone.networks.values())
            raise ValueError(
                f"expected gradient checkpointing to leave the prediction of {names} as it is, "
                f"got a difference of {gap / max(size, 1e-6):.1%} of its maximum: set "
                "gradient_checkpointing = false"
            )


def _predicted(backbone: Pipeline, time: float) -> Tensor:
    """Return the prediction for one clip of fixed noise and the prompt of the dry runs."""
    x = backbone.noise([torch.Generator().manual_seed(0)]).to(backbone.device)
    cond = {"row": torch.tensor([backbone.dry_row], device=backbone.device)}
    return backbone.predict(x, torch.tensor([time], device=backbone.device), cond)
