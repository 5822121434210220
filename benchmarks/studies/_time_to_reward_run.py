"""Train one run of the study time_to_reward: evaluate it at intervals, and count its cost.

The trainer calls `Watch` as its callback between rounds, and `Watch` may end the run by
raising `Finished`. The trainer's own evaluations are not used: they are of one clip.
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
from vidrl.training.clips import clips
from vidrl.training.policy import Policy
from vidrl.training.rollout import draws
from vidrl.training.scored import Scored

PROMPTS = 48  # held-out prompts
TWINS = 16  # the first held-out prompts, which have a second clip
STEPS = 10  # denoising steps of an evaluation
SOON = 2  # an arm that is evaluated at least this often is evaluated after round 1 as well
# no run ends before this fraction of the budget, so that all runs have a gain there
LEAST_SHARE = 0.25
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
    """The run has used its budget, or has reached the target and all guards hold."""


# Evaluation


def measure(
    policy: Policy, weights: str, reward: Reward, prompts: Sequence[str], encode: PromptCache
) -> dict[str, float]:
    """Return the means of the measures over the held-out clips.

    Each prompt has one clip, and some prompts have a second clip. Verifier and
    identity are means over all clips; diversity compares the two clips of a prompt.
    """
    scored = Scored(reward, lambda values: ())
    guards, seconds = [], []
    with policy.using(weights):
        for samples in _clips(policy, prompts, "held out", encode):
            scored.add(samples)
            guards.append(evaluate.guarded(samples, True))
        for samples in _clips(policy, prompts[:TWINS], "held out twin", encode):
            guards.append(evaluate.guarded(samples, True))
            seconds.append(evaluate.thumbnails(samples.frames))
    seen = {name: np.concatenate([one[name] for one in guards]) for name in guards[0]}
    diversity = (scored.thumbnails[:TWINS] - torch.cat(seconds)).abs().mean(1).numpy()
    found = evaluate.values(evaluate.rewarded(scored.score) | seen | {"diversity": diversity})
    return {name: round(found[name], 5) for name in MEASURED}


def _clips(policy: Policy, prompts: Sequence[str], name: str, encode: PromptCache) -> Any:
    """Sample one clip of each prompt, with noise that depends on `name` alone."""
    noise = draws(0, [(name, i) for i in range(len(prompts))])
    return clips(policy, prompts, noise, STEPS, 32, 16, encode)


def guards_held(now: dict[str, float], base: dict[str, float], least: dict[str, float]) -> bool:
    """Say whether each guarded measure is at least its part of the base value."""
    return all(now[name] >= share * base[name] for name, share in least.items())


# Costs


@dataclass
class Calls:
    """Counts the rows that went through the denoiser, without and with gradient."""

    free: int = 0
    graded: int = 0

    def wrap(self, predict: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function `predict`, extended so that its rows are counted."""

        def counted(x: Any, *rest: Any, **named: Any) -> Any:
            if torch.is_grad_enabled():
                self.graded += len(x)
            else:
                self.free += len(x)
            return predict(x, *rest, **named)

        return counted


@dataclass
class Watch:
    """Adds up the cost of training, evaluates at intervals, and may end the run.

    The trainer calls a `Watch` between rounds, first with round 0. An arm that is evaluated
    often, because it learns fast, is evaluated after its first round as well. `cpu` counts
    this process's CPU seconds between two calls; the time within a call, which is spent on
    evaluation, does not count.
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
        began = time.process_time()
        # the denoiser calls of an evaluation are not a cost of training: use the uncounted one
        policy.backbone.predict = self.before  # type: ignore[method-assign]
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
    """Round seconds to two digits after the point."""
    return round(value, 2)


# A run


def commit() -> str:
    """Return the commit of the code that runs."""
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
    """Train one arm at one rate with one seed; return its line of the ledger."""
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
