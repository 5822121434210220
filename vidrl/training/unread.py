"""What a recipe sets although nothing reads it, beside the recipe's other values: told
before a run begins."""

from __future__ import annotations

import dataclasses
from typing import Any

from vidrl.algorithms.base import Algorithm
from vidrl.config import Recipe, offline
from vidrl.rewards import Reward


def unread(recipe: Recipe, algorithm: Algorithm, reward: Reward) -> list[str]:
    """One sentence for each value of a recipe that is not its default, and that has no
    effect.

    Example:
        >>> from vidrl import config, plugin
        >>> from vidrl.rewards import load
        >>> made = config.build({"run": "r", "bench": {"prompts": 8}}, files=False)
        >>> unread(made, plugin.load("algorithms", "grpo"), load("flicker"))
        ['bench.prompts = 8 is not used: bench.suite names no suite']
    """
    set_, usual = (
        recipe.algorithm.options,
        {field.name: field.default for field in dataclasses.fields(algorithm)},
    )
    why = algorithm.unread(reward, offline(recipe, algorithm.data) == "pairs")
    own = [
        _said(f"algorithm.options.{name}", set_[name], why[name])
        for name in why
        if name in set_ and set_[name] != usual.get(name)
    ]
    return own + _of_sections(recipe)


def _of_sections(recipe: Recipe) -> list[str]:
    """The same of the recipe's sections but [algorithm]."""
    files = recipe.data.clips or recipe.data.pairs
    why = {
        "bench": {}
        if recipe.bench.suite
        else dict.fromkeys(_names(recipe.bench), "bench.suite names no suite"),
        "data": {}
        if files
        else {"strict": "neither data.clips nor data.pairs names clips of files"},
        "guard": {} if recipe.guard.bands else {"action": "guard.bands holds no measure"},
    }
    usual = Recipe()
    return [
        _said(f"{section}.{name}", getattr(getattr(recipe, section), name), reason)
        for section, reasons in why.items()
        for name, reason in reasons.items()
        if getattr(getattr(recipe, section), name) != getattr(getattr(usual, section), name)
    ]


def _names(section: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(section)]


def _said(name: str, value: object, why: str) -> str:
    return f"{name} = {value!r} is not used: {why}"
