"""Measure the seconds of one call, one decode and one score on this machine.

Legend: M clips of a micro-batch.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidrl import plugin
from vidrl.algorithms.base import Experience
from vidrl.backbones.base import Cond, rows
from vidrl.config import Recipe, members, training_prompts
from vidrl.training import evaluate
from vidrl.training.policy import Policy
from vidrl.training.processes import Workers
from vidrl.training.rollout import Plan, Rollout, decoded, draws, sample
from vidrl.training.update import Updater

CLIPS = 32  # decoded and scored to time it
TRIES = 3  # of each; the median counts


@dataclass(frozen=True)
class Pace:
    """The times measured on this machine, in seconds, and the memory of the process in bytes.

    `backward` is a row of the loss with its backward pass. Bytes: `resident` with model and
    reward built, and `peak` after the work done.
    """

    forward: float
    backward: float
    decode: float
    reward: float
    encode: float
    resident: float
    peak: float


class Bench:
    """A recipe's model and reward, built as training builds them, with methods that time them."""

    def __init__(self, recipe: Recipe, clock: Callable[[], float] = time.perf_counter):
        self.recipe = recipe
        self.clock = clock
        self.workers = Workers(recipe.train.mixed_precision)
        self.algorithm = plugin.load(
            "algorithms", recipe.algorithm.name, **recipe.algorithm.options
        )
        self.backbone = plugin.load("backbones", recipe.backbone.name, **recipe.backbone.options)
        self.backbone.to(self.workers.device)
        p = recipe.policy
        lora = p.lora_rank, p.lora_alpha, p.lora_targets, p.lora
        self.policy = Policy(self.backbone, *lora, p.full, recipe.seed, p.lora_partial)
        self.updater = Updater(self.policy, self.algorithm, self.workers, recipe.train, recipe.seed)
        self.reward = evaluate.build_reward(recipe.reward).to(self.workers.device)
        if recipe.train.ema:
            self.policy.remember("ema")
        self.algorithm.setup(self.policy, self.reward, members(recipe, self.algorithm.data))
        self.plan = self.algorithm.plan(self.backbone, 0, draws(recipe.seed, [("plan", 0)])[0])
        prompts = training_prompts(recipe.data)
        clips = recipe.train.prompts_per_round * recipe.train.group
        self.micro = min(self.updater.micro_batch, clips * max(1, len(self.plan.keep)))
        self.clips = min(CLIPS, clips)
        self.prompts = [prompts[i % len(prompts)] for i in range(max(self.micro, self.clips))]

    def measure(self) -> Pace:
        """Time each stage; this takes a fraction of a round."""
        self.backbone.encode(self.prompts[:1])
        encode, condition = self._timed(lambda: self.backbone.encode(self.prompts[:1]))
        cond = rows(condition, torch.zeros(len(self.prompts), dtype=torch.long))
        resident = float(now())
        forward, backward = self._calls(cond)
        start = draws(0, [("cost", i) for i in range(self.clips)])
        with self.workers.autocast():
            latents = sample(
                self.policy, rows(cond, slice(self.clips)), start, Plan(self.backbone.times(4))
            ).latents
        self._decode_and_score(latents[:1])  # warm-up: networks are loaded at first use
        tries = [self._decode_and_score(latents) for _ in range(TRIES)]
        decode, reward = (
            sorted(taken)[len(taken) // 2] / self.clips for taken in zip(*tries, strict=True)
        )
        return Pace(forward, backward, decode, reward, encode, resident, float(peak()))

    def _calls(self, cond: Cond) -> tuple[float, float]:
        """Return the seconds of a call, and of a loss row with backward.

        The micro-batch is one that the algorithm itself made.
        """
        count = self.recipe.train.prompts_per_round * self.recipe.train.group
        part = rows(cond, slice(self.micro))
        generators = draws(0, [("cost", i) for i in range(self.micro)])
        x, k = self.backbone.noise(generators).to(self.backbone.device), 0

        def call() -> Any:
            with torch.no_grad(), self.workers.autocast():
                step = self.plan.step(self.policy, x, k, part)
                return step.sample(self.backbone.noise(generators).to(x))

        forward, _ = self._timed(call)
        micro = self._micro_batch(cond, count)

        def update() -> None:
            with self.workers.autocast():
                loss = self.algorithm.loss(self.policy, micro)
            self.workers.backward(loss.value)

        backward, _ = self._timed(update)
        return forward / self.micro, backward / len(micro)

    def _micro_batch(self, cond: Cond, count: int) -> Any:
        """Return the first micro-batch of a round whose rollout is noise."""
        shape = self.backbone.shape
        kept = len(self.plan.keep)
        plan = self.plan
        numbers, group = torch.arange(count), self.recipe.train.group
        prompt_of_clip = numbers % len(self.prompts)
        clean = torch.randn(count, *shape, device=self.backbone.device)
        x = clean[:, None].expand(-1, kept, *shape)
        old = x.new_zeros(count, kept, plan.segments)
        rollout = Rollout(rows(cond, prompt_of_clip.to(x.device)), clean, x, x, old, plan, x)
        prompts = [self.prompts[i] for i in prompt_of_clip.tolist()]
        # Distinct advantages other than 0, so that no algorithm leaves a sample out.
        credit = (1.0 + numbers)[:, None].expand(-1, plan.segments)
        seen = Experience(rollout, credit, numbers // group, prompts, numbers, 0, 0)
        batch = next(iter(self.algorithm.minibatches(seen)))
        return batch.split(self.updater.micro_batch)[0]

    def _decode_and_score(self, latents: Tensor) -> tuple[float, float]:
        """Return the seconds of decoding and of scoring, in pieces as training takes them."""
        decode = 0.0
        score = 0.0
        size = self.recipe.train.score_batch
        for piece in latents.split(size):
            start = self._now()
            samples = decoded(self.backbone, piece, self.prompts[: len(piece)])
            middle = self._now()
            evaluate.score_each(self.reward, samples)
            decode, score = decode + middle - start, score + self._now() - middle
        return decode, score

    def _now(self) -> float:
        """Return the time after the work queued on the GPU has ended."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return self.clock()

    def _timed(self, work: Callable[[], Any], warm: bool = True) -> tuple[float, Any]:
        """Return the median seconds of some tries after a warm-up, and the work's result."""
        result, taken = work() if warm else None, []
        for _ in range(TRIES):
            start = self.clock()
            result = work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            taken.append(self.clock() - start)
        return sorted(taken)[len(taken) // 2], result


def now() -> int:
    """Return the bytes resident in this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak() -> int:
    """Return the most bytes resident in this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
