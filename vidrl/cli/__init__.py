"""The command line. Heavy packages are imported inside the command that needs them."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from vidrl import __version__
from vidrl.lookup.passwords import hidden

from . import (
    audit,
    bench,
    completion,
    cost,
    export,
    fit,
    influence,
    label,
    list_and_show,
    loop,
    pairs,
    sample,
    schema,
    score,
    train,
)
from ._declare import check_device, parser
from ._terminal import plainly

ABOUT = """\
vidrl aligns video generators by reinforcement learning with temporal rewards, and scores any video.

  vidrl train scripts/recipes/demo.toml     fine-tune the included small model, minutes on two cores
  vidrl cost scripts/recipes/demo.toml      estimate what that takes: calls, memory, seconds
  vidrl report runs/demo                    print its before/after table and write report.html
  vidrl sample --model assets/tiny-wan --lora runs/demo/lora --out clips \\
      --prompt "a red circle moves left slowly on a dark background"
  vidrl export runs/demo --format comfyui   write its LoRA for another program, here ComfyUI
  vidrl score clips --reward flicker        print one JSON line for each clip
  vidrl bench clips                         measure how steady the clips are, and write a report
  vidrl pairs show choices.jsonl            count what a file of people's judgments holds
  vidrl label base ours --store taste.db    let people compare clips on a local page
  vidrl fit choices.csv --out taste         fit a reward to people's choices
  vidrl loop scripts/recipes/tiny_taste.toml --out evening      label, fit, train, label again
  vidrl list rewards                        list the rewards
  vidrl show rewards flicker                describe one reward
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    0: done; 1: clips were not scored, or an audit failed; 2: an error; 3: an audit could not
    decide; 130: interrupted.
    """
    with plainly():
        return _main(arguments)


def _main(arguments: Sequence[str] | None) -> int:
    command_line = build()
    args, rest = command_line.parse_known_args(arguments)
    args.reader = command_line  # `vidrl completion` writes a script from the parser
    args.command_of = _main  # `vidrl loop` runs other commands
    words = sys.argv[1:] if arguments is None else map(str, arguments)
    args.words = [hidden(word) for word in words]  # as results keep the command
    # argparse does not take KEY=VALUE after an option, so these words are collected here
    if rest and not (
        hasattr(args, "overrides") and all("=" in word and word[0] != "-" for word in rest)
    ):
        hint = ": values of a recipe are written as train.rounds=3" if "overrides" in args else ""
        command_line.error(f"unrecognized arguments: {' '.join(rest)}{hint}")
    if rest:
        args.overrides = [*args.overrides, *rest]
    try:
        check_device(getattr(args, "device", ""))
        return args.run(args) or 0
    except KeyboardInterrupt:
        print("vidrl: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Python flushes standard output at exit and would complain a second time
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:  # noqa: BLE001  the last place that can print any error
        _print_error(error)
        return 2


def _print_error(error: Exception) -> None:
    """Print the message of an error for the user, or the traceback of any other error."""
    if os.environ.get("VIDRL_TRACEBACK") or not explains_itself(error):
        traceback.print_exc()
    else:
        rank = f" (rank {os.environ['RANK']})" if "RANK" in os.environ else ""
        print(f"vidrl{rank}: {error}", file=sys.stderr)


def build() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    command_line = parser(argparse.ArgumentParser, ABOUT, prog="vidrl")
    command_line.add_argument("--version", action="version", version=f"vidrl {__version__}")
    commands = command_line.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for declare in (
        train.declare_train,
        sample.declare,
        score.declare,
        audit.declare_audit,
        audit.declare_serve,
        bench.declare,
        fit.declare,
        loop.declare,
        cost.declare,
        train.declare_report,
        export.declare,
        influence.declare,
        pairs.declare,
        label.declare,
        list_and_show.declare_list,
        list_and_show.declare_show,
        schema.declare,
        completion.declare,
    ):
        declare(commands)
    return command_line


def explains_itself(error: BaseException) -> bool:
    """Return whether the message of an error suffices, so that no traceback is printed.

    True for vidrl's own error classes, and for common errors that vidrl's code raises; an
    error that another package raises may be a mistake in the code and needs its traceback.
    """
    if type(error).__module__.partition(".")[0] == "vidrl":
        return True
    return isinstance(error, (ValueError, RuntimeError, ImportError, OSError)) and _raised_here(
        error.__traceback__
    )


def _raised_here(trace: TracebackType | None) -> bool:
    """Return whether the error was raised in a file of vidrl."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    package = Path(__file__).resolve().parent.parent
    # rewards and benchmarks are links to folders outside the package
    folders = (package, (package / "rewards").resolve(), (package / "benchmarks").resolve())
    raised_in = Path(trace.tb_frame.f_code.co_filename).resolve() if trace else Path()
    return any(raised_in.is_relative_to(folder) for folder in folders)
