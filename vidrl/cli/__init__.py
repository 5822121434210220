"""The command line. Everything heavy is imported inside the command that needs it."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from vidrl import __version__

from . import (
    audit,
    bench,
    completion,
    cost,
    export,
    influence,
    list_and_show,
    sample,
    schema,
    score,
    train,
)
from ._declare import parser
from ._terminal import plainly

ABOUT = """\
vidrl aligns video generators with temporal rewards: train them, and score any video.

  vidrl train scripts/recipes/demo.toml          fine-tune the embedded model, minutes on two CPU cores
  vidrl cost scripts/recipes/demo.toml           what that takes: calls, memory, seconds
  vidrl report runs/demo                         its before/after table, and report.html
  vidrl sample --model assets/tiny-wan --lora runs/demo/lora --prompt "a red circle moves left slowly ..." --out clips
  vidrl export runs/demo --format comfyui        its LoRA for another program, here ComfyUI
  vidrl score clips --reward flicker             one JSON line a clip
  vidrl bench clips                              how steady they are, with intervals and a report
  vidrl list rewards                             what there is; `vidrl show rewards flicker` tells more
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0 done, 1 clips unscored or an audit
    failed, 2 an error."""
    with plainly():
        return _main(arguments)


def _main(arguments: Sequence[str] | None) -> int:
    reader = build()
    args, rest = reader.parse_known_args(arguments)
    args.reader = reader  # `vidrl completion` writes a script from the parser
    args.words = list(sys.argv[1:] if arguments is None else map(str, arguments))
    if rest and not (
        hasattr(args, "overrides") and all("=" in word and word[0] != "-" for word in rest)
    ):
        reader.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.overrides = [*args.overrides, *rest]
    try:
        return args.run(args) or 0
    except KeyboardInterrupt:
        print("vidrl: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # or Python complains once more at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:  # noqa: BLE001  the last place that can say it, in full where it is not ours
        if os.environ.get("VIDRL_TRACEBACK") or not explains_itself(error):
            traceback.print_exc()
        else:
            rank = f" (rank {os.environ['RANK']})" if "RANK" in os.environ else ""
            print(f"vidrl{rank}: {error}", file=sys.stderr)
        return 2


def build() -> argparse.ArgumentParser:
    """The parser of the command line."""
    made = parser(argparse.ArgumentParser, ABOUT, prog="vidrl")
    made.add_argument("--version", action="version", version=f"vidrl {__version__}")
    commands = made.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for declare in (
        train.declare_train,
        sample.declare,
        score.declare,
        audit.declare_audit,
        audit.declare_serve,
        bench.declare,
        cost.declare,
        train.declare_report,
        export.declare,
        influence.declare,
        list_and_show.declare_list,
        list_and_show.declare_show,
        schema.declare,
        completion.declare,
    ):
        declare(commands)
    return made


def explains_itself(error: BaseException) -> bool:
    """Whether the error explains itself: raised by vidrl for the user, and not a slip in
    somebody's code."""
    if type(error).__module__.partition(".")[0] == "vidrl":
        return True
    return isinstance(error, (ValueError, RuntimeError, ImportError, OSError)) and _raised_here(
        error.__traceback__
    )


def _raised_here(trace: TracebackType | None) -> bool:
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    package = Path(__file__).resolve().parent.parent
    places = (package, (package / "rewards").resolve(), (package / "benchmarks").resolve())
    raised_in = Path(trace.tb_frame.f_code.co_filename).resolve() if trace else Path()
    return any(raised_in.is_relative_to(place) for place in places)
