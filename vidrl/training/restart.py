"""Start or resume a run: claim its folder, restore its newest checkpoint, apply what changed."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from typing import Any

from vidrl.data.references import identity

from . import checkpoint, evaluate, resume, sharding
from .assembly import Parts
from .between_rounds import BetweenRounds, State, no_best
from .broadcast import from_main, unlike, unseen


class Restart:
    """Starts a run in its folder, or resumes the run that the folder holds.

    Call `claim` first, then `restore`, which raises RuntimeError for a folder that was not
    claimed. Every process must call both.
    """

    def __init__(self, parts: Parts, state: State, between: BetweenRounds):
        self.parts, self.state = parts, state
        self.between = between
        self.workers, self.record = parts.workers, parts.record
        self.policy = parts.policy
        self.recipe, self.held_out = parts.recipe, parts.held_out
        self.claimed = False

    def claim(self, go_on: bool) -> bool:
        """Claim the run folder on the main process's machine; return whether work is left.

        Raises `RunFolderError` where the folder holds another run, RuntimeError where the
        processes differ in their recipe or their prompts.
        """
        run, recipe = self.recipe.run, self.recipe.to_dict()
        self._check_same_everywhere(recipe)
        self.workers.once(lambda: resume.claim(run, recipe, go_on, self._given_prompts()))
        if self.recipe.bench.suite:
            self._check_one_disk()
        self.claimed = True
        return bool(from_main(self.workers, lambda: resume.goes_on(run, recipe)))

    def _given_prompts(self) -> dict[str, list[str]] | None:
        """Return the prompts of a run that has no prompt files; None where it has them."""
        if self.recipe.data.held_out:
            return None
        return {"data.prompts": [*self.parts.prompts], "data.held_out": [*self.held_out.prompts]}

    def _check_same_everywhere(self, recipe: Mapping[str, Any]) -> None:
        """Raise RuntimeError where a process has another recipe or other prompts.

        Such a process would make another plan, and then wait for ever for numbers that the
        other processes never send.
        """
        both = (self.parts.prompts, self.held_out.prompts)
        prompts = [list(map(identity, some)) for some in both]
        # without `run`: the folder may have another path on another machine
        text = json.dumps([{**recipe, "run": ""}, *prompts])
        others = unlike(self.workers, hashlib.sha256(text.encode()).hexdigest())
        if others:
            raise RuntimeError(
                f"expected the same recipe and prompts on every process, got others on "
                f"{', '.join(map(str, others))} than on 0: each machine needs the recipe and equal "
                f"copies of {self.recipe.data.prompts} and {self.recipe.data.held_out}"
            )

    def _check_one_disk(self) -> None:
        """Raise RuntimeError where a process does not see the run folder.

        With `bench.suite`, every process writes clips into the run folder.
        """
        folder = self.record.folder.resolve()
        blind = unseen(self.workers, folder)
        if blind:
            raise RuntimeError(
                f"bench.suite: every process writes its clips into {folder / 'bench'}, but process "
                f"{', '.join(map(str, blind))} does not see what process 0 writes into {folder}: "
                "name a folder that all machines share, as run=/shared/mine, or leave bench.suite "
                "empty"
            )

    def restore(self, go_on: bool) -> None:
        """Restore the newest checkpoint where `go_on`; delete what was written after it."""
        if not self.claimed:
            raise RuntimeError(
                f"expected `claim` before `restore`, which deletes files of {self.recipe.run}, got "
                "`restore` alone: call `claim` first"
            )
        saved, state = self.between.load() if go_on else None, self.state
        if saved is not None:
            self.parts.updater.load_state(saved)
            if self.parts.learners.found:
                self.parts.learners.load_state(saved["rewards"])
            checkpoint.restore_rng(saved["rng"])
            state.round = state.saved = saved["round"]
            state.evaluated, state.best = saved["evaluated"], saved["best"]
            state.seconds = state.earlier_seconds = saved["seconds"]
            state.stop = saved["stop"]
        self.workers.once(lambda: self.record.cut_back(state.saved))
        if saved is not None:
            self._apply_changes(saved)

    def _apply_changes(self, saved: Mapping[str, Any]) -> None:
        """Log what differs from the checkpoint, and do what follows from each difference."""
        keys = self._log_changes(saved)
        if not keys & {"train.micro_batch", "train.score_batch", "device"}:
            # Where memory ran out, the earlier start halved these sizes. Without this, the
            # resumed run would run out of memory again; it keeps to the known sizes.
            for name, size in saved.get("pieces", {}).items():
                self.parts.pieces[name].size = size
        if "train.mixed_precision" not in keys:
            self.workers.load_scaler(saved.get("scaler", {}))
        guards_changed = any(key.startswith("guard.") for key in keys)
        # a run that a guard stopped goes on only with other guards or more rounds
        if self.state.stop != "guard" or guards_changed or "train.rounds" in keys:
            self.state.stop = ""
        if self.state.evaluated >= 0:
            self._review_evaluations(saved, guards_changed)

    def _log_changes(self, saved: Mapping[str, Any]) -> set[str]:
        """Print and record the differences from a checkpoint; return their dotted keys."""
        found = resume.since(saved, self.recipe.to_dict(), resume.world(self.workers.size))
        guarded = bool(self.recipe.guard.bands)
        scheduled = self.recipe.train.lr_schedule != "constant"
        round = self.state.round
        self.workers.once(lambda: self.record.changes(round, found, guarded, scheduled))
        if found and self.workers.main:
            print(f"changed after round {round}: {'; '.join(map(str, found))}", file=sys.stderr)
        return {change.key for change in found}

    def _review_evaluations(self, saved: Mapping[str, Any], guards_changed: bool) -> None:
        """Evaluate again where earlier numbers cannot be compared; else apply changed guards."""
        protocol = self.between.protocol()
        other_protocol = saved.get("protocol", protocol) != protocol
        if other_protocol or not from_main(self.workers, self._comparable):
            self._measure_again()
        elif guards_changed:
            self._judge_best()

    def _comparable(self) -> bool:
        """Return whether the base model's numbers hold each measure that has a band.

        The evaluations of an earlier version of vidrl may lack a measure, such as the
        weight drift.
        """
        folder = self.record.folder / "evals"
        return (
            evaluate.kept(folder, 0)
            and self.recipe.guard.bands.keys() <= evaluate.load(folder, 0).keys()
        )

    def _judge_best(self) -> None:
        """Compare the best weights with the changed guards; forget them where they are outside."""
        n, name = self.held_out.eval_n, str(self.state.best["checkpoint"])
        self.between.check_bands()
        if not name:
            return
        # the name of a checkpoint begins with its round, as 000010 or 000010-2
        base, best = self.between.means(0, n), self.between.means(int(name[:6]), n)
        if evaluate.outside(self.recipe.guard.bands, base, best):
            self.state.best = no_best()

    def _measure_again(self) -> None:
        """Measure the base model, the best and the present weights by the present protocol.

        Numbers of two protocols must not be compared, so the earlier ones are moved to
        another file.
        """
        round = self.state.round
        self.workers.once(lambda: self.record.put_evaluations_aside(round))
        self.between.measure("reference", 0, "before")
        self.between.check_bands()
        self.state.best = self._best_again() if self.recipe.guard.bands else no_best()
        if round:
            self.between.evaluate_policy()
        self.between.save()

    def _best_again(self) -> dict[str, Any]:
        """Return the best weights with their value under the present protocol.

        `no_best()` where there are none, or where they are not within the bands any more.
        """
        name = str(self.state.best["checkpoint"])
        if not name:
            return no_best()
        self.policy.sets["best"] = self._weights_of(name)
        try:
            measures, _, _ = self.held_out.measure(
                self.policy, "best", self.parts.pieces["sample"], all_prompts=False
            )
        finally:
            del self.policy.sets["best"]
        base, now = self.between.means(0, self.held_out.eval_n), evaluate.values(measures)
        if evaluate.outside(self.recipe.guard.bands, base, now):
            return no_best()
        return {"value": now["composite"], "checkpoint": name}

    def _weights_of(self, name: str) -> list[Any]:
        """Return the evaluated weights of a checkpoint, in the order of the policy's weights."""
        run = self.recipe.run
        # the policy alone: the optimiser's state is twice as large
        policy = from_main(self.workers, lambda: (checkpoint.load(run, name) or {})["policy"])
        kind = self.between.weights
        # A checkpoint that was written before train.ema was set holds no "ema" weights.
        if f"{kind}/{next(iter(self.policy.weights))}" not in policy:
            kind = "live"
        return [sharding.like(policy[f"{kind}/{key}"], p) for key, p in self.policy.weights.items()]
