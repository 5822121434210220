"""Whole rounds of training of assets/tiny-wan, by `wan` and by `pipeline` in turn."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2

from vidrl import config
from vidrl.training.loop import Trainer
from vidrl.training.record import Clock

ROOT = Path(__file__).resolve().parents[2]
RECIPES = {"grpo": "scripts/recipes/flow_grpo.toml", "nft": "scripts/recipes/demo.toml"}
STAGES = ("sample", "decode", "reward", "update")
SIZE = {"prompts_per_round": 4, "group": 4, "score_batch": 16, "show": 0}
OPTIONS: dict[str, dict[str, Any]] = {
    "wan": {"text_length": 24, "decode_chunk": 4},
    "pipeline": {"call": {"guidance_scale": 1.0, "max_sequence_length": 24}, "decode_chunk": 4},
}


class Processor(Clock):
    """Seconds a stage of processor time, where training counts those of the wall."""

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.process_time()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.process_time() - start


def trainer(recipe: str, backbone: str, run: Path) -> Trainer:
    """A recipe's trainer, smaller, with either backbone; the two differ in nothing else."""
    table = config.load(ROOT / RECIPES[recipe]).to_dict()
    options = {"model": str(ROOT / "assets/tiny-wan"), **OPTIONS[backbone]}
    table["run"], table["backbone"] = str(run), {"name": backbone, "options": options}
    table["data"] |= {key: str(ROOT / table["data"][key]) for key in ("prompts", "held_out")}
    table["train"] |= SIZE
    return Trainer.from_recipe(config.build(table))


def rounds(recipe: str, repeats: int) -> dict[str, list[Mapping[str, float]]]:
    """CPU seconds by stage of each of `repeats` rounds, by backbone, after one that is not
    counted.

    The two take turns, round by round, so that other work of the machine falls on both
    alike.
    """
    cv2.setNumThreads(1)  # the reward's optical flow
    with tempfile.TemporaryDirectory() as folder, patch("vidrl.training.loop.Clock", Processor):
        made = {name: trainer(recipe, name, Path(folder, name)) for name in OPTIONS}
        found: dict[str, list[Mapping[str, float]]] = {name: [] for name in made}
        for repeat in range(repeats + 1):
            for name, own in made.items():
                spent = _one(own)
                found[name] += [spent] if repeat else []
        return found


def _one(own: Trainer) -> Mapping[str, float]:
    row = own._train_round()
    own.state.round += 1
    return {stage: row["seconds"][stage] for stage in STAGES}
