"""Train the runs of the study people_train, and keep a ledger with one row for each of them.

A row has the held-out means of all measures at each evaluation. The held-out prompts and their
noise are the same for all runs, so that rows are paired.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from _people_train_labels import RECIPE, TASTE, Size, fitted, label

from vidrl import config
from vidrl.recipe.recipe_text import read as read_recipe
from vidrl.training import assembly, loop

TRUE = "vidrl.feedback.simulated_raters:Utility"
LONG = 3  # how many times more rounds the runs of part (c) have
FEW = 60  # labels of part (c)
HELD_OUT = 64  # prompts


@dataclass(frozen=True)
class Arm:
    """What a run trains on.

    - `reward`: "fitted", "true", "default", or "pairs", where nothing is scored in a round.
    - `permuted`: whether the answers were dealt to other pairs.
    - `few`: whether the fit has only `FEW` labels, and the run is `LONG` times longer.
    - `caution`: that of the reward `fitted`.
    - `algorithm`: the section [algorithm] in place of the recipe's; `train`: changes of [train].
    """

    about: str
    reward: str
    permuted: bool = False
    few: bool = False
    caution: float = 0.0
    algorithm: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)


PAIRS = {"steps": 10, "noises": 4, "segments": 1, "updates": 8}
SLOW = {"rounds": 20}  # nothing is sampled: so many rounds take the CPU seconds of the arm fitted
ARMS = {
    "fitted": Arm("the reward fitted to the labels", "fitted"),
    "true": Arm("the true utility (the ceiling)", "true"),
    "default": Arm("the default composite, no labels", "default"),
    "permuted": Arm("a reward fitted to permuted labels", "fitted", permuted=True),
    "few": Arm("fitted to 60 labels, three times the rounds", "fitted", few=True),
    "cautious": Arm("the same with caution 1", "fitted", few=True, caution=1.0),
    "dpo": Arm(
        "Flow-DPO on the store", "pairs", algorithm={"name": "dpo", "options": PAIRS}, train=SLOW
    ),
    "kto": Arm(
        "KTO on the store", "pairs", algorithm={"name": "kto", "options": PAIRS}, train=SLOW
    ),
}


def recipe(
    name: str,
    seed: int,
    out: Path,
    size: Size,
    changes: Mapping[str, Any] | None = None,
    held_out: int = HELD_OUT,
) -> config.Recipe:
    """Return the recipe of a run, after its labels and its fit are made.

    `changes` are those of the section [train]; `held_out` is the number of held-out prompts.
    """
    arm, home = ARMS[name], out / f"seed{seed}"
    table = read_recipe(RECIPE)
    table |= {"run": str(home / f"run-{name}"), "seed": seed, "guard": {"bands": {}}}
    model = fitted(home, seed, size, arm.permuted, FEW if arm.few else 0)
    judge = {TRUE: {"weight": float(arm.reward == "true"), "options": TASTE}}
    options = {"model": str(model), "caution": arm.caution}
    parts: dict[str, dict[str, Any]] = {
        "fitted": {"fitted": {"options": options}},
        "pairs": {"fitted": {"options": options}},
        "default": {"default": 1.0},
        "true": {},
    }
    table["reward"] = {"parts": parts[arm.reward] | judge}
    train = table["train"] | {"show": 0, "checkpoint_every": 1000, "eval_every": 10}
    if arm.few:
        train |= {"rounds": LONG * train["rounds"], "prompts_per_round": 4}
    table["train"] = train | dict(arm.train) | dict(changes or {})
    table["data"] |= {"held_out_n": held_out}
    if arm.reward == "pairs":
        table["algorithm"] = dict(arm.algorithm)
        table["data"] |= {"pairs": str(label(home, seed, size, arm.permuted)), "prompts": ""}
    return config.load(table)


class Timed(loop.Trainer):
    """A trainer that adds up the CPU seconds of its rounds, without those of evaluations."""

    cpu = 0.0

    def _train_round(self) -> dict[str, Any]:
        began = time.process_time()
        row = super()._train_round()
        self.cpu += time.process_time() - began
        return row


def run(
    name: str,
    seed: int,
    out: Path,
    size: Size,
    changes: Mapping[str, Any] | None = None,
    held_out: int = HELD_OUT,
) -> dict[str, Any]:
    """Train one run, and return its row of the ledger."""
    torch.set_num_threads(1)
    made = recipe(name, seed, out, size, changes, held_out)
    folder = Path(made.run)
    shutil.rmtree(folder, ignore_errors=True)
    began = time.process_time()
    trainer = Timed(assembly.from_recipe(made))
    try:
        trainer.go()
    finally:
        trainer.close()
    spent = {"cpu": time.process_time() - began, "train_cpu": trainer.cpu}
    found = summarised(folder) | {key: round(value, 1) for key, value in spent.items()}
    shutil.rmtree(folder)
    return {"arm": name, "seed": seed} | found


def summarised(folder: Path) -> dict[str, Any]:
    """Return what a run folder says: the means of each evaluation."""
    evaluations = [json.loads(line) for line in (folder / "evals.jsonl").read_text().splitlines()]
    names = {TRUE: "true"}
    return {
        "rounds": [one["round"] for one in evaluations],
        "measures": {
            names.get(name, name): [round_(one["measures"][name]["mean"]) for one in evaluations]
            for name in evaluations[0]["measures"]
        },
    }


def round_(value: float | None) -> float | None:
    """Return a mean with five digits after the point, None where nothing was scored."""
    return None if value is None else round(value, 5)
