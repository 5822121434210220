"""Which options of algorithms on sampled steps hold only for a std that the sampler fixes."""

from __future__ import annotations

from vidrl.backbones.base import Denoiser

from .base import Algorithm

# each option, with the value that holds for a std that the network gives as well
FREE = {
    "kl": "step",
    "equalise": False,
    "step_weight": "uniform",
    "ratio_norm": False,
    "max_divergence": 0.0,
}


def check(algorithm: Algorithm, backbone: Denoiser) -> None:
    """Raise ValueError for such an option where the backbone's network gives the std of a step."""
    found = [name for name, free in FREE.items() if getattr(algorithm, name, free) != free]
    if backbone.path.learned and found:
        raise ValueError(
            f"expected no {', '.join(found)} with {type(backbone).__name__}, whose network gives "
            "the std of a step, got what holds for a fixed std alone: leave "
            f"{'it' if len(found) == 1 else 'them'} out"
        )
