"""One run of the study time_to_reward: train, look at the held-out prompts now and then,
count what it cost.

A run is ended from the trainer's `callback`, which is called between rounds: the trainer's own
evaluations are of one clip.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _time_to_reward_arms import RECIPE, ROOT, Arm

from vidrl import config
from vidrl.backbones.base import PromptCache
from vidrl.rewards import Reward
from vidrl.training import checkpoint, evaluate, loop
from vidrl.training.policy import Policy
from vidrl.training.rollout import clips, draws
from vidrl.training.scored import Scored

PROMPTS, TWINS, STEPS = 48, 16, 10  # held-out prompts, those with a second clip, denoising steps
SOON = 2  # rounds
LEAST_SHARE = 0.25  # of the budget, which every run uses: all have a gain there
MEASURED = (
    "composite",
    "dynamic_degree",
    "verifier",
    "identity",
    "diversity",
    "warp_error",
    "frame_quality",
    "motion_consistency",
)


class Finished(Exception):
    """The run has used its budget, or has reached the target with its guards held."""


# Looking


def measure(
    policy: Policy, weights: str, reward: Reward, prompts: Sequence[str], encode: PromptCache
) -> dict[str, float]:
    """Means over the held-out clips; the verifier and identity are also of the second
    clips."""
    scored, guards, seconds = Scored(reward, lambda values: ()), [], []
    with policy.using(weights):
        for samples in _clips(policy, prompts, "held out", encode):
            scored.add(samples)
            guards.append(evaluate.guarded(samples, True))
        for samples in _clips(policy, prompts[:TWINS], "held out twin", encode):
            guards.append(evaluate.guarded(samples, True))
            seconds.append(evaluate.thumbnails(samples.frames))
    seen = {name: np.concatenate([one[name] for one in guards]) for name in guards[0]}
    apart = (scored.thumbnails[:TWINS] - torch.cat(seconds)).abs().mean(1).numpy()
    found = evaluate.values(evaluate.rewarded(scored.score) | seen | {"diversity": apart})
    return {name: round(found[name], 5) for name in MEASURED}


def _clips(policy: Policy, prompts: Sequence[str], name: str, encode: PromptCache) -> Any:
    noise = draws(0, [(name, i) for i in range(len(prompts))])
    return clips(policy, prompts, noise, STEPS, 32, 16, encode)


def guards_held(now: dict[str, float], base: dict[str, float], least: dict[str, float]) -> bool:
    """Whether every guard is at least its share of the base model's value."""
    return all(now[name] >= share * base[name] for name, share in least.items())


# Counting


@dataclass
class Calls:
    """Rows that went through the denoiser, without and with gradient."""

    free: int = 0
    graded: int = 0

    def wrap(self, predict: Callable[..., Any]) -> Callable[..., Any]:
        """The function `predict`, counted."""

        def counted(x: Any, *rest: Any, **named: Any) -> Any:
            if torch.is_grad_enabled():
                self.graded += len(x)
            else:
                self.free += len(x)
            return predict(x, *rest, **named)

        return counted


@dataclass
class Watch:
    """Called between rounds: adds up what training cost, looks every `every` rounds, and
    may end the run there.

    An arm that looks often, because it is fast, looks after its first round as well.

    `cpu` are this process's CPU seconds between two calls; what happens inside a call does
    not count.
    """

    recipe: config.Recipe
    every: int
    target: float
    budget: float
    rounds: int
    base: Path
    least: dict[str, float]
    calls: Calls = field(default_factory=Calls)
    cpu: float = 0.0
    mark: float = 0.0
    rows: list[dict[str, float]] = field(default_factory=list)
    ended: str = ""

    def __call__(self, round: int, policy: Policy, weights: str, workers: Any, ends: bool) -> None:
        now = time.process_time()
        if round == 0:
            self._begin(policy)
        else:
            self.cpu += now - self.mark
            last = round >= self.rounds or ends
            if round % self.every == 0 or last or (round == 1 and self.every <= SOON):
                self._look(round, policy, weights)
                self._end(last or self.cpu >= self.budget)
        self.mark = time.process_time()

    def _begin(self, policy: Policy) -> None:
        self.reward = evaluate.build_reward(self.recipe.reward)
        self.prompts = config.read_prompts(self.recipe.data.held_out)[:PROMPTS]
        self.encode = PromptCache(policy.backbone)
        if not self.base.exists():
            found = measure(policy, "reference", self.reward, self.prompts, self.encode)
            checkpoint.write_text(self.base, json.dumps(found))
        self.start = json.loads(self.base.read_text())
        self.before = policy.backbone.predict
        self.counted = self.calls.wrap(self.before)
        policy.backbone.predict = self.counted  # type: ignore[method-assign]

    def _look(self, round: int, policy: Policy, weights: str) -> None:
        began, policy.backbone.predict = time.process_time(), self.before  # type: ignore[method-assign]
        found = measure(policy, weights, self.reward, self.prompts, self.encode)
        policy.backbone.predict = self.counted  # type: ignore[method-assign]
        clips_ = round * self.recipe.train.prompts_per_round * self.recipe.train.group
        cost = {
            "round": round,
            "clips": clips_,
            "calls": self.calls.free + self.calls.graded,
            "graded": self.calls.graded,
            "cpu": round_(self.cpu),
            "look": round_(time.process_time() - began),
        }
        self.rows.append(cost | found)

    def _end(self, over: bool) -> None:
        there = any(
            row["composite"] - self.start["composite"] >= self.target
            and guards_held(row, self.start, self.least)
            for row in self.rows
        )
        if there and self.cpu >= self.budget * LEAST_SHARE:
            self.ended = "target"
        elif over:
            self.ended = "budget"
        if self.ended:
            raise Finished


def round_(value: float) -> float:
    """Two digits after the point are enough of a second."""
    return round(value, 2)


# A run


def commit() -> str:
    """The commit of the code that runs."""
    words = ["git", "-C", str(ROOT), "rev-parse", "--short=10", "HEAD"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def run(
    arm: Arm,
    rate: float,
    seed: int,
    target: float,
    budget: float,
    rounds: int,
    out: Path,
    least: dict[str, float],
) -> dict[str, Any]:
    """Train one arm at one rate with one seed; its looks in columns, and what ended it."""
    torch.set_num_threads(1)
    folder = out / "folders" / f"{arm.algorithm}-{seed}-{time.time_ns()}"
    recipe = config.load(ROOT / RECIPE, [f'run="{folder}"', f"seed={seed}", *arm.overrides(rate)])
    watch = Watch(recipe, arm.every, target, budget, rounds, out / f"base-{commit()}.json", least)
    try:
        loop.run(recipe, callback=watch)
    except Finished:
        pass
    except RuntimeError as error:  # a gradient that is not finite: the rate is too high
        watch.ended = f"failed: {error}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    columns = {name: [row[name] for row in watch.rows] for name in (watch.rows or [{}])[0]}
    return {
        "commit": commit(),
        "ended": watch.ended or "rounds",
        "spent": round_(time.process_time()),
        "base": watch.start,
        "looks": columns,
    }
