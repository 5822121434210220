"""The loop: sample, score, credit, update, look back; it knows no algorithm, backbone or
reward by name.

Legend: N samples of all processes in a round (prompts × group), B of this process, S
segments.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vidrl import config, plugin
from vidrl.algorithms.base import Experience
from vidrl.backbones.base import PromptCache, rows
from vidrl.data.file_rounds import Files, dealt
from vidrl.diffusion import transition
from vidrl.diffusion.segments import frame_spans
from vidrl.rewards import Samples

from . import evaluate
from .between_rounds import NO_BEST, Lookback
from .held_out import HeldOut, Look
from .pieces import Pieces
from .policy import Policy
from .processes import Workers
from .progress import postfix, progress
from .record import Clock, Record, alone, extremes, summarise
from .rollout import Plan, Rollout, decoded_pieces, draws, join, sample, tree
from .scored import Scored
from .update import UNDEFINED, Updater, happenings, rehearse


def run(recipe: config.Source, resume: bool = False, look: Look = lambda *_: None) -> Path:
    """Train as a recipe says and return the run's folder; `resume` goes on from its newest
    checkpoint.

    Where nothing changed since, a run resumed on CPUs ends with the weights of one that was
    never interrupted; what may change is listed in `vidrl.training.changes`.

    Every process calls `look` between rounds. Raises the errors of `config.load`,
    `resume.claim` and `plugin.load`; RuntimeError where too many samples cannot be scored,
    or the ratio before the first update is not 1.
    """
    trainer = Trainer(config.load(recipe), look)
    try:
        return trainer.go(resume)
    finally:
        trainer.workers.close()


class Trainer(Lookback):
    """One run. Every draw is named by (seed, round, prompt, member), so nothing depends on
    how the work is split."""

    def __init__(self, recipe: config.Recipe, look: Look = lambda *_: None):
        evaluate.check_recipe(recipe)
        self.recipe, self.seed, self.options, self.look = recipe, recipe.seed, recipe.train, look
        self.workers = Workers(self.options.mixed_precision, self.options.trackers, recipe.run)
        self.algorithm = plugin.load(
            "algorithms", recipe.algorithm.name, **recipe.algorithm.options
        )
        backbone = plugin.load("backbones", recipe.backbone.name, **recipe.backbone.options)
        self.backbone = backbone.to(self.workers.device)
        p = recipe.policy
        lora = p.lora_rank, p.lora_alpha, p.lora_targets, p.lora
        self.policy = Policy(self.backbone, *lora, p.full, recipe.seed, p.lora_partial)
        self.updater = Updater(self.policy, self.algorithm, self.workers, self.options, recipe.seed)
        self.reward = evaluate.build_reward(recipe.reward).to(self.workers.device)
        self.encode = PromptCache(self.backbone)
        self.files = Files(recipe, self.algorithm, self.policy, self.workers, self.encode)
        self.prompts = self.files.prompts
        self.record = Record(Path(recipe.run), self.workers.main, recipe.guard.bands)
        held_out = config.read_prompts(recipe.data.held_out)[: recipe.data.held_out_n]
        smaller = (
            "use a smaller clip, backbone.options.dtype = 'bfloat16', or a device of more memory"
        )
        self.pieces = {
            "update": self.updater.pieces,
            "sample": Pieces(self.updater.micro_batch, "sampling one clip", smaller),
            "decode": Pieces(self.options.score_batch, "decoding one clip", smaller),
        }
        show = self.options.show if self.workers.main else 0
        steps, at_once = self.options.eval_steps, self.pieces["decode"]
        few = self.options.eval_n
        self.held_out = HeldOut(
            held_out, self.reward, self.workers, self.encode, steps, at_once, show, few
        )
        # the weights that are evaluated and kept
        self.judged = "ema" if self.options.ema else "live"
        if self.options.ema:
            self.policy.remember("ema")
        self.round, self.evaluated, self.saved, self.seconds, self.stop = 0, -1, -1, 0.0, ""
        self.began, self.best, self.put_back = 0.0, dict(NO_BEST), (-1, "")
        self._check()

    # The run

    def go(self, resume: bool) -> Path:
        """Start or resume, loop, finish."""
        if not self._claim(resume):
            return self.record.folder
        self.workers.start_trackers()
        with self.workers.interruptible(), self._leaving():
            self.files.read()
            self._restore(resume)
            self._note()
            self.workers.assert_alike(self.policy.checksum())
            self._loop()
            if self.stop != "interrupted":
                self._finish()
        return self.record.folder

    def _loop(self) -> None:
        # of a new run the base model; of a resumed one what its checkpoint had not seen yet
        self._look_back()
        bar = progress(self.options.rounds, self.round, self.workers.main)
        while self.round < self.options.rounds and not self.stop:
            start = time.perf_counter()
            row = self._train_round()
            self.round, self.seconds = self.round + 1, self.seconds + time.perf_counter() - start
            self.record.metrics({"round": self.round, **row, "total_seconds": self.seconds})
            self.workers.log(row, self.round)
            bar.set_postfix_str(postfix(row))
            bar.update()
            self._look_back()
        bar.close()

    # One round

    def _train_round(self) -> dict[str, Any]:
        clock, plan = Clock(), self._plan()
        with clock("sample"):
            made = (
                self.files.experience(self.round, plan)
                if self.files.source
                else self._sampled(plan)
            )
        made, row = self._scored(made, clock) if plan.scored else (made, {})
        with clock("update"):
            row |= self.updater.update(made, self.files.beside(self.round))
        for kind, told in happenings(row, plan.scored).items():
            self.record.event(self.round + 1, kind, told)
        evaluate.check_share(
            row.get("unscored_share", 0.0), self.options.max_unscored, self.round, UNDEFINED
        )
        return row | {"seconds": clock.seconds}

    def _sampled(self, plan: Plan) -> Experience:
        """The round's samples, before they are scored."""
        prompts, index = self._round_prompts()
        group = torch.arange(len(prompts)) // self.options.group
        rollout = self._sample([prompts[i] for i in index], index, plan)
        nothing = torch.zeros(len(prompts), plan.segments)
        return Experience(
            rollout, nothing, group, prompts, torch.tensor(index), self.seed, self.round
        )

    def _scored(self, made: Experience, clock: Clock) -> tuple[Experience, dict[str, Any]]:
        """The same with advantages, and the round's row of rewards: decode, score,
        credit."""
        plan, mine = made.rollout.plan, [made.prompts[i] for i in made.index.tolist()]
        scored = Scored(self.reward, extremes if self.workers.main else lambda values: ())
        for samples in clock.each("decode", self._decoded(made.rollout, mine)):
            with clock("reward"):
                scored.add(samples)
            del samples  # else these clips would live while the next ones are decoded
        score = self.workers.gather_score(scored.score)
        evaluate.check_scored(score, self.options.max_unscored, self.round)
        advantage = self.algorithm.advantages(score, made.group, made.prompts, plan)
        self.record.credit(
            scored,
            advantage[made.index],
            plan,
            self.backbone.frame_map,
            self.algorithm.measured_influence,
        )
        apart = evaluate.diversity(self.workers.all(scored.thumbnails), made.group).mean()
        row = summarise(score, made.group) | (
            {} if alone(made.group) else {"diversity": float(apart)}
        )
        return replace(made, advantage=advantage, score=score), row

    def _check(self) -> None:
        """Raise what the first round would raise, before any work."""
        self._check_measured()
        prompts, index = self.files.places() if self.files.source else self._round_prompts()
        self.algorithm.setup(self.policy, self.reward, self.files.members)
        plan = self._plan()
        self.files.check(plan, self.reward)
        frame_spans(self.backbone.frame_map, plan.segments)
        times, noisy = (
            torch.tensor(plan.times, dtype=torch.float64),
            torch.tensor(plan.stochastic, dtype=torch.long),
        )
        transition.coefficients(
            self.backbone.path, plan.sampler, times[noisy], times[noisy + 1], plan.eta, times[1]
        )
        rehearse(self.algorithm, self.backbone.shape, plan, prompts, index, self.files.members)
        # and with gradient: the update must not be the first to find that it has none
        with self.workers.autocast():
            self.backbone.ready()

    def _plan(self) -> Plan:
        plan = self.algorithm.plan(
            self.backbone, self.round, draws(self.seed, [("plan", self.round)])[0]
        )
        # people have judged the pairs
        return replace(plan, scored=False) if self.files.source == "pairs" else plan

    def _round_prompts(self) -> tuple[list[str], list[int]]:
        """The round's prompts, each `group` times, and the places of this process's
        share."""
        n, group = self.options.prompts_per_round, self.options.group
        chosen = dealt(len(self.prompts), n, self.round, self.seed, "order")
        return [self.prompts[i] for i in chosen for _ in range(group)], self.workers.share(
            n * group
        )

    def _sample(self, prompts: list[str], index: list[int], plan: Plan) -> Rollout:
        # of all clips at once: an offloaded text encoder visits the device once a round
        cond = self.encode(prompts)

        def part(piece: slice) -> Rollout:
            names = [(self.round, *divmod(i, self.options.group)) for i in index[piece]]
            above = tree(plan, self.seed, names, self.options.group)
            with self.workers.autocast(), self.policy.using(plan.weights):
                return sample(self.policy, rows(cond, piece), draws(self.seed, names), plan, above)

        return join(list(self.pieces["sample"].each(len(prompts), part)), cond)

    def _decoded(self, rollout: Rollout, prompts: list[str]) -> Iterator[Samples]:
        return decoded_pieces(
            self.backbone, rollout.latents, prompts, rollout.cond, self.pieces["decode"]
        )
