"""Defines the command `vidrl loop`: label, fit, train, and label again."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import label
from ._declare import add_recipe, command, new_folder, number, whole_number

if TYPE_CHECKING:
    from vidrl.feedback.loop_plan import Plan, Step

LOOP = """\
Label clips, fit a reward to the answers, train on this reward, and ask again where the trained
policy makes clips unlike those that were labelled.

  vidrl loop scripts/recipes/tiny_taste.toml --out evening
  vidrl loop scripts/recipes/tiny_taste.toml --out evening --no-page    stop for answers

Each step is a command of vidrl, which is printed: sample, label, fit and train. The page for the
labels opens when answers are needed, and closes when --count answers are there; ctrl-C on the page
ends the command, and the same command goes on where it stood. A step that is done is not repeated.

The reward of the recipe is `fitted`, or a composite with the part `fitted`; the loop sets its
model. Round 1 compares clips of the base model. Each later round compares clips of one prompt
before and after the training of the round before, so that people say whether this training helped.

OUT holds recipe.toml, taste.db (all answers), clips/, rewards/, runs/ and loop.md: what people and
the fitted rewards say of each round, and what it cost on the guards.
"""


def declare(commands: Any) -> None:
    """Declare the command `loop`."""
    loop = command(commands, "loop", LOOP, "label, fit, train, and label again", _loop)
    add_recipe(loop)
    loop.add_argument(
        "--out", type=new_folder, required=True, metavar="DIR", help="the folder of the loop"
    )
    loop.add_argument(
        "--prompts",
        metavar="FILE",
        default="",
        help="the prompts of the clips that are judged (some of the recipe's training prompts, two "
        "pairs of clips for each answer)",
    )
    loop.add_argument(
        "--rounds", type=whole_number(1), default=2, metavar="N", help="the most rounds (2)"
    )
    loop.add_argument(
        "--count", type=whole_number(1), default=60, metavar="N", help="answers of a round (60)"
    )
    loop.add_argument(
        "--samples", type=whole_number(2), default=3, metavar="N", help="clips of each prompt (3)"
    )
    loop.add_argument(
        "--unfamiliar",
        type=number(-1),
        default=0.05,
        metavar="P",
        help="ask again if a training raises the share of clips unlike the labelled ones by more "
        "than this (0.05); -1: always",
    )
    loop.add_argument(
        "--features",
        default="rewards,picture",
        metavar="A,B",
        help="the features of `vidrl fit` (rewards,picture)",
    )
    loop.add_argument("--seed", type=int, default=0, metavar="N", help="of prompts and clips (0)")
    loop.add_argument(
        "--no-page", action="store_true", help="stop where answers are needed; open no page"
    )
    loop.add_argument(
        "--train-anyway",
        action="store_true",
        help="train on a reward whose agreement with held-out answers is not above chance beyond "
        "doubt (default: ask for more answers)",
    )
    loop.add_argument("--port", type=whole_number(0, 65535), help="the port of the page")
    loop.add_argument("--open", action="store_true", help="open the page in a browser here")


def _loop(args: argparse.Namespace) -> int:
    from vidrl import config
    from vidrl.feedback import loop_folder, loop_page, loop_plan

    label._check_packages()  # the store and the page need them, after the sampling
    plan = _plan(args)
    loop_folder.begin(plan, config.load(args.recipe, args.overrides), args.prompts)
    while step := loop_plan.next_step(plan, rounds := loop_folder.read_rounds(plan)):
        status = _do(plan, step, args)
        if status is not None:
            return status
    print(loop_page.write(plan, rounds))
    print(plan.out / "loop.md")
    return 0


def _plan(args: argparse.Namespace) -> Plan:
    from vidrl.feedback.loop_plan import Plan

    names = ("rounds", "count", "samples", "unfamiliar", "features", "seed")
    return Plan(Path(args.out), **{name: getattr(args, name) for name in names})


def _do(plan: Plan, step: Step, args: argparse.Namespace) -> int | None:
    """Do one step; return the exit status with which the loop ends, or None to go on."""
    from vidrl.feedback import loop_folder, loop_measures, loop_page, loop_plan

    if step.name == "measure":
        loop_folder.write_round(plan, step.number, loop_measures.of_round(plan, step.number))
        loop_page.write(plan, loop_folder.read_rounds(plan))
        return None
    if (
        step.name == "train"
        and not args.train_anyway
        and (why := loop_plan.doubt(plan, step.number))
    ):
        print(f"vidrl: {why}", file=sys.stderr)
        return 1
    words = [*step.words, *(_page_words(args) if step.name == "label" else [])]
    print(f"round {max(step.number, 1)}: {step.name}: {step.why}", flush=True)
    print(f"  vidrl {shlex.join(words)}", flush=True)
    if step.name == "label" and args.no_page:
        print("answers are needed: run this command, and then `vidrl loop` again")
        return 0
    return _status(plan, step, words, args)


def _page_words(args: argparse.Namespace) -> list[str]:
    port = ["--port", str(args.port)] if args.port is not None else []
    return [*port, *(["--open"] if args.open else [])]


def _status(plan: Plan, step: Step, words: list[str], args: argparse.Namespace) -> int | None:
    """Run the command of a step; return its exit status if the loop cannot go on, else None."""
    from vidrl.feedback import loop_folder, loop_plan

    answers = loop_plan.answers_hash(plan)  # before the step: people may answer meanwhile
    status = args.command_of(words)
    if step.name == "fit" and not status:
        loop_plan.write_fitted(plan, step.number, answers)
    after = loop_plan.next_step(plan, loop_folder.read_rounds(plan))
    again = after is not None and (after.name, after.number) == (step.name, step.number)
    if status:
        print(f"vidrl: {loop_plan.why_not(step, status, again)}", file=sys.stderr)
        return status
    if after is not None and again:
        print(f"{step.name} is not complete: {after.why}; the same command goes on")
        return 0 if step.name == "label" else 1
    return None
