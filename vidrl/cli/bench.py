"""vidrl bench: temporal consistency of any folder of videos, or of any model."""

from __future__ import annotations

import argparse
from typing import Any

from . import _model
from ._declare import command

BENCH = """\
Measure any folder of videos, or any model: results.json, results.csv and report.html, with intervals and reasons.

  vidrl bench videos/                                       no prompts, no weights, no fixed file names
  vidrl bench videos_a/ videos_b/ --names base,ours         paired by prompt and seed: differences, wins, worst and best
  vidrl bench --model assets/tiny-wan --lora runs/demo/lora --suite motion     sample a suite's prompts, then measure
  vidrl bench --run runs/demo --suite motion                the model of a run, sampled as its recipe says
  vidrl bench videos/ --profile vbench                      VBench's arithmetic, totals, leaderboard JSON
  vidrl bench videos/ --manifest clips.csv                  columns path, prompt, seed, reference; other tables too
  vidrl bench videos/ --manifest VBench_full_info.json --profile vbench        VBench's names and its dims a prompt
  vidrl bench videos/ --suite i2v --reference images/       a reference of the same stem for each clip
  vidrl bench videos/ --dims flicker,drift --fps 8 --side 256 --jobs 8
  vidrl bench a/results.json b/results.json --names a,b     compare what is measured already
  vidrl bench a/ b/ --primary default --margin flicker=0.01           one dim first; is flicker not worse by 0.01?
  vidrl bench a/ b/ --distance frechet,kernel --against real/        set-level distances
  vidrl bench --preferences choices.csv                     how often does each dim choose as people do?
  vidrl bench --meta                                        which faults lower a dim, which raise it?
  torchrun --nproc-per-node 4 -m vidrl bench videos/ --out shared/bench        several processes or machines

A clip that crashes its decoder, hangs or cannot be scored is a row with its reason. What is measured lies in OUT/cache:
a second run, or one after a kill, measures only what is missing. Numbers of different protocols (--fps, --side,
--frames) refuse to be compared. Exit status: 0 done; 1 nothing could be scored, or --strict and not all; 2 an error.
"""


def declare(commands: Any) -> None:
    made = command(commands, "bench", BENCH, "measure a folder of videos, or a model", _bench)
    made.add_argument(
        "paths",
        metavar="PATH",
        nargs="*",
        help="folders, each a set; files, together one; or results.json of earlier runs",
    )
    made.add_argument("--names", metavar="A,B", help="what to call the sets (their folders' names)")
    made.add_argument(
        "--suite",
        metavar="NAME",
        help="temporal, motion, long, i2v, orbit, image, vbench, vbench_i2v, "
        "or a .toml file of yours (temporal; motion with --model)",
    )
    made.add_argument(
        "--profile", choices=("vidrl", "vbench"), help="dims of this arithmetic alone"
    )
    made.add_argument("--dims", metavar="A,B", help="these dims of the suite, or rewards by name")
    made.add_argument(
        "--option",
        action="append",
        metavar="DIM.KEY=VALUE",
        default=[],
        help="an option of a dim's reward, as vbench_subject_consistency.weights=FOLDER; may be repeated",
    )
    made.add_argument(
        "--manifest",
        "--prompts",
        metavar="FILE",
        help=".csv, .tsv, .json, .jsonl or .parquet with path, prompt, seed, reference; or "
        "VBench_full_info.json; prompts.csv in the folder if not given",
    )
    made.add_argument(
        "--reference",
        metavar="DIR",
        help="what clips were made from: images or videos of their stems",
    )
    made.add_argument(
        "--clips",
        action="append",
        metavar="DIR",
        default=[],
        help="of saved results: a folder whose clips may be opened beside that of the results.json, and "
        "those that this machine measured for it; may be repeated",
    )
    made.add_argument("--out", metavar="DIR", help="the files go here (runs/bench-NAME)")
    made.add_argument(
        "--format",
        metavar="A,B",
        help="json, csv, md, latex, html, leaderboard or all (json,csv,html); "
        "results.json is always written",
    )
    made.add_argument(
        "--cache",
        metavar="DIR",
        help="what is measured is kept here (OUT/cache); runs may share it",
    )
    made.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="processes of one thread each (one a core, up to 4); 0: "
        "this process, which a broken file can take down",
    )
    made.add_argument(
        "--timeout",
        type=float,
        default=1800.0,
        metavar="SECONDS",
        help="longest time for one clip (1800); 0: as long as it takes",
    )
    made.add_argument(
        "--strict", action="store_true", help="exit status 1 if any clip or dim could not be scored"
    )
    _declare_claims(made)
    _declare_protocol(made)
    _declare_model(made)
    _declare_more(made)


