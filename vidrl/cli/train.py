"""vidrl train, vidrl report: a run, and what became of it."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from vidrl.training import changes

from ._declare import command

TRAIN = (
    """\
Fine-tune a generator by reinforcement learning, as a TOML recipe says.

  vidrl train scripts/recipes/demo.toml
  vidrl train scripts/recipes/demo.toml train.rounds=5 algorithm.options.segments=1 run=runs/mine
  vidrl train scripts/recipes/demo.toml --resume            go on after a kill; on CPUs to the same weights
  vidrl train scripts/recipes/demo.toml --resume train.rounds=60          go on after the end
  vidrl train scripts/recipes/demo.toml --processes 2       several processes on this machine; 0 = as many as suit it
  torchrun ... -m vidrl train RECIPE                        several machines

The run folder holds the resolved config, the prompts, hashes of the model's files, metrics.jsonl, clips, checkpoints,
the LoRA, summary.json and report.html. Ctrl-C or SIGTERM saves a checkpoint and leaves; a second Ctrl-C leaves at once.

With --resume these values may differ from those of the last start. Each difference is an event in events.jsonl and on
the page, with the old and the new value. All other values say which run it is: where they differ, --resume is refused.

"""
    + changes.listed()
    + """

More: docs/guides/resume.md.
"""
)


def declare_train(commands: Any) -> None:
    made = command(commands, "train", TRAIN, "fine-tune a generator", _train)
    made.add_argument("recipe", metavar="RECIPE", help="a TOML file; scripts/recipes holds some")
    made.add_argument(
        "overrides", metavar="key=value", nargs="*", help="dotted overrides, as train.rounds=5"
    )
    made.add_argument(
        "--resume",
        action="store_true",
        help="go on from the run folder's checkpoint; starts anew where there is none",
    )
    made.add_argument(
        "--processes",
        type=int,
        default=1,
        metavar="N",
        help="how many share the work (1); 0: one a GPU, or two of one thread on a CPU",
    )
    made.add_argument(
        "--check",
        action="store_true",
        help="check recipe, options and run folder, print new | interrupted | stopped | finished and "
        "the folder, and do nothing else",
    )


def declare_report(commands: Any) -> None:
    about = "Print a run's before/after table and write its report.html: one page, self-contained, readable offline."
    made = command(commands, "report", about, "a run's table and page", _report)
    made.add_argument("folder", metavar="RUN", help="a run folder, as runs/demo")


def _train(args: argparse.Namespace) -> int:
    from vidrl import config
    from vidrl.training import evaluate, resume

    recipe = config.load(args.recipe, args.overrides)
    evaluate.check_recipe(recipe)
    _suite_callback(recipe)  # a suite that is not there must show before the work
    # one of a group: only the main process's machine has the run folder
    if "RANK" in os.environ and not args.check:
        return _trained(recipe, args.resume)
    stands = resume.examine(recipe.run, recipe.to_dict(), args.resume)
    if args.check:
        print(stands, recipe.run)
        return 0
    if not resume.goes_on(recipe.run, recipe.to_dict()):
        return _finish(recipe.run, note=_finished(recipe))
    return _launched(args) if args.processes != 1 else _trained(recipe, args.resume)


def _finished(recipe: Any) -> str:
    """The message for a run that is already finished."""
    from vidrl.training import resume

    unused = resume.unused(recipe.run, recipe.to_dict())
    told = [f"not used, because the run is finished: {change}" for change in unused]
    more = f"this run is finished: train.rounds={recipe.train.rounds + 10} --resume goes on for ten rounds more"
    return "\n".join([*told, more])


def _launched(args: argparse.Namespace) -> int:
    from vidrl.training import launch

    words = ["train", args.recipe, *args.overrides, *(["--resume"] if args.resume else [])]
    return launch.launch(words, args.processes or launch.automatic())


def _trained(recipe: Any, resume: bool) -> int:
    from vidrl.training import launch, loop

    launch.end_with_parent()
    suite = _suite_callback(recipe)
    named = {"callback": suite} if suite else {}
    return _finish(loop.run(recipe, resume=resume, **named))


def _suite_callback(recipe: Any) -> Any:
    """The suite that the recipe asks for between rounds, which the trainer must not know;
    None: it asks for none."""
    if not recipe.bench.suite:
        return None
    from vidrl.bench import callback

    return callback.build(recipe)


def _finish(folder: str | Path, note: str = "") -> int:
    from vidrl.report import run_report
    from vidrl.training import checkpoint

    if os.environ.get("RANK", "0") != "0":
        return 0
    stands = checkpoint.status(folder)
    if stands == "interrupted":
        print(f"interrupted; the same command with --resume goes on from {folder}")
        return 130
    if stands == "stopped":
        note = (
            "stopped by train.time_limit; the same command with --resume goes on for as long again"
        )
    print("\n".join(filter(None, [note, run_report.table(folder), str(run_report.write(folder))])))
    return 0


def _report(args: argparse.Namespace) -> int:
    from vidrl.report import run_report

    print(run_report.table(args.folder))
    print(run_report.write(args.folder))
    return 0
