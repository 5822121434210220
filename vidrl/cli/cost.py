"""Defines the command `vidrl cost`, which estimates the cost of a recipe before it runs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ._declare import add_recipe, command, new_file, whole_number
from ._tables import Table, print_tables

COST = """\
Estimate what a recipe will cost before it runs: shapes, calls of the denoiser, FLOPs, memory
and seconds for a round. Nothing is downloaded.

  vidrl cost scripts/recipes/demo.toml                       this machine, after a short calibration
  vidrl cost scripts/recipes/wan_1.3b.toml --gpu h100-80     a GPU, from its data sheet
  vidrl cost scripts/recipes/demo.toml train.group=16 --no-measure --json
  vidrl cost scripts/recipes/wan_1.3b.toml --gpu h100-80 --processes 8     per card
  vidrl cost scripts/recipes/flux.toml --gpu rtx4090-24 --fit --out fitted.toml
  vidrl cost scripts/recipes/study.toml --for influence --prompts 64 --members 2

With --fit, the memory options with which the recipe fits the card are searched, and printed in a
table, the option that costs least time first, with the overrides for `vidrl train`. The exit
status is 1 if nothing fits.

The numbers for a GPU are an estimate, not a measurement. Known GPUs: h100-80, h200-141, a100-80,
a100-40, l40s-48, rtx4090-24.
"""


def declare(commands: Any) -> None:
    """Declare the command `cost`."""
    cost = command(commands, "cost", COST, "estimate time and memory of a recipe", _cost)
    add_recipe(cost)
    cost.add_argument(
        "--gpu",
        default="",
        metavar="CARD",
        help="estimate for this GPU, such as h100-80 or rtx4090-24 (default: this machine)",
    )
    cost.add_argument(
        "--utilisation",
        type=float,
        metavar="FRACTION",
        help="the fraction of the GPU's peak FLOP/s that training is assumed to reach (0.35)",
    )
    cost.add_argument(
        "--processes",
        type=whole_number(1),
        default=1,
        metavar="N",
        help="the number of processes that share the clips of a round, one on each GPU (1)",
    )
    cost.add_argument(
        "--measure",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="time a few calls of the model on this machine (default: yes if the model's weights "
        "are here and no --gpu is named)",
    )
    cost.add_argument(
        "--fit",
        action="store_true",
        help="search the memory options with which the recipe fits the GPU that --gpu names",
    )
    cost.add_argument(
        "--out",
        type=new_file,
        default=None,
        metavar="FILE",
        help="write the recipe with the overrides of --fit to a TOML file",
    )
    cost.add_argument(
        "--for",
        dest="purpose",
        choices=("influence",),
        metavar="influence",
        help="add what `vidrl influence` with this recipe costs",
    )
    cost.add_argument(
        "--prompts", type=whole_number(1), metavar="N", help="prompts of --for influence (64)"
    )
    cost.add_argument(
        "--members",
        type=whole_number(2),
        metavar="N",
        help="clips for each prompt of --for influence (2)",
    )
    cost.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object with bytes, FLOPs and seconds instead of the table",
    )


def _cost(args: argparse.Namespace) -> int:
    from vidrl import config

    _check(args)
    # the recipe is read before the heavy imports, so that a mistake in it shows at once
    recipe = config.load(args.recipe, args.overrides)
    if args.fit:
        return _fit(args, recipe)
    from vidrl import cost
    from vidrl.cost import cards, table

    utilisation = cards.UTILISATION if args.utilisation is None else args.utilisation
    estimate = cost.estimate(recipe, args.gpu, utilisation, args.measure, processes=args.processes)
    found, blocks = estimate.to_dict(), table.blocks(estimate)
    if args.purpose:
        from vidrl.cost import influence

        of = influence.of_recipe(recipe, estimate, args.prompts or 64, args.members or 2)
        found, blocks = (
            found | {"influence": of.to_dict()},
            [*blocks, influence.block(of, estimate)],
        )
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    tables = [Table((), block.rows, block.title, notes=block.notes) for block in blocks]
    print_tables(tables, table.text(blocks))
    return 0


def _check(args: argparse.Namespace) -> None:
    """Raise ValueError for options that need another one."""
    if args.fit and not args.gpu:
        raise ValueError("expected --gpu CARD with --fit, got none: name the card to fit")
    if args.fit and args.measure:
        raise ValueError("expected no --measure with --fit, which estimates for a card")
    if args.out and not args.fit:
        raise ValueError("expected --fit with --out, which writes the fitted recipe, got none")
    if args.purpose and (args.fit or args.processes > 1):
        raise ValueError(
            "expected neither --fit nor --processes with --for influence, which one process "
            "measures: leave them out"
        )
    if (args.prompts or args.members) and not args.purpose:
        raise ValueError(
            "expected --for influence with --prompts and --members, got none: a round's are "
            "train.prompts_per_round and train.group"
        )


def _fit(args: argparse.Namespace, recipe: Any) -> int:
    """Print the options with which a recipe fits a card; return 1 if nothing fits."""
    from vidrl import config, cost
    from vidrl.cost import fit, fit_table

    target = cost.target(recipe, args.gpu, args.utilisation, args.processes)
    found = fit.search(recipe, target)
    if args.json:
        print(json.dumps(found.to_dict(), indent=2))
    else:
        block = fit_table.block(found, " ".join(["vidrl train", args.recipe, *args.overrides]))
        table = Table(fit_table.HEADER, block.rows, block.title, (1, 2, 3), notes=block.notes)
        print_tables([table], fit_table.text(block))
    if args.out and found.fits:
        fitted = config.load(recipe, found.overrides, files=False)
        Path(args.out).write_text(fitted.to_toml())
    return 0 if found.fits else 1
