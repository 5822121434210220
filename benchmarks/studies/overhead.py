"""How much of a training round does the trainer itself take?

    python benchmarks/studies/overhead.py [--rounds 5] [--profiled 2] [--prompts 4] [--out FILE]

The trainer's overhead is the wall time of a round outside the network (forward pass,
backward pass, text encoder), the decoder, the reward and the optimiser's own step. The
study trains the embedded models by two recipes, in one process with one thread. A clock is
patched around these functions while the trainer runs unchanged. Every second of a round is
counted once: a function that runs inside another measured function is left out of the
seconds of the outer one.

A round lasts from its start to the start of the next one, so that the metrics and a
checkpoint belong to it. A checkpoint is written after every round, which is more often than
in the recipes, and a round has fewer clips; both make the overhead a larger share. No
held-out evaluation lies between the rounds. The first round is left out.

The last rounds run under cProfile, whose timer stands still inside the measured functions:
the own time of a Python function is then its share of the overhead. The profiler makes
these rounds slower, so they are not in the first table.

Output: the page --out, benchmarks/results/training/overhead.md.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import platform
import pstats
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from importlib.metadata import version
from operator import itemgetter
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import cv2
import torch

from vidrl import config
from vidrl.benchmarks.studies._clock import Clock
from vidrl.training.loop import Trainer

ROOT = Path(__file__).resolve().parents[2]
RESULT = Path("benchmarks/results/training/overhead.md")
RECIPES = ("scripts/recipes/demo.toml", "scripts/recipes/study.toml")
GOAL = 0.05  # of a round
# The work that a round is made of; all other time is the trainer's overhead.
WORK = ("network, forward", "network, backward", "text encoder", "decoder", "reward", "optimiser")
# The parts of the trainer, whose seconds without those of WORK are the overhead.
LOOP = "the rest of the loop"
TRAINER = ("sampling", "scoring", "clips and credit", "update", "metrics", "checkpoint", LOOP)
TOP = 5  # functions of the profile in the page
OWN = (Path(__file__).name, "_clock.py")  # the files of the study itself
# Settings that take nothing but rounds: the held-out evaluation is at the start and the end.
TRAIN = {"eval_every": 10**6, "eval_steps": 2, "eval_n": 0, "checkpoint_every": 1, "show": 1}

Round = dict[str, float]  # the seconds of a round, by the names of WORK and TRAINER
Key = tuple[str, int, str]  # file, line and name, by which pstats names a function


@dataclass(frozen=True)
class Function:
    """A function of the profile, with what it adds to the overhead."""

    # The file and the name of the function.
    name: str
    # The function that calls it and in which it takes most of its time.
    caller: str
    # Calls in all profiled rounds.
    calls: int
    # Seconds of its own in all profiled rounds, outside the functions of WORK.
    seconds: float


@dataclass(frozen=True)
class Measured:
    """A run whose rounds were measured by the clock, and the last ones by the profiler."""

    # The rounds that the clock alone measured, without the first one.
    rounds: list[Round]
    # The rounds under the profiler.
    profiled: list[Round]
    # Every function of the profiled rounds, the largest seconds first.
    functions: list[Function]


# Measuring


def targets(trainer: Trainer) -> list[tuple[Any, str, str]]:
    """Return owner, attribute and stage of each function that the clock measures."""
    backbone = trainer.backbone
    found: list[tuple[Any, str, str]] = [
        (backbone.network, "forward", "network, forward"),
        (torch.autograd, "backward", "network, backward"),
        (backbone, "decode", "decoder"),
        # the class, because Python looks for `__call__` there and not on the instance
        (type(trainer.reward), "__call__", "reward"),
        (trainer.updater.optimiser, "step", "optimiser"),
        (trainer, "_sampled", "sampling"),
        (trainer, "_scored", "scoring"),
        (trainer.record, "credit", "clips and credit"),
        (trainer.updater, "update", "update"),
        (trainer.record, "metrics", "metrics"),
        (trainer.between, "save", "checkpoint"),
    ]
    encoder = getattr(getattr(backbone, "pipe", None), "text_encoder", None)
    return found if encoder is None else [*found, (encoder, "forward", "text encoder")]


def measured(
    trainer: Trainer, profiled: int, now: Callable[[], float] = time.perf_counter
) -> Measured:
    """Train all rounds of a trainer, and measure them; the last ones with the profiler too.

    `now` reads the time in seconds. Raises ValueError where no round is left for the clock
    alone, beside the first one.
    """
    unprofiled = trainer.options.rounds - profiled
    if unprofiled < 2 or profiled < 1:
        raise ValueError(
            "expected at least one profiled round and two others, the first of which is left "
            f"out, got {profiled} and {unprofiled}"
        )
    clock = Clock(now)
    profiler = cProfile.Profile(lambda: clock.spent(TRAINER))
    marks: list[Round] = []

    def start() -> None:
        marks.append(clock.read())
        if len(marks) == unprofiled + 1:
            profiler.enable()

    def end() -> None:
        profiler.disable()
        marks.append(clock.read())

    with patched(trainer, clock, start, end):
        try:
            clock.timed(LOOP, trainer.go)()
        finally:
            profiler.disable()
    rounds = [_between(*pair) for pair in zip(marks[:-1], marks[1:], strict=True)]
    return Measured(rounds[1:unprofiled], rounds[unprofiled:], functions(profiler))


@contextmanager
def patched(
    trainer: Trainer, clock: Clock, start: Callable[[], None], end: Callable[[], None]
) -> Iterator[None]:
    """Measure the functions of a trainer within this context.

    `start` is called before each round, and `end` after the last one.
    """
    with ExitStack() as patches:
        for owner, name, stage in targets(trainer):
            timed = clock.timed(stage, getattr(owner, name))
            patches.enter_context(patch.object(owner, name, timed))
        for owner, name, mark in (
            (trainer, "_train_round", start),
            (trainer.between, "finish", end),
        ):
            marked = _after(mark, getattr(owner, name))
            patches.enter_context(patch.object(owner, name, marked))
        yield


def _after(first: Callable[[], None], function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that calls `first` and then the given function."""

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        first()
        return function(*args, **kwargs)

    return run


