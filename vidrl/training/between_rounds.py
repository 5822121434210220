"""What a run does between its rounds: it evaluates, holds the guards and saves; and how it
goes on again."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from vidrl import config
from vidrl.algorithms.base import Algorithm
from vidrl.backbones.base import Denoiser
from vidrl.data import prompts
from vidrl.data.file_rounds import Files
from vidrl.data.references import identity

from . import checkpoint, evaluate, resume, stills
from .broadcast import from_main, unlike, unseen
from .held_out import Abandoned, HeldOut, Look
from .pieces import Pieces
from .policy import Policy, unused
from .processes import Workers
from .record import Record
from .unread import unread
from .update import Updater

# before any weights were found within the guards' bands
NO_BEST = {"value": -float("inf"), "checkpoint": ""}


class Lookback:
    """The part of a `Trainer` that looks back; the attributes are the trainer's."""

    recipe: config.Recipe
    options: config.Train
    workers: Workers
    backbone: Denoiser
    policy: Policy
    updater: Updater
    algorithm: Algorithm
    record: Record
    held_out: HeldOut
    pieces: dict[str, Pieces]  # how many clips, or rows, each stage takes at once
    prompts: Sequence[str]
    files: Files
    judged: str
    round: int
    evaluated: int
    saved: int
    seconds: float
    began: float
    stop: str
    best: dict[str, Any]
    # the round after which a guard put a checkpoint back last, and that checkpoint's name
    put_back: tuple[int, str]
    look: Look

    def _note(self) -> None:
        """Tell the terminal and the run folder what a person should know of the recipe
        before the run begins."""
        data = self.recipe.data
        written = () if self.policy.lora is None else self.backbone.adapter_notes
        idle = unread(self.recipe, self.algorithm, self.held_out.reward)
        notes = [
            *unused(self.recipe.policy, self.policy.lora),
            *written,
            *idle,
            *self.files.notes,
        ] + prompts.notes(
            "" if self.files.source else data.prompts, data.held_out, data.held_out_n, self.prompts
        )
        notes += filter(None, [stills.check(self.held_out.reward, (), self.backbone.frame_map)])
        trained = f"data.{self.files.source or 'prompts'}"
        for name, asked in ((trained, self.prompts), ("data.held_out", self.held_out.prompts)):
            cut = self.backbone.truncated(asked)
            if cut:
                notes.append(
                    f"{name}: {len(cut)} of {len(asked)} prompts are longer than what the text encoder reads, "
                    f"and it does not see their ends; the first: {cut[0][:60]!r}. {self.backbone.longer}"
                )
        for note in notes if self.workers.main else ():
            print(f"note: {note}", file=sys.stderr)
            self.record.event(0, "note", note)

    def _check_measured(self) -> None:
        """Raise ValueError for a band that nothing measures, or prompts or a reward that do
        not suit the backbone."""
        self.backbone.check_prompts([*self.prompts, *self.held_out.prompts])
        # a plain function has none
        getattr(self.look, "check", lambda backbone: None)(self.backbone)
        stills.check(self.held_out.reward, self.recipe.guard.bands, self.backbone.frame_map)
        known = dict.fromkeys(
            self.held_out.names(stills.makes_images(self.backbone.frame_map)), 0.0
        )
        if known:
            unknown = {name: (-1.0, 1.0) for name in self.recipe.guard.bands if name not in known}
            evaluate.outside(unknown, known, known)

    @contextmanager
    def _leaving(self) -> Iterator[None]:
        """Where an evaluation is interrupted, save a checkpoint; the resumed run makes the
        evaluation again."""
        try:
            yield
        except Abandoned:
            if self.saved < self.round:
                self._save()
            self.stop = "interrupted"

    def _look_back(self) -> None:
        """Between rounds: evaluate, save and stop, as the signals and the recipe say, what
        is not done yet."""
        self._ask()
        last = self.round >= self.options.rounds
        if (
            self.round % self.options.eval_every == 0
            and self.evaluated < self.round
            and not last
            and not self.stop
        ):
            self._evaluate("" if self.round else "before")
        if not last and not self.stop:
            self.look(self.round, self.policy, self.judged, self.workers, False)
        if (self.round % self.options.checkpoint_every == 0 or last) and self.saved < self.round:
            self._save()
        self._ask()  # again, or a signal that came meanwhile would wait for another round
        if self.stop and self.saved < self.round:
            self._save()

    def _ask(self) -> None:
        """Whether to stop; `train.time_limit` is of the rounds since this start, so that a
        resumed run goes on."""
        limit = self.options.time_limit if self.round < self.options.rounds else 0
        spent = limit and self.seconds - self.began > limit
        self.stop = self.workers.agree(self.stop or ("time limit" if spent else ""))

    def _finish(self) -> None:
        """Evaluate; if that puts better weights back, evaluate those. Then write what is
        kept."""
        for _ in range(3):  # of the last round, the best within the bands, and the base model
            if not self._evaluate("after"):
                break
        self.look(self.round, self.policy, self.judged, self.workers, True)
        if self.saved < self.round:
            self._save()
        with self.policy.using(self.judged):
            self.workers.once(self._keep)
        status = {"": "finished", "time limit": "stopped"}.get(self.stop, self.stop)
        self.workers.once(
            lambda: self.record.summary(self.recipe, self.seconds, self.round, status)
        )

    def _keep(self) -> None:
        """Write the weights that the run is for."""
        with checkpoint.writing(self.record.folder, "the trained weights"):
            self.policy.save(self.record.folder / "lora")

    def _evaluate(self, clips: str = "") -> bool:
        """Measure the held-out prompts and keep every clip's numbers; True where a guard
        put other weights back.

        Between rounds, where `clips` is empty, the first `train.eval_n` of the prompts are
        enough.
        """
        measures = self._measure(self.judged, self.round, clips or "after", all_prompts=bool(clips))
        self.evaluated = self.round
        back = self._guard(measures)
        if self.round and not clips:
            self.workers.once(lambda: self.record.progress(self.round))
        return back

    def _measure(
        self, weights: str, round: int, side: str, all_prompts: bool = True
    ) -> evaluate.Measures:
        """Measure a set of weights as those of a round: its row, its numbers, and its clips
        on a side of the page.

        Of a run that goes on, the newest clips stand where those of its end will.
        """
        made = self.held_out.measure(self.policy, weights, self.pieces["sample"], all_prompts)
        measures, samples, score = made
        if round == 0:
            evaluate.check_scored(self.workers.gather_score(score), self.options.max_unscored, 0)
        self.workers.once(lambda: self.record.evaluation(round, measures, self.held_out.few))
        self.workers.once(lambda: self.record.clips(side, samples, score, self.options.show))
        return measures

    def _guard(self, now: evaluate.Measures) -> bool:
        """Hold the recipe's bands: note the best weights within them, put them back where a
        measure has left.

        The bands are of the base model's values on the prompts that were measured now.
        """
        base = self._numbers(0, len(now["composite"]))
        complaints = evaluate.outside(self.recipe.guard.bands, base, evaluate.values(now))
        if self.round == 0:
            self._check_bands()
        self.record.broken(self.round, complaints)
        if not complaints and self._value(now) > self.best["value"]:
            self.best = {"value": self._value(now), "checkpoint": f"{self.round:06d}"}
            self._save()
        if not complaints or self.recipe.guard.action == "warn":
            return False
        self._retreat()
        return True

    def _numbers(self, round: int, n: int) -> dict[str, float]:
        """The means over the first n prompts of an evaluation that was made."""
        folder = self.record.folder / "evals"
        return from_main(
            self.workers, lambda: evaluate.values(evaluate.first(evaluate.load(folder, round), n))
        )

    def _value(self, measures: evaluate.Measures) -> float:
        """What makes weights the best: the composite's mean over the prompts that every
        evaluation measures."""
        return evaluate.values(evaluate.first(measures, self.held_out.few))["composite"]

    def _check_bands(self) -> None:
        for n in sorted({len(self.held_out.prompts), self.held_out.few}):
            base = self._numbers(0, n)
            complaints = evaluate.outside(self.recipe.guard.bands, base, base)
            if complaints:
                raise ValueError(
                    f"guard.bands: expected the base model within its own bands, got "
                    f"{'; '.join(complaints)}"
                )

    def _retreat(self) -> None:
        """Put the best weights within the bands back, the base model's if none were better;
        "stop" ends the run.

        The base model's weights are put back also where the best ones are those that were
        measured: they were chosen on the first `train.eval_n` prompts, and have left the
        bands on all.
        """
        name, self.saved = str(self.best["checkpoint"]), -1
        if name == f"{self.round:06d}" or self.put_back == (self.round, name):
            self.best, name = dict(NO_BEST), ""
        self.put_back = self.round, name
        if name:
            self._put_back(from_main(self.workers, lambda: checkpoint.load(self.recipe.run, name)))
        else:
            self._put_base_back()
        self.record.event(
            self.round, self.recipe.guard.action, f"weights of round {int(name or 0)} put back"
        )
        self.stop = "guard" if self.recipe.guard.action == "stop" else self.stop

    def _save(self) -> None:
        self.workers.assert_alike(self.policy.checksum())
        state = {
            "policy": self.policy.state(),
            "optimiser": self.updater.optimiser.state_dict(),
            "round": self.round,
            "evaluated": self.evaluated,
            "seconds": self.seconds,
            "best": self.best,
            "rng": checkpoint.rng_state(),
            "stop": "" if self.stop == "interrupted" else self.stop,
            "pieces": {name: one.size for name, one in self.pieces.items()},
            "scaler": self.workers.scaler_state(),
            "world": resume.world(self.workers.count),
            "recipe": self.recipe.to_dict(),
            "protocol": self._protocol(),
            "algorithm": self.algorithm.state(),
        }
        run, keep, protect = (
            self.recipe.run,
            self.options.keep_checkpoints,
            [str(self.best["checkpoint"])],
        )
        self.workers.once(lambda: checkpoint.save(run, self.round, state, keep, protect))
        self.saved = self.round

    # Going on

    def _claim(self, go_on: bool) -> bool:
        """Make the run folder this run's on the machine of the main process; whether there
        is work left."""
        run, recipe = self.recipe.run, self.recipe.to_dict()
        self._same_everywhere(recipe)
        self.workers.once(lambda: resume.claim(run, recipe, go_on))
        if self.recipe.bench.suite:
            self._one_disk()
        return bool(from_main(self.workers, lambda: resume.goes_on(run, recipe)))

    def _same_everywhere(self, recipe: Mapping[str, Any]) -> None:
        """Raise RuntimeError where a process has another recipe or other prompts: it would
        train on another plan."""
        asked = [list(map(identity, some)) for some in (self.prompts, self.held_out.prompts)]
        known = json.dumps([{**recipe, "run": ""}, *asked])
        others = unlike(self.workers, hashlib.sha256(known.encode()).hexdigest())
        if others:
            raise RuntimeError(
                f"expected the same recipe and prompts on every process, got others on "
                f"{', '.join(map(str, others))} than on 0: each machine needs the recipe and equal "
                f"copies of {self.recipe.data.prompts} and {self.recipe.data.held_out}"
            )

    def _one_disk(self) -> None:
        """Raise RuntimeError where a process does not see the run folder, into which all
        write the clips of a suite."""
        folder = self.record.folder.resolve()
        lost = unseen(self.workers, folder)
        if lost:
            raise RuntimeError(
                f"bench.suite: every process writes its clips into {folder / 'bench'}, but process "
                f"{', '.join(map(str, lost))} does not see what process 0 writes into {folder}: name a "
                "folder that all machines share, as run=/shared/mine, or leave bench.suite empty"
            )

    def _restore(self, go_on: bool) -> None:
        """Go on from the newest checkpoint; what was written after it is cut away."""
        state = from_main(self.workers, lambda: checkpoint.load(self.recipe.run) if go_on else None)
        if state is not None:
            self._put_back(state)
            checkpoint.restore_rng(state["rng"])
            self.round, self.evaluated, self.saved = (
                state["round"],
                state["evaluated"],
                state["round"],
            )
            self.seconds, self.best, self.stop = state["seconds"], state["best"], state["stop"]
            self.began = self.seconds
        self.workers.once(lambda: self.record.cut_back(self.saved))
        if state is not None:
            self._change(state)

    def _change(self, state: Mapping[str, Any]) -> None:
        """Log what differs from the checkpoint, and do what follows from it."""
        found = resume.since(state, self.recipe.to_dict(), resume.world(self.workers.count))
        keys = {change.key for change in found}
        guarded, scheduled = bool(self.recipe.guard.bands), self.options.lr_schedule != "constant"
        self.workers.once(lambda: self.record.changes(self.round, found, guarded, scheduled))
        if found and self.workers.main:
            print(
                f"changed after round {self.round}: {'; '.join(map(str, found))}", file=sys.stderr
            )
        if not keys & {"train.micro_batch", "train.score_batch", "device"}:
            # they may have been halved where memory ran out
            for name, size in state.get("pieces", {}).items():
                self.pieces[name].size = size
        if "train.mixed_precision" not in keys:
            self.workers.load_scaler(state.get("scaler", {}))
        regained = self.stop != "guard" or any(
            key == "train.rounds" or key.startswith("guard.") for key in keys
        )
        self.stop = "" if regained else self.stop
        other = state.get("protocol", self._protocol()) != self._protocol()
        if self.evaluated >= 0 and (other or not from_main(self.workers, self._comparable)):
            self._measure_again()
        elif self.evaluated >= 0 and any(key.startswith("guard.") for key in keys):
            self._judge_best()

    def _comparable(self) -> bool:
        """Whether the base model's numbers are kept, and with them each measure that has a
        band.

        The evaluations of an earlier version of vidrl may lack a measure, such as the
        weight drift.
        """
        folder = self.record.folder / "evals"
        return (
            evaluate.kept(folder, 0)
            and self.recipe.guard.bands.keys() <= evaluate.load(folder, 0).keys()
        )

    def _judge_best(self) -> None:
        """Compare the best weights so far with the changed guards: weights outside the
        bands are no longer the best."""
        n, name = self.held_out.few, str(self.best["checkpoint"])
        self._check_bands()
        if name and evaluate.outside(
            self.recipe.guard.bands, self._numbers(0, n), self._numbers(int(name[:6]), n)
        ):
            self.best = dict(NO_BEST)

    def _protocol(self) -> str:
        """A digest of what an evaluation's numbers depend on besides the weights."""
        asked = list(map(identity, self.held_out.prompts))
        how: list[Any] = [asked, self.options.eval_steps, self.options.mixed_precision]
        how += [self.held_out.few] if self.held_out.few < len(self.held_out.prompts) else []
        return hashlib.sha256(json.dumps(how).encode()).hexdigest()[:16]

    def _measure_again(self) -> None:
        """Measure the base model, the best and the present weights as evaluations are from
        now on.

        Numbers of two protocols must not be compared: the earlier ones are put aside.
        """
        self.workers.once(lambda: self.record.put_evaluations_aside(self.round))
        self._measure("reference", 0, "before")
        self._check_bands()
        self.best = self._judged_again() if self.recipe.guard.bands else dict(NO_BEST)
        if self.round:
            self._evaluate()
        self._save()

    def _judged_again(self) -> dict[str, Any]:
        """The best weights with their value under the present protocol; none where they are
        not within the bands."""
        name = str(self.best["checkpoint"])
        if not name:
            return dict(NO_BEST)
        policy = from_main(
            self.workers, lambda: (checkpoint.load(self.recipe.run, name) or {})["policy"]
        )
        kind = (
            self.judged if f"{self.judged}/{next(iter(self.policy.weights))}" in policy else "live"
        )
        self.policy.sets["best"] = [
            policy[f"{kind}/{key}"].to(p) for key, p in self.policy.weights.items()
        ]
        try:
            measures, _, _ = self.held_out.measure(
                self.policy, "best", self.pieces["sample"], all_prompts=False
            )
        finally:
            del self.policy.sets["best"]
        base, now = self._numbers(0, self.held_out.few), evaluate.values(measures)
        within = not evaluate.outside(self.recipe.guard.bands, base, now)
        return {"value": now["composite"], "checkpoint": name} if within else dict(NO_BEST)

    def _put_back(self, state: Mapping[str, Any]) -> None:
        self.policy.load_state(state["policy"])
        self.updater.optimiser.load_state_dict(state["optimiser"])
        self.algorithm.load_state(state.get("algorithm", {}))
        self._settings()

    def _put_base_back(self) -> None:
        self.policy.restore("reference")
        self.policy.sets.pop("ema", None)
        for name in [name for name in self.policy.sets if name != "reference"]:
            self.policy.remember(name)
        self.algorithm.load_state({})
        self.updater.optimiser.state.clear()
        self._settings()

    def _settings(self) -> None:
        """Set the recipe's optimiser settings and averaged weights: a checkpoint may say
        otherwise."""
        for group in self.updater.optimiser.param_groups:
            # the learning rate is set at each round's update
            group["weight_decay"] = self.options.weight_decay
        if self.options.ema and "ema" not in self.policy.sets:
            self.policy.remember("ema")
