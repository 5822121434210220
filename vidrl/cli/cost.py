"""vidrl cost: what a recipe will cost before it runs."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ._declare import command

COST = """\
What a recipe will cost before it runs: shapes, denoiser calls, FLOPs, memory by part, seconds a round.

  vidrl cost scripts/recipes/demo.toml                          this machine, by a short calibration
  vidrl cost scripts/recipes/wan_1.3b.toml --gpu h100-80        a card, by its data sheet: an estimate, not measured
  vidrl cost scripts/recipes/demo.toml train.group=16 --no-measure --json

Nothing is downloaded. Known cards: h100-80, a100-40, rtx4090-24.
"""


def declare(commands: Any) -> None:
    """Declare the command."""
    made = command(commands, "cost", COST, "what a recipe will cost", _cost)
    made.add_argument("recipe", metavar="RECIPE", help="a TOML file; scripts/recipes holds some")
    made.add_argument(
        "overrides", metavar="key=value", nargs="*", help="dotted overrides, as train.rounds=5"
    )
    made.add_argument("--gpu", default="", metavar="CARD", help="h100-80, a100-40 or rtx4090-24")
    made.add_argument(
        "--utilisation",
        type=float,
        metavar="SHARE",
        help="of the card's peak FLOP/s that is reached (0.35): an assumption",
    )
    made.add_argument(
        "--measure",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="time a few calls here (yes for a model on this machine where no card is named)",
    )
    made.add_argument(
        "--json", action="store_true", help="the same as one JSON object; bytes, FLOPs and seconds"
    )


def _cost(args: argparse.Namespace) -> int:
    from vidrl import config

    recipe = config.load(args.recipe, args.overrides)
    from vidrl import cost
    from vidrl.cost import cards, table

    share = cards.UTILISATION if args.utilisation is None else args.utilisation
    found = cost.estimate(recipe, args.gpu, share, args.measure)
    print(json.dumps(found.to_dict(), indent=2) if args.json else table.text(found))
    return 0
