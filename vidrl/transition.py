"""The former place of `vidrl.diffusion.transition`, kept for other trainers' code that
imports it from here."""

from vidrl.diffusion.transition import (
    SAMPLERS,
    Step,
    coefficients,
    divergence,
    log_density,
    step,
)

__all__ = [
    "SAMPLERS",
    "Step",
    "coefficients",
    "divergence",
    "log_density",
    "step",
]
