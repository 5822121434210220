"""Between the rounds of a run: evaluate, apply the guards, save checkpoints, stop."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from vidrl.algorithms.base import Experience
from vidrl.backbones.base import rows
from vidrl.data.references import identity

from . import checkpoint, evaluate, resume
from .assembly import Parts
from .broadcast import from_main
from .held_out import Abandoned
from .learning_rewards import some
from .record import Clock
from .rollout import decoded_pieces


def no_best() -> dict[str, Any]:
    """Return the entry for the best weights where none were within the guards' bands yet."""
    return {"value": -float("inf"), "checkpoint": ""}


@dataclass
class State:
    """How far a run has come; the trainer and `BetweenRounds` share one."""

    # How many rounds are done.
    round: int = 0
    # The round after which the policy was evaluated last; -1: never.
    evaluated: int = -1
    # The round of the newest checkpoint; -1: there is none, or it must be written again.
    saved: int = -1
    # Seconds of training of all starts, and how many of them earlier starts took.
    seconds: float = 0.0
    earlier_seconds: float = 0.0
    # Why the run stops: "interrupted", "time limit" or "guard"; "" while it goes on.
    stop: str = ""
    # The best weights within the guards' bands: their value and their checkpoint's name.
    best: dict[str, Any] = field(default_factory=no_best)
    # The last time a guard restored weights: after which round, and from which checkpoint.
    restored: tuple[int, str] = (-1, "")


