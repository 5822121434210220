"""Measure best of N of the base model, as a comparison without training.

For each held-out prompt, 16 clips are sampled and scored. The page of time_to_reward
computes from the scores how much the best of N clips gains over a random clip.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from _time_to_reward_arms import ARMS, PLAIN, RATES, RECIPE, ROOT
from _time_to_reward_ledger import add as add_line
from _time_to_reward_ledger import read
from _time_to_reward_run import PROMPTS, STEPS, commit

from vidrl import config, plugin
from vidrl.training import evaluate
from vidrl.training.clips import clips
from vidrl.training.rollout import draws
from vidrl.training.scored import Scored

NAME = "best-of-n"
EACH = 16  # clips of each prompt
KEPT = ("composite", "dynamic_degree", "verifier", "identity")


def add(book: Path) -> None:
    """Sample and score the clips, and add the result to a ledger that has none."""
    if any(run["arm"] == NAME for run in read(book)):
        return
    torch.set_num_threads(1)
    recipe = config.load(ROOT / RECIPE, ['run="unused"', *ARMS[PLAIN].overrides(RATES[0])])
    model = plugin.load("backbones", recipe.backbone.name, **recipe.backbone.options)
    asked = config.read_prompts(recipe.data.held_out)[:PROMPTS]
    found = measured(
        model, evaluate.build_reward(recipe.reward), [p for p in asked for _ in range(EACH)]
    )
    line = {
        "arm": NAME,
        "rate": 0.0,
        "seed": -1,
        "commit": commit(),
        "ended": "",
        "looks": {},
        "each": EACH,
        "spent": round(time.process_time(), 1),
    }
    add_line(book, line | {"clips": {name: found[name] for name in KEPT}})


def measured(model: Any, reward: Any, prompts: list[str]) -> dict[str, list[float]]:
    """Sample one clip of each prompt and return the measures of the clips."""
    noise = draws(0, [("best of n", i) for i in range(len(prompts))])
    scored, guards = Scored(reward, lambda values: ()), []
    for samples in clips(model, prompts, noise, STEPS, 32, 16):
        scored.add(samples)
        guards.append(evaluate.guarded(samples, True))
    joined = {name: [float(v) for one in guards for v in one[name]] for name in guards[0]}
    all_ = evaluate.rewarded(scored.score) | joined
    return {name: [round(float(v), 4) for v in values] for name, values in all_.items()}
