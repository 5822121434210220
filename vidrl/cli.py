"""The command line. Everything heavy is imported inside the command that needs it."""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from vidrl import __version__

ABOUT = """\
vidrl aligns video generators with temporal rewards: train them, and score any video.

  vidrl train scripts/recipes/demo.toml          fine-tune the embedded model, minutes on two CPU cores
  vidrl report runs/demo                         its before/after table, and report.html
  vidrl sample --model assets/tiny-wan --lora runs/demo/lora --prompt "a red circle moves left slowly ..." --out clips
  vidrl score clips --reward flicker             one JSON line a clip
  vidrl list rewards                             what there is; `vidrl show rewards flicker` tells more
"""

TRAIN = """\
Fine-tune a generator by reinforcement learning, as a TOML recipe says.

  vidrl train scripts/recipes/demo.toml
  vidrl train scripts/recipes/demo.toml train.rounds=5 algorithm.options.segments=1 run=runs/mine
  vidrl train scripts/recipes/demo.toml --resume            go on after a kill, to the same weights
  vidrl train scripts/recipes/demo.toml --processes 2       several processes on this machine; 0 = as many as suit it
  torchrun ... -m vidrl train RECIPE                        several machines

The run folder holds the resolved config, metrics.jsonl, clips, checkpoints, the LoRA, summary.json and report.html.
Ctrl-C saves a checkpoint and leaves.
"""

SAMPLE = """\
Make clips with a model, with or without a trained LoRA, as mp4.

  vidrl sample --model assets/tiny-wan --prompt "a red circle moves left slowly on a dark background" --out clips
  vidrl sample --model assets/tiny-wan --lora runs/demo/lora --prompts assets/prompts/world_held_out.txt --out clips

Clip i starts from the noise of torch.Generator().manual_seed(seed + i), as a diffusers pipeline given that generator.
"""

