"""How much memory does a round of each published model take, option by option?

    python benchmarks/studies/memory.py --out benchmarks/results/training/memory.md

Design: the recipe of each model is estimated by `vidrl cost`, which traces the real
architecture on shapes, without weights. The options are added one after the other, and each
cell is the traced peak of a card in GB. The batch sizes are those of an 80 GB card, except
that micro-batches have one row and clips are decoded one at a time. Nothing is run on a GPU.

`--cells FILE` stores each cell, and a second call continues there. `--models` names the
recipes.

Output: the page --out, or standard output.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from vidrl import config, cost
from vidrl.cost.cards import HEADROOM
from vidrl.cost.work import Memo

FILE = "benchmarks/studies/memory.py"
RECIPES = Path("scripts/recipes")
MODELS = (
    "wan_1.3b",
    "wan22_5b",
    "wan_14b",
    "cogvideox_2b",
    "cogvideox_5b",
    "ltx",
    "hunyuan_video15",
    "sd35_medium",
    "flux",
)
# The first set is the starting point; each later set is added to those before it.
SETS: dict[str, tuple[str, ...]] = {
    "bfloat16": (
        "backbone.options.dtype=bfloat16",
        "backbone.options.gradient_checkpointing=false",
        "backbone.options.activation_offload=false",
        "backbone.options.vae_tiling=false",
        "backbone.options.text_encoder=keep",
        "train.micro_batch=1",
        "train.score_batch=1",
    ),
    "+ checkpointing": ("backbone.options.gradient_checkpointing=true",),
    "+ text encoders dropped": ("backbone.options.text_encoder=drop",),
    "+ VAE in tiles": ("backbone.options.vae_tiling=true",),
    "+ activations on the host": ("backbone.options.activation_offload=true",),
    "+ fp8": ("backbone.options.quantization=fp8",),
    "nf4 in place of fp8": ("backbone.options.quantization=nf4",),
}
SIZES = (24, 48, 80)
Cell = dict[str, float | str]


def overrides(name: str) -> list[str]:
    """Return the overrides of a set and of all sets before it; the last value of a key counts.

    >>> overrides("+ checkpointing")[-1]
    'backbone.options.gradient_checkpointing=true'
    """
    names = list(SETS)
    return [item for key in names[: names.index(name) + 1] for item in SETS[key]]


def traced(model: str, name: str, memo: Memo) -> Cell:
    """Return the peak of a recipe with a set of options, in GB, or why there is none.

    `memo` keeps the traces that the sets of one model share.
    """
    try:
        recipe = config.load(RECIPES / f"{model}.toml", overrides(name))
        found = cost.of_target(recipe, cost.target(recipe, "h100-80"), memo=memo)
    except (ValueError, RuntimeError, TypeError) as error:
        return {"reason": f"{type(error).__name__}: {str(error).splitlines()[0][:160]}"}
    return {"peak": found.memory["peak"] / 1e9}


def cells(models: Sequence[str], file: Path | None) -> dict[tuple[str, str], Cell]:
    """Return all cells: those of the file, and new ones, which are added to the file."""
    lines = file.read_text().splitlines() if file and file.exists() else []
    found = {(entry["model"], entry["set"]): entry["cell"] for entry in map(json.loads, lines)}
    memos = {model: Memo() for model in models}
    for key in [(model, name) for model in models for name in SETS]:
        if key not in found:
            found[key] = traced(*key, memos[key[0]])
            if file:
                with file.open("a") as out:
                    entry = {"model": key[0], "set": key[1], "cell": found[key]}
                    out.write(json.dumps(entry) + "\n")
    return found


def shown(cell: Cell) -> str:
    """Return a cell as text: the peak in GB, and the smallest card that holds it."""
    if "reason" in cell:
        return "–"
    peak = float(cell["peak"])
    fits = [size for size in SIZES if peak <= size * HEADROOM]
    return f"{peak:.1f}" + (f" ({fits[0]})" if fits else "")


def page(models: Sequence[str], found: dict[tuple[str, str], Cell], command: str) -> str:
    """Return the page with a line for each model."""
    lines = [f"| recipe | {' | '.join(SETS)} |", "|---" * (len(SETS) + 1) + "|"]
    for model in models:
        row = [shown(found[model, name]) for name in SETS]
        lines.append(f"| `{model}` | {' | '.join(row)} |")
    reasons = [
        f"- `{model}`, {name}: {found[model, name]['reason']}"
        for model in models
        for name in SETS
        if "reason" in found[model, name]
    ]
    cards = ", ".join(f"{size} GB" for size in SIZES)
    parts = [
        "# What a round of each model takes on a card, option by option",
        f"```\n{command}\n```",
        "Traced on shapes, not run on a GPU. GB of the largest stage, with weights, a LoRA, its "
        "optimiser and one row or clip at a time, at the size of the recipe. In brackets the "
        f"smallest of the cards ({cards}) of which the peak fills at most {HEADROOM:.0%}. "
        "Text encoders that are dropped were on the card alone, before the network, to encode the "
        "prompts; where they are the largest stage, the number is theirs.",
        f"torch {torch.__version__}.",
        "\n".join(lines),
        "\n".join(reasons),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Trace the cells that are not stored, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="the page; standard output without it")
    parser.add_argument("--cells", type=Path, help="the file in which cells are stored")
    parser.add_argument("--models", default=",".join(MODELS), help="recipes, joined by commas")
    args = parser.parse_args(arguments)
    models = args.models.split(",")
    unknown = [name for name in models if not (RECIPES / f"{name}.toml").is_file()]
    if unknown:
        parser.error(f"expected recipes of {RECIPES}, got {', '.join(unknown)}")
    command = shlex.join(["python", FILE, *(sys.argv[1:] if arguments is None else arguments)])
    text = page(models, cells(models, args.cells), command)
    print(text) if args.out is None else args.out.write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
