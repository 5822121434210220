"""Find the values of a recipe that have no effect beside the recipe's other values."""

from __future__ import annotations

import dataclasses
from typing import Any

from vidrl.algorithms.base import Algorithm
from vidrl.config import Recipe, offline
from vidrl.rewards import Reward


def unread(recipe: Recipe, algorithm: Algorithm, reward: Reward) -> list[str]:
    """Return one sentence for each value of a recipe that was set and has no effect.

    A value that is its default is not reported.

    Example:
        >>> from vidrl import config, plugin
        >>> from vidrl.rewards import load
        >>> recipe = config.build({"run": "r", "bench": {"prompts": 8}}, files=False)
        >>> unread(recipe, plugin.load("algorithms", "grpo"), load("flicker"))
        ['bench.prompts = 8 is not used: bench.suite names no suite']
    """
    set_ = recipe.algorithm.options
    defaults = {field.name: field.default for field in dataclasses.fields(algorithm)}
    why = algorithm.unread(reward, offline(recipe, algorithm.data) == "pairs")
    of_algorithm = [
        _sentence(f"algorithm.options.{name}", set_[name], why[name])
        for name in why
        if name in set_ and set_[name] != defaults.get(name)
    ]
    return of_algorithm + _of_sections(recipe)


def _of_sections(recipe: Recipe) -> list[str]:
    """Return these sentences for the recipe's sections other than [algorithm]."""
    files = recipe.data.clips or recipe.data.pairs
    why = {
        "bench": {}
        if recipe.bench.suite
        else dict.fromkeys(_names(recipe.bench), "bench.suite names no suite"),
        "data": {}
        if files
        else {"strict": "neither data.clips nor data.pairs names clips of files"},
        "parallel": {}
        if recipe.parallel.context > 1
        else {"kind": "parallel.context = 1 splits no tokens"},
        "guard": {} if recipe.guard.bands else {"action": "guard.bands holds no measure"},
    }
    defaults = Recipe()
    return [
        _sentence(f"{section}.{name}", getattr(getattr(recipe, section), name), reason)
        for section, reasons in why.items()
        for name, reason in reasons.items()
        if getattr(getattr(recipe, section), name) != getattr(getattr(defaults, section), name)
    ]


def _names(section: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(section)]


def _sentence(name: str, value: object, why: str) -> str:
    return f"{name} = {value!r} is not used: {why}"
