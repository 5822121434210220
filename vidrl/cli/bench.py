"""Defines `vidrl bench`, which measures the temporal consistency of videos and of models."""

from __future__ import annotations

import argparse
from typing import Any

from . import _model
from ._declare import command, device, new_folder, number, whole_number
from ._progress import clip_progress

BENCH = """\
Measure any folder of videos, or any model. The command prints a table with confidence intervals
and writes results.json, results.csv and report.html.

  vidrl bench videos/                                  needs no prompts, weights or file names
  vidrl bench videos_a/ videos_b/ --names base,ours    compare two sets, paired by prompt and seed
  vidrl bench --model assets/tiny-wan --lora runs/demo/lora --suite motion
                                                       sample a suite's prompts, then measure
  vidrl bench --run runs/demo --suite motion           sample the model of a run
  vidrl bench videos/ --profile vbench                 VBench's arithmetic, totals, leaderboard JSON
  vidrl bench videos/ --manifest clips.csv             columns path, prompt, seed, reference
  vidrl bench videos/ --manifest VBench_full_info.json --profile vbench
                                                       VBench's file names and dims for each prompt
  vidrl bench videos/ --suite i2v --reference images/  the image of the same stem for each clip
  vidrl bench videos/ --dims flicker,drift --fps 8 --side 256 --jobs 8
  vidrl bench a/results.json b/results.json --names a,b    compare saved results
  vidrl bench a/ b/ --primary default --margin flicker=0.01
                                                       test one dim first; is flicker not worse
                                                       by more than 0.01?
  vidrl bench a/ b/ --distance frechet,kernel --against real/    distances between sets
  vidrl bench --preferences choices.csv                how often each dim agrees with people
  vidrl bench --meta                                   which faults lower or raise a dim
  torchrun --nproc-per-node 4 -m vidrl bench videos/ --out shared/bench    several processes

A dim is one measure of a suite, for example flicker. A clip that crashes its decoder, hangs or
cannot be scored becomes a row with the reason. Measurements are kept in OUT/cache: a second run,
or a run after an interruption, measures only what is missing. Results of different protocols
(--fps, --side, --frames) cannot be compared; the command refuses them. Exit status: 0 done; 1 no
clip could be scored, or --strict and some clip or dim could not; 2 an error.
"""


def declare(commands: Any) -> None:
    """Declare the command `bench`."""
    bench = command(commands, "bench", BENCH, "measure a folder of videos, or a model", _bench)
    _declare_clips(bench)
    _declare_measures(bench)
    _declare_output(bench)
    _declare_limits(bench)
    _declare_comparison(bench)
    _declare_protocol(bench)
    _declare_model(bench)
    _declare_more(bench)


def _declare_clips(bench: argparse.ArgumentParser) -> None:
    """Declare the arguments that name the sets of clips and what belongs to a clip."""
    bench.add_argument(
        "paths",
        metavar="PATH",
        nargs="*",
        help="folders, each of which is one set; files, which are one set together; or "
        "results.json files of earlier runs",
    )
    bench.add_argument("--names", metavar="A,B", help="names of the sets (their folders' names)")
    bench.add_argument(
        "--manifest",
        "--prompts",
        metavar="FILE",
        help="a table (.csv, .tsv, .json, .jsonl, .parquet) with the columns path, prompt, seed "
        "and reference, or VBench_full_info.json (prompts.csv in the folder, if there is one)",
    )
    bench.add_argument(
        "--reference",
        metavar="DIR",
        help="the folder of the images or videos that clips were generated from; a clip's "
        "reference has the same stem as the clip",
    )
    bench.add_argument(
        "--clips",
        action="append",
        metavar="DIR",
        default=[],
        help="with results.json as PATH: let the report open the clips in this folder, in addition "
        "to those in the folder of results.json and those that this machine measured; may be "
        "repeated",
    )


def _declare_measures(bench: argparse.ArgumentParser) -> None:
    """Declare the arguments that choose the dims."""
    bench.add_argument(
        "--suite",
        metavar="NAME",
        help="the suite of dims: temporal, motion, long, i2v, orbit, image, vbench, vbench_i2v, or "
        "your .toml file (temporal; motion with --model)",
    )
    bench.add_argument(
        "--profile",
        choices=("vidrl", "vbench"),
        help="measure only the dims with vidrl's or with VBench's arithmetic",
    )
    bench.add_argument(
        "--dims",
        metavar="A,B",
        help="measure only these dims of the suite, or these rewards (all dims of the suite)",
    )
    bench.add_argument(
        "--option",
        action="append",
        metavar="DIM.KEY=VALUE",
        default=[],
        help="set an option of a dim's reward, for example "
        "vbench_subject_consistency.weights=FOLDER; may be repeated",
    )


