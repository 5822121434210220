"""This module forwards to `vidrl.diffusion.transition`, its new place.

Code of other trainers that imports from here keeps working.
"""

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