def _between(start: Round, end: Round) -> Round:
    """Return the seconds of each stage between two readings of the clock."""
    return {name: end.get(name, 0.0) - start.get(name, 0.0) for name in (*WORK, *TRAINER)}


def functions(profiler: cProfile.Profile) -> list[Function]:
    """Return the functions of a profile, but those of this study, the largest seconds first."""
    stats: dict[Any, Any] = vars(pstats.Stats(profiler))["stats"]
    # an entry holds: calls without recursion, all calls, own seconds, total seconds, callers
    found = [
        Function(_name(key), _largest(key, callers), calls, seconds)
        for key, (_, calls, seconds, _, callers) in stats.items()
        if Path(key[0]).name not in OWN
    ]
    return sorted(found, key=lambda function: -function.seconds)


def _name(key: Key) -> str:
    """Return a readable name of a function that pstats names by file, line and name."""
    file, line, name = key
    if file == "~":  # a function that is written in C
        return name.strip("<>").removeprefix("built-in method ")
    path = re.sub(r".*/(site-packages|python3\.\d+)/", "", file.removeprefix(f"{ROOT}/"))
    # a function without a name, as <lambda>, is found by its line
    return f"{path}:{line} {name}" if name.startswith("<") else f"{path} {name}"


def _largest(own: Key, callers: Mapping[Key, Sequence[float]]) -> str:
    """Return the caller in which a function takes most of its own time; "" without callers.

    Calls of a recursive function by itself are left out.
    """
    # index 2: the function's own seconds when this caller called it
    seconds = {key: times[2] for key, times in callers.items() if key != own}
    return _name(max(seconds, key=lambda key: seconds[key])) if seconds else ""


# The runs


def trainer(recipe: str, rounds: int, prompts: int, run: Path) -> Trainer:
    """Build the trainer of a recipe with a few rounds, in the folder `run`."""
    table = config.load(ROOT / recipe).to_dict()
    table["run"] = str(run)
    model = table["backbone"]["options"]["model"]
    table["backbone"]["options"]["model"] = str(ROOT / model)
    table["data"] |= {key: str(ROOT / table["data"][key]) for key in ("prompts", "held_out")}
    table["data"]["held_out_n"] = 2
    table["train"] |= TRAIN | {"rounds": rounds, "prompts_per_round": prompts}
    table["guard"] = {"bands": {}}  # two held-out clips cannot hold a band
    return Trainer.from_recipe(config.build(table))


def run_recipe(recipe: str, asked: argparse.Namespace) -> tuple[str, Measured]:
    """Run a recipe; return a sentence on its size, and what was measured."""
    with tempfile.TemporaryDirectory() as folder:
        rounds = 1 + asked.rounds + asked.profiled
        loop = trainer(recipe, rounds, asked.prompts, Path(folder, "run"))
        try:
            found = measured(loop, asked.profiled)
        finally:
            loop.close()
    frames, _, height, width = loop.backbone.clip_shape
    size = (
        f"{asked.prompts * loop.options.group} clips a round, {frames} frames of {height} x "
        f"{width}; algorithm `{loop.parts.recipe.algorithm.name}`. Medians of {asked.rounds} "
        "rounds."
    )
    return size, found


