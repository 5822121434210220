"""A round of any algorithm on the toy denoiser, up to its first update."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from toys import PROMPTS, Brightness, recipe

from vidrl import config, plugin
from vidrl.algorithms.base import Algorithm, Batch, Experience
from vidrl.backbones.base import rows
from vidrl.rewards._files import writing
from vidrl.training.loop import Trainer
from vidrl.training.policy import Policy

NAMES = plugin.names("algorithms")
# of the toy's three latent frames; an algorithm takes what it has
SMALL = {"steps": 6, "noises": 2, "segments": 3}


class Light(Brightness):
    """Mean light, which carries gradient."""

    differentiable = True


def kind(name: str) -> type[Algorithm]:
    return plugin.find("algorithms", name)  # type: ignore[return-value]


def options(name: str, **more: Any) -> dict[str, Any]:
    """Of these options and the small ones, those that the algorithm has."""
    own = {field.name for field in dataclasses.fields(kind(name)) if field.init}  # type: ignore[arg-type]
    return {key: value for key, value in (SMALL | more).items() if key in own}


def made(folder: Path, name: str, pairs: bool = False, **more: Any) -> dict[str, Any]:
    """A recipe of the algorithm; where it learns from clips, bright ones; with `pairs`,
    bright ones over dark ones."""
    own = {key: more.pop(key) for key in [*more] if not key.startswith("train_")}
    settings = {
        "train_rounds": 3,
        "train_group": 8,
        "train_eval_every": 100,
        "train_checkpoint_every": 1,
    } | more
    source = "clips" if kind(name).data == "clips" else "pairs" if pairs else ""
    data = {f"data_{source}": table(folder, source)} if source else {}
    return recipe(
        folder,
        algorithm={"name": name, "options": options(name, **own)},
        reward={"name": "every:Light"},
        **settings,
        **data,
    )


def table(folder: Path, source: str) -> str:
    """A table of clips of 9 frames: bright ones, each preferred to a dark one."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for i, prompt in enumerate(PROMPTS):
        for light, name in ((0.7 + 0.05 * i, "bright"), (0.3 - 0.05 * i, "dark")):
            writing.write(folder / f"{name}{i}.mp4", torch.full((9, 3, 32, 32), light), 8.0)
        bright, dark = f"bright{i}.mp4", f"dark{i}.mp4"
        row = {"chosen": bright, "rejected": dark} if source == "pairs" else {"file_name": bright}
        lines.append(json.dumps({"prompt": prompt} | row))
    path = folder / f"{source}.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


class Stop(Exception):
    """The first update is due."""


def begun(recipe: dict[str, Any]) -> tuple[Trainer, Experience]:
    """A trainer before its first update, and what its first round brought."""
    trainer, brought = Trainer.from_recipe(config.load(recipe)), []

    def update(seen: Experience, beside: object = None) -> dict[str, Any]:
        brought.append(seen)
        raise Stop

    kept, trainer.updater.update = trainer.updater.update, update  # type: ignore[method-assign]
    try:
        trainer._train_round()
    except Stop:
        trainer.updater.update = kept  # type: ignore[method-assign]
    return trainer, brought[0]


def part(seen: Experience, index: Sequence[int]) -> Experience:
    """The experience of a process that holds these samples alone."""
    at = torch.tensor(index)
    held = {f.name: getattr(seen.rollout, f.name) for f in dataclasses.fields(seen.rollout)}
    mine = {name: value[at] for name, value in held.items() if isinstance(value, Tensor)}
    return replace(
        seen, rollout=replace(seen.rollout, cond=rows(seen.rollout.cond, at), **mine), index=at
    )


def backward(
    algorithm: Algorithm, policy: Policy, batch: Batch, size: int = 1000
) -> tuple[float, list[Tensor]]:
    """What this process adds to the loss of an optimiser step, and to its gradient; `size`
    rows at once."""
    weights = list(policy.weights.values())
    total, gradient = 0.0, [torch.zeros_like(w) for w in weights]
    for micro in batch.split(size):
        value = algorithm.loss(policy, micro).value * len(micro) * batch.share
        found = torch.autograd.grad(value, weights, allow_unused=True)
        gradient = [g if f is None else g + f for g, f in zip(gradient, found, strict=True)]
        total += float(value.detach())
    return total, gradient


def norm(gradient: Sequence[Tensor]) -> float:
    return float(torch.stack([g.double().square().sum() for g in gradient]).sum().sqrt())


def apart(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """The norm of the difference of two gradients over that of the first; 0 where both are
    0."""
    away = norm([a - b for a, b in zip(one, other, strict=True)])
    return away / norm(one) if away else 0.0
