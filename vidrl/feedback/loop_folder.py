"""The folder of a loop label → fit → train: begin it, check it, and keep what was measured."""

from __future__ import annotations

import json
import math
import random
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from vidrl import config
from vidrl.data import prompts as prompt_files
from vidrl.data import references
from vidrl.feedback import fit_features
from vidrl.feedback.loop_plan import LEAST, LoopError, Plan, model_key
from vidrl.lookup.grammar import counted
from vidrl.rewards._files.atomic_file import write_bytes
from vidrl.training import changes, resume

FIXED = ("samples", "seed", "features")  # later values would mix clips or rewards of two kinds


def begin(plan: Plan, recipe: config.Recipe, prompts: str = "") -> None:
    """Create the folder of a loop, or check that it holds this loop; lock it for this process.

    `prompts` is a file whose prompts are all judged; "" draws some of the recipe's training
    prompts. Raises LoopError for a recipe without the reward `fitted`, for fewer answers
    than a fit needs, for features of the user's own code, and for a folder of another loop;
    ValueError for unknown features;
    RunFolderError where another process is at work in the folder.
    """
    text = recipe.to_toml()
    _check_possible(plan, recipe)
    begun = plan.recipe.is_file() and (plan.out / "loop.json").is_file()
    if begun:
        _check_same(plan, text, prompts)
        unique = config.read_prompts(plan.prompts)
    else:
        _check_free(plan)
        unique = _prompts(plan, recipe, prompts)
    _check_pairs(plan, unique)
    plan.out.mkdir(parents=True, exist_ok=True)
    resume.hold(plan.out, "name another folder with --out")
    write_bytes(plan.out / "loop.json", json.dumps(_settings(plan), indent=1).encode())
    if not begun:
        suffix, lines = prompt_files.as_text(unique)
        write_bytes(plan.out / f"prompts{suffix}", lines.encode())
        write_bytes(plan.recipe, text.encode())  # last: with it the folder is complete


def _check_possible(plan: Plan, recipe: config.Recipe) -> None:
    """Raise an error for what would fail after people have answered."""
    model_key(recipe)
    names = [name.strip() for name in plan.features.split(",") if name.strip()]
    own = [name for name in names if ":" in name]
    if own:
        raise LoopError(
            f"expected features that `vidrl fit` offers by name, got {own[0]}: a reward with code "
            "of yours needs its option trusted; do the steps of docs/people.md one after the other"
        )
    fit_features.chosen(names)
    if plan.count < LEAST:
        raise LoopError(
            f"expected --count of at least {LEAST} answers a round, which `vidrl fit` needs, got "
            f"{plan.count}"
        )


def _check_free(plan: Plan) -> None:
    """Raise LoopError where the folder of a new loop holds other files.

    A folder with loop.json and without recipe.toml is of a start that was killed at once.
    """
    names = [path.name for path in plan.out.iterdir()] if plan.out.is_dir() else []
    if "loop.json" not in names and any(not resume.ours(name) for name in names):
        raise LoopError(
            f"expected a new folder or the folder of a loop, got {plan.out}, which holds other "
            "files: name another folder with --out"
        )


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


def _check_same(plan: Plan, recipe: str, prompts: str) -> None:
    """Raise LoopError where the folder holds a loop of another recipe or other settings."""
    stored = json.loads((plan.out / "loop.json").read_text())
    asked = _settings(plan)
    found = [
        f"--{name} {stored[name]} -> {asked[name]}" for name in FIXED if stored[name] != asked[name]
    ]
    old, new = (tomllib.loads(text) for text in (plan.recipe.read_text(), recipe))
    found += map(str, changes.between(old, new))
    if prompts and _plain(_unique(prompts)) != _plain(config.read_prompts(plan.prompts)):
        found.append(f"the prompts: {plan.prompts} -> {prompts}")
    if found:
        raise LoopError(
            f"{plan.out} holds another loop; begun with -> asked for:\n  "
            + "\n  ".join(found)
            + "\nAsk for the values that it was begun with, or name another folder with --out"
        )


def _unique(file: str) -> list[str]:
    """Return the prompts of a file, each once."""
    return list(dict.fromkeys(config.read_prompts(file)))


def _plain(prompts: Sequence[str]) -> list[str]:
    """Return prompts without the folders of their files, which may be moved."""
    return list(map(references.without_folders, prompts))


def _prompts(plan: Plan, recipe: config.Recipe, prompts: str) -> list[str]:
    """Return the prompts of the clips that are judged."""
    unique = _unique(prompts or recipe.data.prompts)
    if prompts:
        return unique
    most = math.ceil(2 * plan.count / math.comb(plan.samples, 2))  # two pairs for each answer
    return random.Random(plan.seed).sample(unique, min(most, len(unique)))


def _check_pairs(plan: Plan, unique: Sequence[str]) -> None:
    """Raise LoopError where one rater could not give the answers of the first round."""
    pairs = len(unique) * math.comb(plan.samples, 2)
    if pairs < plan.count:
        raise LoopError(
            f"expected at least --count {plan.count} pairs in the first round, got {pairs} of "
            f"{counted(len(unique), 'prompts')} with {plan.samples} clips each: name more "
            "--prompts, or raise --samples, in a new --out"
        )