class BetweenRounds:
    """What a run does between its rounds and at its end.

    Every process must call the methods in the same order, because they gather numbers from
    all processes. `state` is the trainer's, which advances `round` and `seconds`.
    """

    def __init__(self, parts: Parts, state: State):
        self.parts, self.state = parts, state
        self.workers, self.policy = parts.workers, parts.policy
        self.record, self.held_out = parts.record, parts.held_out
        self.options, self.guard = parts.options, parts.recipe.guard
        self.weights = parts.evaluated_weights

    @contextmanager
    def saving_if_abandoned(self) -> Iterator[None]:
        """Save a checkpoint if an evaluation in this context is interrupted by a signal.

        The resumed run makes that evaluation again.
        """
        try:
            yield
        except Abandoned:
            if self.state.saved < self.state.round:
                self.save()
            self.state.stop = "interrupted"

    def run(self) -> None:
        """Evaluate, call the callback, save and stop, each if it is due and not done yet.

        `state` says what is done: after a resume, this method does only what the checkpoint
        lacks.
        """
        state, options = self.state, self.options
        self._decide_stop()
        last = state.round >= options.rounds
        if self._evaluation_is_due():
            self.evaluate_policy("" if state.round else "before")
        if not last and not state.stop:
            self.parts.callback(state.round, self.policy, self.weights, self.workers, False)
        if (state.round % options.checkpoint_every == 0 or last) and state.saved < state.round:
            self.save()
        # asked again, else a signal that came meanwhile would wait for another round
        self._decide_stop()
        if state.stop and state.saved < state.round:
            self.save()

    def _evaluation_is_due(self) -> bool:
        """Return whether to evaluate now; `finish` evaluates after the last round."""
        state = self.state
        return (
            state.round % self.options.eval_every == 0
            and state.evaluated < state.round < self.options.rounds
            and not state.stop
        )

    def _decide_stop(self) -> None:
        """Set `state.stop` to the reason to stop that any process has.

        `train.time_limit` counts the rounds since this start alone, so that a run that is
        resumed gets the whole limit again.
        """
        state = self.state
        limit = self.options.time_limit if state.round < self.options.rounds else 0
        spent = limit and state.seconds - state.earlier_seconds > limit
        state.stop = self.workers.agree(state.stop or ("time limit" if spent else ""))

    def finish(self) -> None:
        """Evaluate the final weights, save them, and write the summary.

        Where a guard restores other weights, these are evaluated too: at most three times,
        for the weights of the last round, the best within the bands, and the base model's.
        """
        state = self.state
        for _ in range(3):
            if not self.evaluate_policy("after"):
                break
        self.parts.callback(state.round, self.policy, self.weights, self.workers, True)
        if state.saved < state.round:
            self.save()
        with self.policy.using(self.weights):
            # every process takes part in gathering sharded weights, and one writes them
            trained = self.policy.gathered()
        self.workers.once(lambda: self._save_trained(trained))
        status = {"": "finished", "time limit": "stopped"}.get(state.stop, state.stop)
        self.workers.once(
            lambda: self.record.summary(self.parts.recipe, state.seconds, state.round, status)
        )

    def _save_trained(self, weights: Mapping[str, Tensor]) -> None:
        """Write the trained weights, the result of the run."""
        with checkpoint.writing(self.record.folder, "the trained weights"):
            self.policy.save(self.record.folder / "lora", weights)
            self.parts.learners.save(self.record.folder / "rewards")

    # Rewards that learn

    def begin_learning(self, sampled: Callable[[], Experience]) -> None:
        """Let the rewards that learn see clips of the base model once, before the first round."""
        if not self.parts.learners.begun:
            self._learned(sampled())

    def learn(self, experience: Experience, clock: Clock) -> dict[str, Any]:
        """Let the rewards that learn see clips of a round; return their numbers for its row."""
        if not self.parts.learners.found:
            return {}
        with clock("reward"):
            return {"learning_rewards": self._learned(experience)}

    def _learned(self, experience: Experience) -> dict[str, dict[str, float]]:
        """Decode some clips again, and let the rewards learn from them."""
        rollout, index = experience.rollout, some(len(experience.index))
        prompts = [experience.prompts[i] for i in experience.index[index].tolist()]
        latents, cond = rollout.latents[index], rows(rollout.cond, index)
        size = self.parts.pieces["decode"]
        clips = decoded_pieces(self.parts.backbone, latents, prompts, cond, size)
        return self.parts.learners.refresh(clips, experience.round)

    # Evaluation

    def evaluate_policy(self, clips: str = "") -> bool:
        """Measure the held-out prompts, apply the guards; return whether weights were restored.

        `clips` names the side of the page, "before" or "after", that the clips are for.
        Between rounds `clips` is empty, and the first `train.eval_n` prompts are measured.
        """
        state = self.state
        measures = self.measure(
            self.weights, state.round, clips or "after", all_prompts=bool(clips)
        )
        state.evaluated = state.round
        restored = self._apply_guards(measures)
        if state.round and not clips:
            self.workers.once(lambda: self.record.progress(state.round))
        return restored

    def measure(
        self, weights: str, round: int, side: str, all_prompts: bool = True
    ) -> evaluate.Measures:
        """Measure a set of weights, and record the numbers and the clips as those of a round.

        `side`: "before" or "after". While a run goes on, its newest clips are on the side
        "after", where those of its end will replace them.
        """
        measures, samples, score = self.held_out.measure(
            self.policy, weights, self.parts.pieces["sample"], all_prompts
        )
        if round == 0:
            evaluate.check_scored(self.workers.gather_score(score), self.options.max_unscored, 0)
        self.workers.once(lambda: self.record.evaluation(round, measures, self.held_out.eval_n))
        self.workers.once(lambda: self.record.clips(side, samples, score, self.options.show))
        return measures

    def means(self, round: int, n: int) -> dict[str, float]:
        """Return the means over the first n prompts of an earlier evaluation of a round."""
        folder = self.record.folder / "evals"
        return from_main(
            self.workers, lambda: evaluate.values(evaluate.first(evaluate.load(folder, round), n))
        )

    def protocol(self) -> str:
        """Return a digest of what an evaluation's numbers depend on besides the weights."""
        prompts = list(map(identity, self.held_out.prompts))
        settings: list[Any] = [prompts, self.options.eval_steps, self.options.mixed_precision]
        n = self.held_out.eval_n
        settings += [n] if n < len(self.held_out.prompts) else []
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]

    # Guards

    def _apply_guards(self, now: evaluate.Measures) -> bool:
        """Remember the best weights within the bands; restore them if a measure left its band.

        `now` are the measures of the present weights. The bands are fractions of the base
        model's values on the same prompts. Returns whether weights were restored.
        """
        base = self.means(0, len(now["composite"]))
        complaints = evaluate.outside(self.guard.bands, base, evaluate.values(now))
        if self.state.round == 0:
            self.check_bands()
        self.record.broken_guards(self.state.round, complaints)
        value = self._value(now)
        if not complaints and value > self.state.best["value"]:
            self.state.best = {"value": value, "checkpoint": f"{self.state.round:06d}"}
            self.save()
        if not complaints or self.guard.action == "warn":
            return False
        self._restore_best()
        return True

    def _value(self, measures: evaluate.Measures) -> float:
        """Return the composite's mean over the first `train.eval_n` prompts.

        Every evaluation measures these prompts, so the values of two evaluations can be
        compared.
        """
        return evaluate.values(evaluate.first(measures, self.held_out.eval_n))["composite"]

    def check_bands(self) -> None:
        """Raise ValueError where the base model is outside its own bands."""
        for n in sorted({len(self.held_out.prompts), self.held_out.eval_n}):
            base = self.means(0, n)
            complaints = evaluate.outside(self.guard.bands, base, base)
            if complaints:
                raise ValueError(
                    f"guard.bands: expected the base model within its own bands, got "
                    f"{'; '.join(complaints)}"
                )

    def _restore_best(self) -> None:
        """Restore the best weights within the bands, or the base model's where there are none.

        The base model's weights are also restored where the best ones are those that were
        just measured: these were within the bands on the first `train.eval_n` prompts, but
        are outside on all prompts. The action "stop" ends the run.
        """
        state, action = self.state, self.guard.action
        name = str(state.best["checkpoint"])
        state.saved = -1  # the checkpoint of this round holds weights that are being replaced
        if name == f"{state.round:06d}" or state.restored == (state.round, name):
            state.best, name = no_best(), ""
        state.restored = state.round, name
        if name:
            saved = self.load(name) or {}
            self.parts.updater.load_state(saved)
            if "rewards" in saved:
                self.parts.learners.load_state(saved["rewards"])
        else:
            self.parts.updater.reset()
        self.record.event(state.round, action, f"weights of round {int(name or 0)} put back")
        state.stop = "guard" if action == "stop" else state.stop

    # Checkpoints

    def load(self, name: str = "") -> dict[str, Any] | None:
        """Return a checkpoint, read by the main process; the newest one where no name is given."""
        run = self.parts.recipe.run
        return from_main(
            self.workers, lambda: checkpoint.load(run, name) if name else checkpoint.load(run)
        )

    def save(self) -> None:
        """Write a checkpoint of this moment; raise RuntimeError where the processes differ."""
        self.workers.assert_alike(self.policy.checksum())
        state, run = self.state, self.parts.recipe.run
        content = self._content()
        keep, protect = self.options.keep_checkpoints, [str(state.best["checkpoint"])]
        self.workers.once(lambda: checkpoint.save(run, state.round, content, keep, protect))
        state.saved = state.round

    def _content(self) -> dict[str, Any]:
        """Return all that a resumed run needs to continue as if it had never stopped."""
        state = self.state
        learned = self.parts.learners.state()
        rewards = {"rewards": learned} if learned else {}
        return (
            self.parts.updater.state()
            | rewards
            | {
                "round": state.round,
                "evaluated": state.evaluated,
                "seconds": state.seconds,
                "best": state.best,
                "rng": checkpoint.rng_state(),
                "stop": "" if state.stop == "interrupted" else state.stop,
                "pieces": {name: pieces.size for name, pieces in self.parts.pieces.items()},
                "scaler": self.workers.scaler_state(),
                "world": resume.world(self.workers.size),
                "recipe": self.parts.recipe.to_dict(),
                "protocol": self.protocol(),
            }
        )
