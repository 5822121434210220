"""The loop: sample, score, credit, update, evaluate; it knows no algorithm, backbone or reward.

Legend: N samples of all processes in a round (prompts × group), B of this process, S
segments.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vidrl import config
from vidrl.algorithms.base import Algorithm, Experience
from vidrl.backbones.base import rows
from vidrl.data.file_rounds import dealt
from vidrl.diffusion import transition
from vidrl.diffusion.segments import frame_spans
from vidrl.rewards import Reward, Samples

from . import assembly, evaluate, kernels, preflight
from .assembly import Options, Parts, no_callback
from .between_rounds import BetweenRounds, State
from .broadcast import from_main
from .held_out import Callback
from .policy import Policy
from .progress import postfix, progress
from .record import Clock, alone, extremes, summarise
from .restart import Restart
from .rollout import Plan, Rollout, decoded_pieces, draws, join, tree
from .scored import Scored
from .update import UNDEFINED, events_of, rehearse


def run(
    recipe: config.Source,
    resume: bool = False,
    callback: Callback = no_callback,
    *,
    look: Callback | None = None,
) -> Path:
    """Train as a recipe says, and return the run's folder.

    `resume` goes on from the newest checkpoint. On CPUs, where nothing else changed, a
    resumed run ends with the very weights of a run that was never interrupted;
    `vidrl.training.changes` lists what may change. Every process calls `callback` between
    rounds; `look` is its former name.

    Raises the errors of `config.load`, `resume.claim` and `plugin.load`; RuntimeError where
    too many samples cannot be scored, or the ratio before the first update is not 1.
    """
    trainer = Trainer.from_recipe(config.load(recipe), look or callback)
    try:
        return trainer.go(resume)
    finally:
        trainer.close()


class Trainer:
    """A trainer that drives one run, on finished objects.

    `from_recipe` and `from_objects` make a trainer; `go` trains. Every random draw is named
    by (seed, round, prompt, member), so nothing depends on how the work is divided among
    processes.

    Example:
        >>> import tempfile
        >>> from vidrl.algorithms.grpo import GRPO
        >>> from vidrl.backbones.toy import Toy
        >>> trainer = Trainer.from_objects(
        ...     policy=Policy(Toy(), full=True),
        ...     algorithm=GRPO(steps=4),
        ...     reward=lambda samples: samples.frames.mean((1, 2, 3, 4)),
        ...     prompts=["a cat", "a dog"],
        ...     held_out=["a cow"],
        ...     folder=tempfile.mkdtemp(),
        ...     options=Options(rounds=1, prompts_per_round=1, group=2, eval_steps=2),
        ... )
        >>> sorted(path.name for path in trainer.go().glob("*.html"))
        ['report.html']
    """

    def __init__(self, parts: Parts):
        self.parts, self.state = parts, State()
        self.workers, self.files = parts.workers, parts.files
        self.policy, self.backbone = parts.policy, parts.backbone
        self.algorithm, self.reward = parts.algorithm, parts.reward
        self.updater, self.held_out = parts.updater, parts.held_out
        self.record = parts.record
        self.options, self.seed = parts.options, parts.recipe.seed
        self.between = BetweenRounds(parts, self.state)
        self.restart = Restart(parts, self.state, self.between)
        self.sampler = kernels.Sampler(self.policy, self.workers)
        self._check()

    @classmethod
    def from_recipe(cls, recipe: config.Recipe, callback: Callback = no_callback) -> Trainer:
        """Return the trainer of the run that a recipe describes; see `assembly.from_recipe`."""
        return cls(assembly.from_recipe(recipe, callback))

    @classmethod
    def from_objects(
        cls,
        policy: Policy,
        algorithm: Algorithm,
        reward: Reward | Callable[..., Any],
        prompts: Sequence[str],
        held_out: Sequence[str],
        folder: str | Path,
        options: Options | None = None,
        callback: Callback = no_callback,
    ) -> Trainer:
        """Return a trainer of the caller's own objects; see `assembly.from_objects`."""
        return cls(
            assembly.from_objects(
                policy, algorithm, reward, prompts, held_out, folder, options, callback
            )
        )

    # The run

    def go(self, resume: bool = False) -> Path:
        """Train until the last round or a reason to stop; return the run folder.

        `resume` goes on from the newest checkpoint of the folder, where there is one. A
        finished run is left as it is.
        """
        if not self.restart.claim(resume):
            return self.record.folder
        self.workers.start_trackers()
        with self.workers.interruptible(), self.between.saving_if_abandoned():
            # before `note`, which reports the clips that could not be read
            self.files.read()
            self.restart.restore(resume)
            preflight.note(self.parts)
            self.workers.assert_alike(self.policy.checksum())
            self._loop()
            if self.state.stop != "interrupted":
                self.between.finish()
        return self.record.folder

    def close(self) -> None:
        """End the trackers, the reward's workers and the group of processes."""
        self.parts.close()

    def _loop(self) -> None:
        state = self.state
        self.between.begin_learning(lambda: self._sampled(self._plan()))
        # a new run evaluates the base model; a resumed one does what its checkpoint lacks
        self.between.run()
        bar = progress(self.options.rounds, state.round, self.workers.main)
        while state.round < self.options.rounds and not state.stop:
            start = time.perf_counter()
            row = self._train_round()
            state.round += 1
            state.seconds += time.perf_counter() - start
            self.record.metrics({"round": state.round, **row, "total_seconds": state.seconds})
            self.workers.log(row, state.round)
            bar.set_postfix_str(postfix(row))
            bar.update()
            self.between.run()
        bar.close()

    # One round

    def _train_round(self) -> dict[str, Any]:
        """Train one round, and return its row of metrics.jsonl."""
        plan, round = self._plan(), self.state.round
        clock = Clock()
        with clock("sample"):
            from_files = bool(self.files.source)
            experience = self.files.experience(round, plan) if from_files else self._sampled(plan)
        experience, row = self._scored(experience, clock) if plan.scored else (experience, {})
        with clock("update"):
            row |= self.updater.update(experience, self.files.data_loss_parts(round))
        row |= self.between.learn(experience, clock)
        for kind, message in events_of(row, plan.scored).items():
            self.record.event(round + 1, kind, message)
        # clips that the loss itself scored; clips that the loop scored are checked in `_scored`
        unscored = row.get("unscored_share", 0.0)
        evaluate.check_share(unscored, self.options.max_unscored, round, UNDEFINED)
        return row | self.sampler.row() | {"seconds": clock.seconds}

    def _sampled(self, plan: Plan) -> Experience:
        """Return the round's samples, with advantages of 0 until they are scored."""
        # index: which of the round's N samples this process makes
        prompts, index = self._round_prompts()
        group = torch.arange(len(prompts)) // self.options.group
        rollout = self._sample([prompts[i] for i in index], index, plan)
        zeros, own = torch.zeros(len(prompts), plan.segments), torch.tensor(index)
        return Experience(rollout, zeros, group, prompts, own, self.seed, self.state.round)

    def _scored(self, unscored: Experience, clock: Clock) -> tuple[Experience, dict[str, Any]]:
        """Decode and score the samples; return them with advantages, and the row of rewards."""
        rollout, plan = unscored.rollout, unscored.rollout.plan
        group, prompts = unscored.group, unscored.prompts
        own_prompts = [prompts[i] for i in unscored.index.tolist()]
        # only the main process writes clips, and only the best and the worst one
        shown = extremes if self.workers.main else lambda values: ()
        scored = Scored(self.reward, shown, self.parts.reward_workers)
        for samples in clock.each("decode", self._decoded(rollout, own_prompts)):
            with clock("reward"):
                scored.add(samples)
            del samples  # else these clips would live while the next ones are decoded
        with clock("reward"):
            scored.finish()
        score = self.workers.gather_score(scored.score)
        evaluate.check_scored(score, self.options.max_unscored, self.state.round)
        advantage = self.algorithm.advantages(score, group, prompts, plan)
        own, frame_map = advantage[unscored.index], self.backbone.frame_map
        self.record.credit(scored, own, plan, frame_map, self.algorithm.measured_influence)
        row = summarise(score, group)
        # every process gathers, also where the groups have one clip and no diversity
        thumbnails = self.workers.all(scored.thumbnails)
        if not alone(group):
            row["diversity"] = float(evaluate.diversity(thumbnails, group).mean())
        return replace(unscored, advantage=advantage, score=score), row

    def _check(self) -> None:
        """Fail early: build the first round's prompts and plan without sampling.

        A wrong recipe then stops in seconds, with the error that the first round would
        raise.
        """
        preflight.check_measures(self.parts)
        prompts, index = self.files.places() if self.files.source else self._round_prompts()
        # `setup` comes before the first plan: a plan may name a set of weights that it remembers
        self.algorithm.setup(self.policy, self.reward, self.files.members)
        plan = self._plan()
        self.files.check(plan, self.reward)
        frame_spans(self.backbone.frame_map, plan.segments)
        _check_steps(self.backbone.path, plan)
        members = self.files.members
        rehearse(self.algorithm, self.backbone.shape, plan, prompts, index, members)
        if self.parts.reward_workers is not None:
            self.parts.reward_workers.wait()
        # with gradient, else the first update would find that there is none
        kernels.keep(
            self.backbone,
            lambda: from_main(self.workers, lambda: kernels.kept(self.record.folder)),
        )
        with kernels.agreed(self.backbone, self.workers), self.workers.autocast():
            self.backbone.ready()
        preflight.split_tokens(self.parts)

    def _plan(self) -> Plan:
        """Return how this round samples."""
        draw = draws(self.seed, [("plan", self.state.round)])[0]
        plan = self.algorithm.plan(self.backbone, self.state.round, draw)
        # pairs need no score, because people have judged them
        return replace(plan, scored=False) if self.files.source == "pairs" else plan

    def _round_prompts(self) -> tuple[list[str], list[int]]:
        """Return the round's prompts, each `group` times, and this process's places among them."""
        n, group = self.options.prompts_per_round, self.options.group
        prompts = self.parts.prompts
        chosen = dealt(len(prompts), n, self.state.round, self.seed, "order")
        repeated = [prompts[i] for i in chosen for _ in range(group)]
        return repeated, self.workers.share(n * group)

    def _sample(self, prompts: list[str], index: list[int], plan: Plan) -> Rollout:
        """Sample the clips at these places of the round, in pieces that fit into memory."""
        # all clips are encoded at once: an offloaded text encoder visits the device once
        kept_on, group = self.parts.kept_on, self.options.group
        cond = self.parts.encode.shared(prompts, kept_on)

        def part(piece: slice) -> Rollout:
            names = [(self.state.round, *divmod(i, group)) for i in index[piece]]
            levels = tree(plan, self.seed, names, group)
            with self.workers.autocast(), self.policy.using(plan.weights):
                noise = draws(self.seed, names)
                return self.sampler(rows(cond, piece), noise, plan, levels, kept_on)

        return join(list(self.parts.pieces["sample"].each(len(prompts), part)), cond)

    def _decoded(self, rollout: Rollout, prompts: list[str]) -> Iterator[Samples]:
        size = self.parts.pieces["decode"]
        return decoded_pieces(self.backbone, rollout.latents, prompts, rollout.cond, size)


def _check_steps(path: transition.Path, plan: Plan) -> None:
    """Raise ValueError where the plan's sampler cannot draw noise at one of its steps."""
    times = torch.tensor(plan.times, dtype=torch.float64)
    noisy = torch.tensor(plan.stochastic, dtype=torch.long)
    start, end = times[noisy], times[noisy + 1]
    transition.coefficients(path, plan.sampler, start, end, plan.eta, times[1])