# The page


def overhead(seconds: Round) -> float:
    """Return the seconds of a round that are the trainer's overhead.

    Example:
        >>> overhead({name: 1.0 for name in (*WORK, *TRAINER)})
        7.0
    """
    return sum(seconds[name] for name in TRAINER)


def row(name: str, rounds: Sequence[Round], seconds: Callable[[Round], float]) -> str:
    """Return a table row: the median seconds of a stage, and its median share of a round."""
    share = median(seconds(each) / sum(each.values()) for each in rounds)
    return f"| {name} | {median(map(seconds, rounds)):.3f} | {share:.1%} |"


def stages(rounds: Sequence[Round]) -> list[str]:
    """Return the table of the stages of a round."""
    lines = ["| stage | seconds a round | share |", "|---|---|---|"]
    lines += [row(name, rounds, itemgetter(name)) for name in WORK]
    lines += [row("**overhead of the trainer**", rounds, overhead)]
    lines += [row(f"overhead: {name}", rounds, itemgetter(name)) for name in TRAINER]
    return [*lines, row("round", rounds, lambda seconds: sum(seconds.values()))]


def contributors(found: Measured) -> list[str]:
    """Return the table of the functions that take most of the overhead."""
    total, count = sum(map(overhead, found.profiled)), len(found.profiled)
    lines = ["| function | called by | calls a round | ms a round | share of the overhead |"]
    lines += ["|---|---|---|---|---|"]
    return lines + [
        f"| `{each.name}` | `{each.caller}` | {each.calls / count:.0f} "
        f"| {1e3 * each.seconds / count:.1f} | {each.seconds / total:.1%} |"
        for each in found.functions[:TOP]
    ]


def verdict(rounds: Sequence[Round]) -> str:
    """Return a sentence that compares the overhead with the goal."""
    shares = sorted(overhead(each) / sum(each.values()) for each in rounds)
    meets = "meets" if median(shares) <= GOAL else "misses"
    return (
        f"The overhead is {median(shares):.1%} of a round ({shares[0]:.1%} to {shares[-1]:.1%} in "
        f"{len(shares)} rounds), which {meets} the goal of at most {GOAL:.0%}."
    )


def section(recipe: str, size: str, found: Measured) -> list[str]:
    """Return the part of the page on one recipe."""
    slowed = median(map(overhead, found.profiled)) / median(map(overhead, found.rounds))
    return [
        f"## {recipe}\n",
        f"{size} {verdict(found.rounds)}\n",
        *stages(found.rounds),
        "",
        f"The {TOP} functions that take most of the overhead, by their own time. The profiler "
        f"makes the overhead {slowed:.1f} times as long, and functions of many short calls most of "
        "all, so that the shares are rough.\n",
        *contributors(found),
        "",
    ]


def page(command: str, sections: Sequence[str]) -> str:
    """Return the page as Markdown."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers", "numpy"))
    head = [
        "# What the trainer itself costs\n",
        f"`{command}`  ",
        f"Python {platform.python_version()}, {versions}; {platform.machine()} CPU, one process, "
        f"one thread, wall time. Load of the machine at the end: {os.getloadavg()[0]:.1f} on "
        f"{os.cpu_count()} cores; a load above 1 is other work, which lengthens the seconds.\n",
        "The overhead is the time of a round outside the network, the decoder, the reward and the "
        "optimiser's own step. A checkpoint is written after every round, which is more often "
        "than the recipes ask for, and a round has fewer clips than theirs: both make the "
        "overhead a larger share. The held-out evaluations are left out, and so is the first "
        "round. Every second is counted once. A share is the median over the rounds, so that "
        "the shares need not add up to 100 %.\n",
    ]
    return "\n".join([*head, *sections])


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds that the table shows")
    parser.add_argument("--profiled", type=int, default=2, help="rounds under the profiler")
    parser.add_argument("--prompts", type=int, default=4, help="prompts a round")
    parser.add_argument("--out", type=Path, default=RESULT, help="the page to write")
    given = sys.argv[1:] if arguments is None else list(arguments)
    asked = parser.parse_args(given)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)  # the reward's optical flow
    lines = [line for recipe in RECIPES for line in section(recipe, *run_recipe(recipe, asked))]
    text = page(" ".join(["python benchmarks/studies/overhead.py", *given]), lines)
    asked.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