SCORE = """\
Score video files, or the videos in folders: one JSON line a clip with path, value, parts, curve (one number a frame),
fps, size, frames and, where a clip could not be scored, why.

  vidrl score clips/                                        the default composite
  vidrl score a.mp4 b.webm --reward flicker --reward drift
  vidrl score clips/ --json scores.jsonl --strict           exit status 1 if any clip could not be scored
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0 done, 1 `score --strict` found unscored clips, 2 an error."""
    parser = build()
    args, rest = parser.parse_known_args(arguments)
    if rest and not (args.command == "train" and all("=" in word and word[0] != "-" for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.overrides = [*args.overrides, *rest]
    try:
        return args.run(args) or 0
    except KeyboardInterrupt:
        print("vidrl: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more at exit
        return 141
    except Exception as error:  # noqa: BLE001  the last place that can say it, in full where it is not ours
        if os.environ.get("VIDRL_TRACEBACK") or not told(error):
            traceback.print_exc()
        else:
            rank = f" (rank {os.environ['RANK']})" if "RANK" in os.environ else ""
            print(f"vidrl{rank}: {error}", file=sys.stderr)
        return 2


def build() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = _parser(argparse.ArgumentParser, ABOUT, prog="vidrl")
    parser.add_argument("--version", action="version", version=f"vidrl {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for declare in (_declare_train, _declare_sample, _declare_score, _declare_report, _declare_list, _declare_show):
        declare(commands)
    return parser


def told(error: BaseException) -> bool:
    """Whether the error explains itself: raised by vidrl for the user, and not a slip in somebody's code."""
    if type(error).__module__.partition(".")[0] == "vidrl":
        return True
    return isinstance(error, (ValueError, RuntimeError, ImportError, OSError)) and _raised_here(error.__traceback__)


def _raised_here(trace: TracebackType | None) -> bool:
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    package = Path(__file__).resolve().parent
    places = (package, (package / "rewards").resolve(), (package / "benchmarks").resolve())
    raised_in = Path(trace.tb_frame.f_code.co_filename).resolve() if trace else Path()
    return any(raised_in.is_relative_to(place) for place in places)


# --- declarations ----------------------------------------------------------------------------------------------------


def _parser(make: Any, about: str, *names: str, **options: Any) -> argparse.ArgumentParser:
    return make(*names, description=about, formatter_class=argparse.RawDescriptionHelpFormatter, **options)


def _command(commands: Any, name: str, about: str, brief: str, run: Any) -> argparse.ArgumentParser:
    command = _parser(commands.add_parser, about, name, help=brief)
    command.set_defaults(run=run)
    return command


def _declare_train(commands: Any) -> None:
    command = _command(commands, "train", TRAIN, "fine-tune a generator", _train)
    command.add_argument("recipe", metavar="RECIPE", help="a TOML file; scripts/recipes holds some")
    command.add_argument("overrides", metavar="key=value", nargs="*", help="dotted overrides, as train.rounds=5")
    command.add_argument("--resume", action="store_true",
                         help="go on from the run folder's checkpoint; starts anew where there is none")
    command.add_argument("--processes", type=int, default=1, metavar="N",
                         help="how many share the work (1); 0: one a GPU, or two of one thread on a CPU")
    command.add_argument("--check", action="store_true",
                         help="check recipe, options and run folder, print new | interrupted | finished and the "
                              "folder, and do nothing else")


def _declare_sample(commands: Any) -> None:
    command = _command(commands, "sample", SAMPLE, "make clips", _sample)
    command.add_argument("--model", required=True, metavar="DIR", help="a model folder in diffusers' format")
    command.add_argument("--lora", metavar="DIR", help="what training saved, as runs/demo/lora")
    prompts = command.add_mutually_exclusive_group(required=True)
    prompts.add_argument("--prompt", action="append", metavar="TEXT", help="may be repeated")
    prompts.add_argument("--prompts", metavar="FILE", help="one prompt a line")
    command.add_argument("--out", required=True, metavar="DIR", help="the clips go here: 0000.mp4 ...")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--steps", type=int, default=20, help="denoising steps (20)")
    command.add_argument("--device", default="", help="cpu, cuda ...; a GPU where there is one")
    command.add_argument("--backbone", default="wan", metavar="NAME", help="the model's family (wan)")
    for name, kind in BACKBONE_OPTIONS.items():
        command.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar="N", help="the model's own if not given")


BACKBONE_OPTIONS = {"guidance": float, "frames": int, "height": int, "width": int, "text_length": int}


def _declare_score(commands: Any) -> None:
    command = _command(commands, "score", SCORE, "score videos", _score)
    command.add_argument("paths", metavar="PATH", nargs="+", help="video files, or folders of them")
    command.add_argument("--reward", action="append", metavar="NAME", default=[],
                         help="may be repeated; `vidrl list rewards` names them; the default composite if not given")
    command.add_argument("--json", metavar="FILE", help="write the lines there instead of printing them")
    command.add_argument("--strict", action="store_true", help="exit status 1 if any clip could not be scored")


def _declare_report(commands: Any) -> None:
    about = "Print a run's before/after table and write its report.html: one page, self-contained, readable offline."
    command = _command(commands, "report", about, "a run's table and page", _report)
    command.add_argument("folder", metavar="RUN", help="a run folder, as runs/demo")


def _declare_list(commands: Any) -> None:
    about = "The plug-ins of one kind (rewards, backbones, algorithms, benchmarks, steering), or of all."
    command = _command(commands, "list", about, "what there is", _list)
    command.add_argument("kind", metavar="KIND", nargs="?")
    command.add_argument("--json", action="store_true", help="names, documentation, options and facts as JSON")


def _declare_show(commands: Any) -> None:
    about = "A plug-in's documentation, options and facts.\n\n  vidrl show rewards flicker"
    command = _command(commands, "show", about, "one of them, in full", _show)
    command.add_argument("kind", metavar="KIND")
    command.add_argument("name", metavar="NAME", help="a name, or package.module:Class")
    command.add_argument("--json", action="store_true")


# --- commands --------------------------------------------------------------------------------------------------------


def _train(args: argparse.Namespace) -> int:
    from vidrl import checkpoint, config

    recipe = config.load(args.recipe, args.overrides)
    config.check_plugins(recipe)
    stands = checkpoint.examine(recipe.run, recipe.to_dict(), args.resume)
    if args.check:
        print(stands, recipe.run)
        return 0
    if stands == "finished":
        return _finish(recipe.run, note="this run is finished:")

    return _launched(args) if args.processes != 1 else _trained(recipe, args.resume)


def _launched(args: argparse.Namespace) -> int:
    from vidrl import launch

    words = ["train", args.recipe, *args.overrides, *(["--resume"] if args.resume else [])]
    return launch.launch(words, args.processes or launch.automatic())


def _trained(recipe: Any, resume: bool) -> int:
    from vidrl import launch, train

    launch.end_with_parent()
    return _finish(train.run(recipe, resume=resume))


def _finish(folder: str | Path, note: str = "") -> int:
    from vidrl import checkpoint, report

    if os.environ.get("RANK", "0") != "0":
        return 0
    if checkpoint.status(folder) != "finished":
        print(f"interrupted; the same command with --resume goes on from {folder}")
        return 130
    print("\n".join(filter(None, [note, report.table(folder), str(report.write(folder))])))
    return 0


def _report(args: argparse.Namespace) -> int:
    from vidrl import report

    print(report.table(args.folder))
    print(report.write(args.folder))
    return 0


def _sample(args: argparse.Namespace) -> int:
    import torch

    from vidrl import config, plugin
    from vidrl.policy import load_adapter
    from vidrl.rewards import video
    from vidrl.rollout import generate

    prompts = args.prompt or config.read_prompts(args.prompts)
    given = {name: getattr(args, name) for name in BACKBONE_OPTIONS if getattr(args, name) is not None}
    backbone = plugin.load("backbones", args.backbone, model=args.model, **given)
    backbone.to(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    seeds = [torch.Generator().manual_seed(args.seed + i) for i in range(len(prompts))]
    samples = generate(load_adapter(backbone, args.lora) if args.lora else backbone, prompts, seeds, args.steps)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    for i, clip in enumerate(samples.video):
        video.write(out / f"{i:04d}.mp4", clip, samples.fps)
    print(f"{len(prompts)} clips in {out}")
    return 0


def _score(args: argparse.Namespace) -> int:
    from vidrl import plugin, rewards

    chosen = {name: plugin.load("rewards", name) for name in args.reward} or {"default": rewards.default()}
    rows = rewards.score_files(args.paths, chosen)
    with open(args.json, "w", encoding="utf-8") if args.json else _Standard() as file:
        unscored = sum(_line(row, file) for row in rows)
    if unscored:
        print(f"vidrl: {unscored} not scored; `why` tells the reason of each", file=sys.stderr)
    return 1 if unscored and args.strict else 0


class _Standard:
    """Standard output as a context that stays open."""

    def __enter__(self) -> Any:
        return sys.stdout

    def __exit__(self, *error: object) -> None:
        sys.stdout.flush()


def _line(row: dict[str, Any], file: Any) -> bool:
    print(json.dumps(row, ensure_ascii=False), file=file, flush=True)
    return bool(row.get("why"))


def _list(args: argparse.Namespace) -> int:
    from vidrl import plugin

    chosen = [args.kind] if args.kind else plugin.kinds()
    table = {kind: [_facts(kind, name) for name in plugin.names(kind)] for kind in chosen}
    if args.json:
        print(json.dumps(table[args.kind] if args.kind else table, indent=2, default=str, ensure_ascii=False))
        return 0
    for kind, rows in table.items():
        print("\n".join([*([] if args.kind else [f"\n{kind}"]), *_columns(rows)]))
    return 0


def _facts(kind: str, name: str) -> dict[str, Any]:
    from vidrl import plugin

    try:
        return plugin.facts(kind, name)
    except ImportError as error:  # one plug-in's missing package must not hide the others
        return {"kind": kind, "name": name, "summary": f"not usable here: {error}", "error": str(error)}


def _columns(rows: Sequence[dict[str, Any]]) -> Iterable[str]:
    width = max((len(row["name"]) for row in rows), default=0)
    return [f"{row['name']:{width}}  {row['summary']}" for row in rows] or ["(none yet)"]


def _show(args: argparse.Namespace) -> int:
    from vidrl import plugin

    facts = plugin.facts(args.kind, args.name)
    if args.json:
        print(json.dumps(facts, indent=2, default=str, ensure_ascii=False))
        return 0
    options = [f"  {option['name']}: {option['type'] or 'any'}" +
               (f" = {option['default']!r}" if "default" in option else "   (required)") for option in facts["options"]]
    attributes = [f"  {name}: {value!r}" for name, value in facts["facts"].items()]
    print("\n".join([f"{args.kind} {args.name}   ({facts['class']})", "", facts["doc"],
                     "", "Options:", *(options or ["  none"]), "", "Facts:", *(attributes or ["  none"])]))
    return 0
