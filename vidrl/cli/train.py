"""Defines `vidrl train`, which runs a recipe, and `vidrl report`, which prints its result."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from vidrl.training import changes

from ._declare import add_recipe, command, whole_number
from ._tables import Table, print_tables

TRAIN = (
    """\
Fine-tune a generator by reinforcement learning, as a TOML recipe describes it.

  vidrl train scripts/recipes/demo.toml
  vidrl train scripts/recipes/demo.toml train.rounds=5 algorithm.options.segments=1 run=runs/mine
  vidrl train scripts/recipes/demo.toml --resume            continue after an interruption
  vidrl train scripts/recipes/demo.toml --resume train.rounds=60    continue a finished run
  vidrl train scripts/recipes/demo.toml --processes 2       several processes on this machine
  torchrun ... -m vidrl train RECIPE                        several machines

The run folder holds the resolved recipe, the prompts, hashes of the model's files, metrics.jsonl,
clips, checkpoints, the LoRA, summary.json and report.html. Ctrl-C or SIGTERM saves a checkpoint
and stops; a second Ctrl-C stops at once. On CPUs a continued run ends with the same weights as an
uninterrupted run.

With --resume the values below may differ from those of the last start. Each difference is recorded
as an event, with the old and the new value, in events.jsonl and on the page. All other values
identify the run: if one of them differs, --resume is refused.

"""
    + changes.listed()
    + """

docs/guides/resume.md explains more.
"""
)
REPORT = """\
Print the before/after table of a run, and write its report.html: one page that holds everything
it shows and can be read offline.

  vidrl report runs/demo
"""


def declare_train(commands: Any) -> None:
    """Declare the command `train`."""
    train = command(commands, "train", TRAIN, "fine-tune a generator", _train)
    add_recipe(train)
    train.add_argument(
        "--resume",
        action="store_true",
        help="continue from the last checkpoint in the run folder, or start if there is none",
    )
    train.add_argument(
        "--processes",
        type=whole_number(0),
        default=1,
        metavar="N",
        help="the number of processes that share the work (1); 0: one for each GPU, or two of one "
        "thread each on a CPU",
    )
    train.add_argument(
        "--check",
        action="store_true",
        help="only check the recipe, the options and the run folder, and print the state of the "
        "run (new, interrupted, stopped or finished) and the folder",
    )


def declare_report(commands: Any) -> None:
    """Declare the command `report`."""
    report = command(commands, "report", REPORT, "print a run's result, write its page", _report)
    report.add_argument("folder", metavar="RUN", help="a run folder, for example runs/demo")


def _train(args: argparse.Namespace) -> int:
    from vidrl import config
    from vidrl.training import evaluate, resume

    recipe = config.load(args.recipe, args.overrides)
    evaluate.check_recipe(recipe)
    _suite_callback(recipe)  # a missing suite is an error now, and not after hours of work
    # RANK is set in each process of a group; only the main process's machine has the run folder
    if "RANK" in os.environ and not args.check:
        return _run(recipe, args.resume)
    state = resume.examine(recipe.run, recipe.to_dict(), args.resume)
    if args.check:
        print(state, recipe.run)
        return 0
    if not resume.goes_on(recipe.run, recipe.to_dict()):
        return _finish(recipe.run, note=_finished(recipe))
    return _launch(args) if args.processes != 1 else _run(recipe, args.resume)


def _finished(recipe: Any) -> str:
    """Return the message for a run that is already finished."""
    from vidrl.training import resume

    unused = resume.unused(recipe.run, recipe.to_dict())
    lines = [f"not used, because the run is finished: {change}" for change in unused]
    rounds = recipe.train.rounds + 10
    lines.append(
        f"this run is finished: train.rounds={rounds} --resume goes on for ten rounds more"
    )
    return "\n".join(lines)


def _launch(args: argparse.Namespace) -> int:
    """Train in several processes on this machine."""
    from vidrl.training import launch

    words = ["train", args.recipe, *args.overrides, *(["--resume"] if args.resume else [])]
    return launch.launch(words, args.processes or launch.automatic())


def _run(recipe: Any, resume: bool) -> int:
    """Train in this process."""
    from vidrl.training import launch, loop

    launch.end_with_parent()
    suite = _suite_callback(recipe)
    options = {"callback": suite} if suite else {}
    return _finish(loop.run(recipe, resume=resume, **options))


def _suite_callback(recipe: Any) -> Any:
    """Return the callback that runs the recipe's suite between rounds, or None without a suite.

    The trainer takes any callback, so that vidrl.training does not depend on vidrl.bench.
    """
    if not recipe.bench.suite:
        return None
    from vidrl.bench import callback

    return callback.build(recipe)


def _finish(folder: str | Path, note: str = "") -> int:
    """Print the result of a run, write its page, and return the exit status."""
    from vidrl.training import checkpoint

    if os.environ.get("RANK", "0") != "0":
        return 0
    state = checkpoint.status(folder)
    if state == "interrupted":
        print(f"interrupted; the same command with --resume goes on from {folder}")
        return 130
    if state == "stopped":
        note = (
            "stopped by train.time_limit; the same command with --resume goes on for as long again"
        )
    if note:
        print(note)
    _print_report(folder)
    return 0


def _report(args: argparse.Namespace) -> int:
    _print_report(args.folder)
    return 0


def _print_report(folder: str | Path) -> None:
    """Print the before/after table, write the page, and print the page's path."""
    from vidrl.report import run_report

    text, (rows, notes) = run_report.table(folder), run_report.before_after(folder)
    table = Table(run_report.HEADER, rows, numbers=(1, 2, 3), notes=notes)
    print_tables([table] if rows else [], text)
    print(run_report.write(folder))
