"""Measure a suite on the policy while it trains.

The command line hands this callback to the trainer, so that `vidrl.training` does not
import `vidrl.bench`. Every n rounds, and at the end, clips of held-out prompts are made
from the same noise and measured: run/bench/000010/results.json holds the results of round
10, run/bench.jsonl one row for each evaluation. Dims that are also a training reward are
marked †: a trained reward rises whether or not the clips get better.

The run is not affected: the noise has its own generators, the global ones are restored, and
an error is printed and stored in the row but does not stop the run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vidrl import config
from vidrl.backbones.base import Denoiser, PromptCache
from vidrl.bench import dims, measure, results, sampling, suite
from vidrl.bench.dims import Dim
from vidrl.bench.suite import Suite
from vidrl.training import checkpoint
from vidrl.training.held_out import Callback
from vidrl.training.lockstep import Lockstep
from vidrl.training.policy import Policy
from vidrl.training.processes import Workers

MARK = "†"


def build(recipe: config.Recipe) -> Callback | None:
    """Return the callback that the trainer runs between rounds, None if no suite is asked for.

    Raises suite.BadSuite and plugin.UnknownName for a suite that does not exist or whose
    prompts are all trained on.
    """
    if not recipe.bench.suite:
        return None
    chosen = suite.load(recipe.bench.suite)
    rows, notes = held_out_prompts(chosen, recipe)
    return SuiteCallback(recipe, chosen, rows, notes)


def held_out_prompts(chosen: Suite, recipe: config.Recipe) -> tuple[list[sampling.Row], list[str]]:
    """Return the prompts to evaluate: the suite's, else the recipe's held-out prompts.

    Prompts that the recipe trains on are left out.
    """
    model = recipe.backbone.options.get("model")
    if chosen.prompts is None:
        rows: list[sampling.Row] = [
            {"prompt": prompt} for prompt in config.read_prompts(recipe.data.held_out)
        ]
        notes = [
            f"prompts are those of {Path(recipe.data.held_out).name}, since the suite has none"
        ]
    else:
        rows, note = sampling.suite_prompts(
            chosen, Path(model) if isinstance(model, str) and Path(model).is_dir() else None
        )
        notes = [note]
    trained = set(config.training_prompts(recipe.data))
    untrained = [row for row in rows if row["prompt"] not in trained]
    if not untrained:
        raise suite.BadSuite(
            f"bench.suite: every prompt of {chosen.name!r} is trained on, in {recipe.data.prompts}"
        )
    if len(untrained) < len(rows):
        notes.append(
            f"{len(rows) - len(untrained)} prompts are left out, since they are trained on"
        )
    return untrained[: recipe.bench.prompts], notes


def trained_on(dim: Dim, section: config.RewardSection) -> bool:
    """Return whether a dim is a training reward of the recipe, a part, or a subclass of one.

    >>> trained_on(Dim("a", "flicker"), config.RewardSection(parts={"flicker": 1.0}))
    True
    >>> section = config.RewardSection(name="motion_target")
    >>> trained_on(Dim("heading", "vidrl.bench.expectations:Heading"), section)
    True
    """
    return bool(dims.trained_dims([dim], asdict(section)))


@dataclass
class SuiteCallback:
    """A callable that evaluates one suite on one run."""

    recipe: config.Recipe
    suite: Suite
    rows: Sequence[sampling.Row]
    notes: Sequence[str]
    encode: PromptCache | None = None

    def check(self, backbone: Denoiser) -> None:
        """Raise suite.BadSuite, before any clip is made, if the model cannot make the prompts."""
        sampling.check_prompts(self.suite, self.rows, backbone)

    def encode_with(self, cache: PromptCache) -> None:
        """Encode the suite's prompts by the trainer's cache, before it frees the text encoders."""
        self.encode = cache
        cache.complete([task.prompt for task in sampling.clip_tasks(self.rows, 1, 0)])

    def __call__(
        self, round: int, policy: Policy, weights: str, workers: Workers, ends: bool
    ) -> None:
        """Evaluate if the round asks for it; every process must call this."""
        if not ends and round % self.recipe.bench.every:
            return
        before = checkpoint.rng_state()
        try:
            self._look(round, policy, weights, workers)
        finally:
            checkpoint.restore_rng(before)

    def _look(self, round: int, policy: Policy, weights: str, workers: Workers) -> None:
        """Make this process's part of the clips; the main process measures all of them."""
        out = self.folder / f"{round:06d}"
        tasks = sampling.clip_tasks(self.rows, self.recipe.bench.per_prompt, 0)
        self.encode = self.encode or PromptCache(policy.backbone)
        steps, lossless = self.recipe.bench.steps, bool(self.suite.sampling.get("lossless", True))
        with workers.autocast(), policy.using(weights):
            made_by = {
                "weights": policy.checksum(),
                "steps": steps,
                "seed": 0,
                "lossless": lossless,
                "prompts": sampling.prompts_digest(self.rows),
            }
            workers.once(lambda: sampling.record_origin(out, made_by, anew=True))
            own_tasks = tasks[workers.rank :: workers.count]
            self.encode.learn([task.prompt for task in own_tasks])
            missing = [task for task in own_tasks if not (out / "clips" / task.name).is_file()]
            lacking = Lockstep(workers, policy).most(len(missing)) - len(missing)
            reasons = sampling.make_missing_clips(
                policy, own_tasks, out / "clips", steps, lossless, self.encode
            )
            for _ in range(lacking):
                # processes that share the weights must make equally many clips
                with TemporaryDirectory() as scratch:
                    sampling.make_missing_clips(
                        policy, tasks[:1], Path(scratch), steps, lossless, self.encode
                    )
        workers.once(lambda: None)  # a barrier: all clips are made
        workers.once(
            lambda: _report_errors(
                lambda: self._measured(round, tasks, out, reasons), self.folder, round
            )
        )

    def _measured(
        self, round: int, tasks: Sequence[sampling.Task], out: Path, reasons: Mapping[str, str]
    ) -> None:
        """Write results.json of an evaluation, and append its row."""
        sampling.write_table(out / "clips", tasks)
        found = sampling.list_clips(
            tasks, out / "clips", reasons, "not made: another process knows the reason"
        )
        name = f"round {round}"
        rows = measure.run(found.items, self.suite, cache=self.folder / "cache")
        trained = [dim.name for dim in self.suite.dims if trained_on(dim, self.recipe.reward)]
        measured = results.measured_set(name, str(out / "clips"), rows, found.skipped)
        all_results = results.assemble([measured], self.suite, "vidrl train", self.notes, trained)
        results.write(all_results, out)
        row = {
            "round": round,
            "suite": self.suite.name,
            "n": len(measured["clips"]),
            "skipped": len(measured["skipped"]),
            "trained": trained,
            "dims": {
                dim: _short_summary(over) for dim, over in all_results["summary"][name].items()
            },
        }
        table = self.folder.with_suffix(".jsonl")
        checkpoint.cut_back(table, round - 1)
        checkpoint.append(table, row)

    @property
    def folder(self) -> Path:
        """Return the folder of the evaluations."""
        return Path(self.recipe.run) / "bench"


def _short_summary(over: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of a summary that the row stores."""
    return {key: over[key] for key in ("mean", "low", "high", "n")}


def _report_errors(action: Callable[[], None], folder: Path, round: int) -> None:
    """Run the action; an error is printed and stored in the rows."""
    try:
        action()
    except Exception as error:  # noqa: BLE001  an evaluation must not stop a run of days
        why = f"{type(error).__name__}: {error}"
        print(f"\nbench: round {round} could not be measured: {why}", file=sys.stderr)
        checkpoint.append(folder.with_suffix(".jsonl"), {"round": round, "why": why, "dims": {}})
