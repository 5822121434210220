"""Time whole training rounds of assets/tiny-wan with the backbones `wan` and `pipeline`.

benchmarks/studies/drive_overhead.py imports this module for the first part of its page.
Both backbones run the same recipe with the same model, so that a difference in time is the
cost of driving the model through the diffusers pipeline.
"""

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
    """A `Clock` that counts processor time per stage instead of wall time.

    Processor time does not include the time during which other processes used the cores.
    """

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.process_time()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.process_time() - start


def trainer(recipe: str, backbone: str, run: Path) -> Trainer:
    """Build the trainer of a recipe, with smaller rounds, for one of the two backbones."""
    table = config.load(ROOT / RECIPES[recipe]).to_dict()
    options = {"model": str(ROOT / "assets/tiny-wan"), **OPTIONS[backbone]}
    table["run"] = str(run)
    table["backbone"] = {"name": backbone, "options": options}
    table["data"] |= {key: str(ROOT / table["data"][key]) for key in ("prompts", "held_out")}
    table["train"] |= SIZE
    return Trainer.from_recipe(config.build(table))


def rounds(recipe: str, repeats: int) -> dict[str, list[Mapping[str, float]]]:
    """Return the CPU seconds by stage of `repeats` training rounds, for each backbone.

    One more round runs first and is not counted: it fills caches and loads libraries. The
    two backbones take turns, round by round, so that other work on the machine slows both
    alike.
    """
    cv2.setNumThreads(1)  # the reward's optical flow
    with tempfile.TemporaryDirectory() as folder, patch("vidrl.training.loop.Clock", Processor):
        trainers = {name: trainer(recipe, name, Path(folder, name)) for name in OPTIONS}
        seconds: dict[str, list[Mapping[str, float]]] = {name: [] for name in trainers}
        for repeat in range(repeats + 1):
            for name, loop in trainers.items():
                spent = _one(loop)
                seconds[name] += [spent] if repeat else []
        return seconds


def _one(loop: Trainer) -> Mapping[str, float]:
    """Train one round and return its CPU seconds by stage."""
    row = loop._train_round()
    loop.state.round += 1  # the training loop, which does not run here, counts the rounds
    return {stage: row["seconds"][stage] for stage in STAGES}
