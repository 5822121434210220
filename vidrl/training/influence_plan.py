"""Make the plan of steps on which `vidrl influence` measures a recipe."""

from __future__ import annotations

import torch

from vidrl import plugin
from vidrl.backbones.base import Denoiser
from vidrl.config import Recipe

from .rollout import Plan, draws

# Options of a recipe's algorithm that the measurement leaves out. They choose which steps draw
# noise or are trained; the measurement covers all steps that may draw noise at once.
UNUSED = ("credit", "influence", "window", "window_stride", "window_schedule", "train_steps")


def influence_plan(recipe: Recipe, backbone: Denoiser) -> tuple[Plan, torch.Generator]:
    """Return the plan of the first round without window, and the generator that then draws prompts.

    Raises ValueError for an algorithm whose sampling draws no noise.
    """
    check_noise(recipe.algorithm.name)
    options = {k: v for k, v in recipe.algorithm.options.items() if k not in UNUSED}
    generator = draws(recipe.seed, [("influence", "plan")])[0]
    # the plan draws from the generator before the prompts do: another order changes the prompts
    algorithm = plugin.load("algorithms", recipe.algorithm.name, **options)
    return algorithm.plan(backbone, 0, generator), generator


def check_noise(algorithm: str) -> None:
    """Raise ValueError if the sampling of an algorithm draws no noise."""
    from vidrl.algorithms._trajectory import Trajectory

    classes = {name: plugin.find("algorithms", name) for name in plugin.names("algorithms")}
    noisy = [name for name, found in classes.items() if issubclass(found, Trajectory)]
    if not issubclass(plugin.find("algorithms", algorithm), Trajectory):
        raise ValueError(
            "expected an algorithm whose sampling draws noise, because an influence is the effect "
            f"of that noise, got {algorithm!r}, which draws none: take one of {', '.join(noisy)}, "
            "for example algorithm.name=grpo algorithm.options={}"
        )