def _declare_claims(made: argparse.ArgumentParser) -> None:
    group = made.add_argument_group(
        "comparison",
        "said before the clips are measured; docs/guides/bench.md has what may be concluded",
    )
    group.add_argument(
        "--primary",
        metavar="DIM",
        help="this dim is tested first, at 5 %% and not corrected for the "
        "others; the others may be claimed only where it differs too (none: all dims are corrected)",
    )
    group.add_argument(
        "--margin",
        action="append",
        metavar="DIM=VALUE",
        default=[],
        help="the largest difference of a dim that does not matter: within it sets are equivalent or "
        "not worse (its least relevant difference, where one was measured); may be repeated",
    )


def _declare_protocol(made: argparse.ArgumentParser) -> None:
    group = made.add_argument_group(
        "protocol", "how a file becomes the clip that is measured; 0: as it comes"
    )
    group.add_argument(
        "--fps",
        type=float,
        metavar="N",
        help="brought near this rate by keeping every frame, every second, every third ...",
    )
    group.add_argument(
        "--side", type=int, metavar="PIXELS", help="the shorter side is shrunk to it"
    )
    group.add_argument("--frames", type=int, metavar="N", help="at most so many, from the start")


def _declare_model(made: argparse.ArgumentParser) -> None:
    group = made.add_argument_group(
        "sampling", f"clips of the suite's prompts, made by a model. {_model.MODEL}"
    )
    _model.declare(group)
    group.add_argument(
        "--limit",
        type=int,
        default=0,
        metavar="N",
        help="the first N prompts; the scenes of --meta",
    )
    group.add_argument(
        "--per-prompt", type=int, default=0, metavar="N", help="clips a prompt (the suite's)"
    )
    group.add_argument(
        "--steps", type=int, default=0, metavar="N", help="denoising steps (the suite's)"
    )
    group.add_argument("--seed", type=int, default=0, metavar="N")
    group.add_argument(
        "--device",
        default="",
        help="cpu, cuda ...; for learned dims too, which run on the CPU if not given",
    )


def _declare_more(made: argparse.ArgumentParser) -> None:
    group = made.add_argument_group("more")
    group.add_argument(
        "--distance", metavar="A,B", help="frechet, kernel: distances between sets of clips"
    )
    group.add_argument(
        "--encoder",
        metavar="NAME",
        help="what turns clips into features for --distance, or "
        "module:function of yours (efficientnet)",
    )
    group.add_argument(
        "--against", metavar="DIR", help="the clips that --distance compares with (the first set)"
    )
    group.add_argument(
        "--preferences", metavar="FILE", help="pairs of clips with people's choices, .csv or .jsonl"
    )
    group.add_argument(
        "--raters",
        default="majority",
        metavar="HOW",
        help="of several answers to a pair: majority, each, or one rater's name (majority)",
    )
    group.add_argument(
        "--meta",
        action="store_true",
        help="which corruptions lower a dim's score, and which raise it",
    )


def _bench(args: argparse.Namespace) -> int:
    from vidrl.bench import command

    from .score import _cores, _progress

    args.jobs = min(_cores(), 4) if args.jobs is None else args.jobs
    return command.main(args, args.words, _progress)
