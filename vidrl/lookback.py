"""What a run does between its rounds: it evaluates, holds the guards and saves; and how it goes on again."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from vidrl import checkpoint, config, evaluate, prompts
from vidrl.backbones.base import Denoiser
from vidrl.held_out import HeldOut
from vidrl.parallel import Workers
from vidrl.pieces import Pieces
from vidrl.policy import Policy
from vidrl.record import Record
from vidrl.update import Updater


class Lookback:
    """The part of a `Trainer` that looks back; the attributes are the trainer's."""

    recipe: config.Recipe
    options: config.Train
    workers: Workers
    backbone: Denoiser
    policy: Policy
    updater: Updater
    record: Record
    held_out: HeldOut
    pieces: dict[str, Pieces]  # how many clips, or pairs, each stage takes at once
    prompts: Sequence[str]
    judged: str
    round: int
    evaluated: int
    saved: int
    seconds: float
    stop: str
    best: dict[str, Any]

    def _note(self) -> None:
        """Tell the terminal and the run folder what a person should know of the prompts before the run begins."""
        data = self.recipe.data
        notes = prompts.notes(data.prompts, data.held_out, data.held_out_n)
        for name, asked in (("data.prompts", self.prompts), ("data.held_out", self.held_out.prompts)):
            cut = self.backbone.truncated(asked)
            if cut:
                notes.append(f"{name}: {len(cut)} of {len(asked)} prompts are longer than what the text encoder reads, "
                             f"and it does not see their ends; the first: {cut[0][:60]!r}. {self.backbone.longer}")
        for note in notes if self.workers.main else ():
            print(f"note: {note}", file=sys.stderr)
            self.record.event(0, "note", note)

    def _evaluate(self, clips: str = "") -> bool:
        """Measure the held-out prompts and keep every clip's numbers; True where a guard put other weights back."""
        measures, samples, score = self.held_out.measure(self.policy, self.judged, self.pieces["sample"])
        if self.round == 0:
            evaluate.check_scored(self.workers.gather_score(score), self.options.max_unscored, 0)
        self.workers.once(lambda: self.record.evaluation(self.round, measures))
        side = clips or "after"  # of a run that goes on, the newest clips stand where those of its end will
        self.workers.once(lambda: self.record.clips(side, samples, score, self.options.show))
        self.evaluated = self.round
        back = self._guard(evaluate.values(measures))
        if self.round and not clips:
            self.workers.once(lambda: self.record.progress(self.round))
        return back

    def _guard(self, now: Mapping[str, float]) -> bool:
        """Hold the recipe's bands: note the best weights within them, put them back where a measure has left."""
        base = evaluate.values(evaluate.load(self.record.folder / "evals", 0))
        complaints = evaluate.outside(self.recipe.guard.bands, base, now)
        if complaints and self.round == 0:
            raise ValueError(f"guard.bands: expected the base model within its own bands, got {'; '.join(complaints)}")
        for message in complaints:
            self.record.event(self.round, "guard", message)
        if not complaints and now["composite"] > self.best["value"]:
            self.best = {"value": now["composite"], "checkpoint": f"{self.round:06d}"}
            self._save()
        if not complaints or self.recipe.guard.action == "warn":
            return False
        self._retreat()
        return True

    def _retreat(self) -> None:
        """Put the best weights within the bands back, the base model's if none were better; "stop" ends the run."""
        name, self.saved = str(self.best["checkpoint"]), -1
        self._put_back(checkpoint.load(self.recipe.run, name) or {})
        self.record.event(self.round, self.recipe.guard.action, f"weights of round {int(name)} put back")
        self.stop = "guard" if self.recipe.guard.action == "stop" else self.stop

    def _save(self) -> None:
        self.workers.assert_alike(self.policy.checksum())
        state = {
            "policy": self.policy.state(), "optimiser": self.updater.optimiser.state_dict(), "round": self.round,
            "evaluated": self.evaluated, "seconds": self.seconds, "best": self.best, "rng": checkpoint.rng_state(),
            "stop": "" if self.stop == "interrupted" else self.stop,
            "pieces": {name: one.size for name, one in self.pieces.items()}, "scaler": self.workers.scaler_state(),
            "world": checkpoint.world(self.workers.count), "recipe": self.recipe.to_dict(),
        }  # fmt: skip
        run, keep, protect = self.recipe.run, self.options.keep_checkpoints, [str(self.best["checkpoint"])]
        self.workers.once(lambda: checkpoint.save(run, self.round, state, keep, protect))
        self.saved = self.round

    def _restore(self, resume: bool) -> None:
        """Go on from the newest checkpoint; what was written after it is cut away."""
        state = checkpoint.load(self.recipe.run) if resume else None
        if state is not None:
            checkpoint.same_world(state["world"], checkpoint.world(self.workers.count))
            self._put_back(state)
            checkpoint.restore_rng(state["rng"])
            self.round, self.evaluated, self.saved = state["round"], state["evaluated"], state["round"]
            self.seconds, self.best, self.stop = state["seconds"], state["best"], state["stop"]
            self.workers.load_scaler(state["scaler"])
            for name, size in state["pieces"].items():
                self.pieces[name].size = size
        self.workers.once(lambda: self.record.cut_back(self.saved))

    def _put_back(self, state: Mapping[str, Any]) -> None:
        self.policy.load_state(state["policy"])
        self.updater.optimiser.load_state_dict(state["optimiser"])
