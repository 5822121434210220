"""A suite on the policy while it trains, handed to the trainer by the command line, which
alone knows both.

Every n rounds, and at the end, the clips of held-out prompts are made under the same noise
and measured: run/bench/000010/results.json holds all of it, run/bench.jsonl a row a look.
Dims that are also a training reward are marked (†): what is trained on rises whether the
clips are better or not. Nothing of the run is touched: the noise has generators of its own,
the global ones are put back, and what goes wrong here is told, and ends no run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vidrl import config
from vidrl.backbones.base import Denoiser, PromptCache
from vidrl.bench import dims, measure, results, sampling, suite
from vidrl.bench.dims import Dim
from vidrl.bench.suite import Suite
from vidrl.training import checkpoint
from vidrl.training.held_out import Callback
from vidrl.training.policy import Policy
from vidrl.training.processes import Workers

MARK = "†"


def build(recipe: config.Recipe) -> Callback | None:
    """What the trainer calls between rounds; None where the recipe asks for no suite.

    Raises suite.BadSuite and plugin.UnknownName for a suite that is not there, or that has
    no prompts left.
    """
    if not recipe.bench.suite:
        return None
    chosen = suite.load(recipe.bench.suite)
    rows, notes = held_out_prompts(chosen, recipe)
    return SuiteCallback(recipe, chosen, rows, notes)


def held_out_prompts(chosen: Suite, recipe: config.Recipe) -> tuple[list[sampling.Row], list[str]]:
    """The prompts of a look: the suite's own, else the recipe's held-out ones; none that is
    trained on."""
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
    left = [row for row in rows if row["prompt"] not in trained]
    if not left:
        raise suite.BadSuite(
            f"bench.suite: every prompt of {chosen.name!r} is trained on, in {recipe.data.prompts}"
        )
    if len(left) < len(rows):
        notes.append(f"{len(rows) - len(left)} prompts are left out, since they are trained on")
    return left[: recipe.bench.prompts], notes


def trained_on(dim: Dim, section: config.RewardSection) -> bool:
    """Whether a dim is a training reward of the recipe, one of its parts, or a finer
    reading of one.

    >>> trained_on(Dim("a", "flicker"), config.RewardSection(parts={"flicker": 1.0}))
    True
    >>> trained_on(Dim("heading", "vidrl.bench.expectations:Heading"), config.RewardSection(name="motion_target"))
    True
    """
    return bool(dims.trained_dims([dim], asdict(section)))


@dataclass
class SuiteCallback:
    """One suite on one run."""

    recipe: config.Recipe
    suite: Suite
    rows: Sequence[sampling.Row]
    notes: Sequence[str]
    encode: PromptCache | None = None

    def check(self, backbone: Denoiser) -> None:
        """Raise suite.BadSuite, before any clip is made, where the model cannot make the
        suite's prompts."""
        sampling.check_prompts(self.suite, self.rows, backbone)

    def __call__(
        self, round: int, policy: Policy, weights: str, workers: Workers, ends: bool
    ) -> None:
        """Look, if it is time and this round was not looked at before; every process must
        call."""
        if not ends and round % self.recipe.bench.every:
            return
        before = checkpoint.rng_state()
        try:
            self._look(round, policy, weights, workers)
        finally:
            checkpoint.restore_rng(before)

    def _look(self, round: int, policy: Policy, weights: str, workers: Workers) -> None:
        """Each process makes its share of the clips; the main one measures them."""
        out, tasks = (
            self.folder / f"{round:06d}",
            sampling.clip_tasks(self.rows, self.recipe.bench.per_prompt, 0),
        )
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
            mine = tasks[workers.rank :: workers.count]
            self.encode.learn([task.prompt for task in mine])
            lost = sampling.make_missing_clips(
                policy, mine, out / "clips", steps, lossless, self.encode
            )
        workers.once(lambda: None)  # all wait here until every share is done
        workers.once(
            lambda: _report_errors(
                lambda: self._measured(round, tasks, out, lost), self.folder, round
            )
        )

    def _measured(
        self, round: int, tasks: Sequence[sampling.Task], out: Path, lost: Mapping[str, str]
    ) -> None:
        """results.json of a look, and its row."""
        sampling.write_table(out / "clips", tasks)
        found = sampling.list_clips(
            tasks, out / "clips", lost, "not made: another process knows the reason"
        )
        name, rows = (
            f"round {round}",
            measure.run(found.items, self.suite, cache=self.folder / "cache"),
        )
        trained = [dim.name for dim in self.suite.dims if trained_on(dim, self.recipe.reward)]
        one = results.measured_set(name, str(out / "clips"), rows, found.skipped)
        made = results.assemble([one], self.suite, "vidrl train", self.notes, trained)
        results.write(made, out)
        row = {
            "round": round,
            "suite": self.suite.name,
            "n": len(one["clips"]),
            "skipped": len(one["skipped"]),
            "trained": trained,
            "dims": {dim: _short_summary(over) for dim, over in made["summary"][name].items()},
        }
        table = self.folder.with_suffix(".jsonl")
        checkpoint.cut_back(table, round - 1)
        checkpoint.append(table, row)

    @property
    def folder(self) -> Path:
        return Path(self.recipe.run) / "bench"


def _short_summary(over: Mapping[str, Any]) -> dict[str, Any]:
    return {key: over[key] for key in ("mean", "low", "high", "n")}


def _report_errors(action: Callable[[], None], folder: Path, round: int) -> None:
    """Act; what goes wrong is printed and ends up in the rows."""
    try:
        action()
    except Exception as error:  # noqa: BLE001  a run of days must not end because of a look at it
        why = f"{type(error).__name__}: {error}"
        print(f"\nbench: round {round} could not be measured: {why}", file=sys.stderr)
        checkpoint.append(folder.with_suffix(".jsonl"), {"round": round, "why": why, "dims": {}})