def _declare_output(bench: argparse.ArgumentParser) -> None:
    """Declare the arguments that choose the files to write."""
    bench.add_argument(
        "--out",
        type=new_folder,
        metavar="DIR",
        help="the folder in which the files are written (runs/bench-NAME; runs/bench-NAME-2 ... "
        "where that holds results of other clips or dims)",
    )
    bench.add_argument(
        "--format",
        metavar="A,B",
        help="the formats to write: json, csv, md, latex, html, leaderboard or all "
        "(json,csv,html); results.json is always written",
    )
    bench.add_argument(
        "--cache",
        type=new_folder,
        metavar="DIR",
        help="the folder in which measurements are kept (OUT/cache); several runs may use one",
    )


def _declare_limits(bench: argparse.ArgumentParser) -> None:
    """Declare the number of processes, the time limit, and --strict."""
    bench.add_argument(
        "--jobs",
        type=whole_number(0),
        metavar="N",
        help="the number of processes that measure, of one thread each (one for each core, at most "
        "4); 0 measures in this process, which a broken file can crash",
    )
    bench.add_argument(
        "--timeout",
        type=number(0),
        default=1800.0,
        metavar="SECONDS",
        help="the longest time for one clip (1800); 0: no limit",
    )
    bench.add_argument(
        "--strict",
        action="store_true",
        help="exit with status 1 if any clip or dim could not be scored",
    )


def _declare_comparison(bench: argparse.ArgumentParser) -> None:
    """Declare the arguments that state before the measurement how sets are compared."""
    group = bench.add_argument_group(
        "comparison",
        "Choose these before the clips are measured. docs/guides/bench.md explains the conclusions "
        "that they allow.",
    )
    group.add_argument(
        "--primary",
        metavar="DIM",
        help="test this dim first, at 5 %% and not corrected for the other dims; a difference of "
        "another dim counts only if this dim differs too (none: all dims are corrected)",
    )
    group.add_argument(
        "--margin",
        action="append",
        metavar="DIM=VALUE",
        default=[],
        help="the largest difference of a dim that does not matter: within it, sets are called "
        "equivalent or not worse (the measured least relevant difference of the dim, if there is "
        "one); may be repeated",
    )


def _declare_protocol(bench: argparse.ArgumentParser) -> None:
    """Declare the arguments of the protocol."""
    group = bench.add_argument_group(
        "protocol", "How each file is changed before it is measured. 0 leaves the file as it is."
    )
    group.add_argument(
        "--fps",
        type=number(0),
        metavar="N",
        help="bring clips near this frame rate by keeping every frame, every second, every third "
        "...",
    )
    group.add_argument(
        "--side",
        type=whole_number(0),
        metavar="PIXELS",
        help="shrink the shorter side to this length",
    )
    group.add_argument(
        "--frames", type=whole_number(0), metavar="N", help="measure at most the first N frames"
    )


def _declare_model(bench: argparse.ArgumentParser) -> None:
    """Declare the arguments that sample clips from a model."""
    group = bench.add_argument_group(
        "sampling", f"Sample clips of the suite's prompts from a model. {_model.MODEL}"
    )
    _model.declare(group)
    group.add_argument(
        "--limit",
        type=whole_number(0),
        default=0,
        metavar="N",
        help="sample only the first N prompts, or with --meta only N scenes (0: all)",
    )
    group.add_argument(
        "--per-prompt",
        type=whole_number(0),
        default=0,
        metavar="N",
        help="sample N clips for each prompt (0: the number that the suite sets)",
    )
    group.add_argument(
        "--steps",
        type=whole_number(0),
        default=0,
        metavar="N",
        help="denoising steps (0: the number that the suite sets)",
    )
    group.add_argument("--seed", type=int, default=0, metavar="N", help="the first seed (0)")
    group.add_argument(
        "--device",
        type=device,
        default="",
        help="cpu, cuda ...: the device of the model and of learned dims (a GPU if the machine has "
        "one for the model, the CPU for learned dims)",
    )


def _declare_more(bench: argparse.ArgumentParser) -> None:
    """Declare the arguments of distances, preferences and faults."""
    group = bench.add_argument_group("more")
    group.add_argument(
        "--distance",
        metavar="A,B",
        help="also measure distances between sets of clips: frechet, kernel",
    )
    group.add_argument(
        "--encoder",
        metavar="NAME",
        help="the network that turns clips into features for --distance, or your function as "
        "package.module:NAME (efficientnet)",
    )
    group.add_argument(
        "--against",
        metavar="DIR",
        help="the folder of clips with which --distance compares each set (the first set)",
    )
    group.add_argument(
        "--preferences",
        metavar="FILE",
        help="a .csv or .jsonl table of pairs of clips with people's choices: measure how often "
        "each dim agrees with them",
    )
    group.add_argument(
        "--raters",
        default="majority",
        metavar="HOW",
        help="which answer counts if a pair of --preferences has several: majority, each, or one "
        "rater's name (majority)",
    )
    group.add_argument(
        "--meta",
        action="store_true",
        help="measure which corruptions of a clip lower a dim's score, and which raise it",
    )


def _bench(args: argparse.Namespace) -> int:
    from vidrl.bench import command

    from .score import cores

    args.jobs = min(cores(), 4) if args.jobs is None else args.jobs
    return command.main(args, args.words, clip_progress)
