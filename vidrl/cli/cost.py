"""Defines the command `vidrl cost`, which estimates the cost of a recipe before it runs."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ._declare import add_recipe, command
from ._tables import Table, print_tables

COST = """\
Estimate what a recipe will cost before it runs: shapes, calls of the denoiser, FLOPs, memory
and seconds for a round. Nothing is downloaded.

  vidrl cost scripts/recipes/demo.toml                       this machine, after a short calibration
  vidrl cost scripts/recipes/wan_1.3b.toml --gpu h100-80     a GPU, from its data sheet
  vidrl cost scripts/recipes/demo.toml train.group=16 --no-measure --json

The numbers for a GPU are an estimate, not a measurement. Known GPUs: h100-80, a100-40, rtx4090-24.
"""


def declare(commands: Any) -> None:
    """Declare the command `cost`."""
    cost = command(commands, "cost", COST, "estimate time and memory of a recipe", _cost)
    add_recipe(cost)
    cost.add_argument(
        "--gpu",
        default="",
        metavar="CARD",
        help="estimate for this GPU: h100-80, a100-40 or rtx4090-24 (default: this machine)",
    )
    cost.add_argument(
        "--utilisation",
        type=float,
        metavar="FRACTION",
        help="the fraction of the GPU's peak FLOP/s that training is assumed to reach (0.35)",
    )
    cost.add_argument(
        "--measure",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="time a few calls of the model on this machine (default: yes if the model's weights "
        "are here and no --gpu is named)",
    )
    cost.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object with bytes, FLOPs and seconds instead of the table",
    )


def _cost(args: argparse.Namespace) -> int:
    from vidrl import config

    # the recipe is read before the heavy imports, so that a mistake in it shows at once
    recipe = config.load(args.recipe, args.overrides)
    from vidrl import cost
    from vidrl.cost import cards, table

    utilisation = cards.UTILISATION if args.utilisation is None else args.utilisation
    estimate = cost.estimate(recipe, args.gpu, utilisation, args.measure)
    if args.json:
        print(json.dumps(estimate.to_dict(), indent=2))
        return 0
    tables = [
        Table((), block.rows, block.title, notes=block.notes) for block in table.blocks(estimate)
    ]
    print_tables(tables, table.text(estimate))
    return 0
