"""The folder of a loop label → fit → train: begin it, check it, and keep what was measured."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from vidrl import config
from vidrl.data import prompts as prompt_files
from vidrl.feedback.loop_plan import LEAST, LoopError, Plan, model_key
from vidrl.lookup.grammar import counted
from vidrl.rewards._files.atomic_file import write_bytes

FIXED = ("samples", "seed", "features")  # later values would mix clips or rewards of two kinds


def begin(plan: Plan, recipe: config.Recipe, prompts: str = "") -> None:
    """Create the folder of a loop, or check that it holds this loop.

    `prompts` is a file whose prompts are all judged; "" draws `count` prompts of the recipe's
    training prompts. Raises LoopError for a recipe without the reward `fitted`, for fewer answers
    than a fit needs, and for a folder of another loop.
    """
    text = recipe.to_toml()
    model_key(recipe)
    if plan.count < LEAST:
        raise LoopError(
            f"expected --count of at least {LEAST} answers a round, which `vidrl fit` needs, got "
            f"{plan.count}"
        )
    if (plan.out / "loop.json").is_file():
        _check_same(plan, text)
        _check_pairs(plan, config.read_prompts(plan.prompts))
    else:
        if plan.out.is_dir() and any(plan.out.iterdir()):
            raise LoopError(
                f"expected a new folder or the folder of a loop, got {plan.out}, which holds other "
                "files: name another folder with --out"
            )
        suffix, lines = prompt_files.as_text(_prompts(plan, recipe, prompts))
        plan.out.mkdir(parents=True, exist_ok=True)
        write_bytes(plan.out / f"prompts{suffix}", lines.encode())
        write_bytes(plan.recipe, text.encode())
    write_bytes(plan.out / "loop.json", json.dumps(_settings(plan), indent=1).encode())


def read_rounds(plan: Plan) -> dict[int, dict[str, Any]]:
    """Return what was measured after each round, by its number."""
    found = sorted((plan.out / "rounds").glob("*.json"))
    return {int(path.stem): json.loads(path.read_text()) for path in found}


def write_round(plan: Plan, number: int, measured: Mapping[str, Any]) -> None:
    """Keep what was measured after a round."""
    folder = plan.out / "rounds"
    folder.mkdir(exist_ok=True)
    write_bytes(folder / f"{number}.json", json.dumps(dict(measured), indent=1).encode())


def _settings(plan: Plan) -> dict[str, Any]:
    return {name: value for name, value in asdict(plan).items() if name != "out"}


def _check_same(plan: Plan, recipe: str) -> None:
    """Raise LoopError where the folder holds a loop of another recipe or other settings."""
    stored = json.loads((plan.out / "loop.json").read_text())
    changed = [name for name in FIXED if stored[name] != getattr(plan, name)]
    changed += ["the recipe"] if plan.recipe.read_text() != recipe else []
    if changed:
        raise LoopError(
            f"expected the settings of the loop in {plan.out}, got others of "
            f"{', '.join(changed)}: repeat the first command, or name another folder with --out"
        )


def _prompts(plan: Plan, recipe: config.Recipe, prompts: str) -> list[str]:
    """Return the prompts of the clips that are judged."""
    unique = list(dict.fromkeys(config.read_prompts(prompts or recipe.data.prompts)))
    if not prompts:  # two pairs for each answer, so that there is a choice of pairs
        most = math.ceil(2 * plan.count / math.comb(plan.samples, 2))
        unique = random.Random(plan.seed).sample(unique, min(most, len(unique)))
    _check_pairs(plan, unique)
    return unique


def _check_pairs(plan: Plan, unique: Sequence[str]) -> None:
    """Raise LoopError where one rater could not give the answers of the first round."""
    pairs = len(unique) * math.comb(plan.samples, 2)
    if pairs < plan.count:
        raise LoopError(
            f"expected at least --count {plan.count} pairs in the first round, got {pairs} of "
            f"{counted(len(unique), 'prompts')} with {plan.samples} clips each: name more "
            "--prompts, or raise --samples, in a new --out"
        )
