"""How does the demo end on several seeds?

    python benchmarks/studies/demo_seeds.py runs/demo*

Reads the summary.json of each run folder and prints a Markdown table
(benchmarks/results/training/demo_seeds.md): paired differences on the 256 held-out prompts
with 95 % intervals, the verdict of each guard, and the training time.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

MEASURES = (
    "composite",
    "dynamic_degree",
    "verifier",
    "identity",
    "flicker",
    "warp_error",
    "motion_consistency",
    "drift",
    "frame_quality",
    "pumping",
    "freeze",
    "diversity",
)


def cell(row: dict[str, float]) -> str:
    """Format a difference with its interval."""
    return f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"


def _allowed(guard: dict[str, Any]) -> str:
    """Format the range in which a guard allows its measure to move."""
    low, high = guard["allowed"]
    return f"{low:+.3f} to {high:+.3f} allowed"


def main(folders: list[str]) -> None:
    """Print the table of these run folders."""
    runs = [json.loads((Path(folder) / "summary.json").read_text()) for folder in folders]
    if not runs:
        cure = "make some by: bash scripts/demo; bash scripts/demo --seed 1"
        raise SystemExit(f"demo_seeds: expected run folders, got none: {cure}")
    first = runs[0]
    versions = ", ".join(f"{name} {first['versions'][name]}" for name in ("torch", "diffusers"))
    print(f"Device: {first['device']}. {versions}.\n")
    print("| measure | before | " + " | ".join(f"seed {run['seed']}" for run in runs) + " |")
    print("|---|---|" + "---|" * len(runs))
    for name in MEASURES:
        cells = [cell(run["held_out"][name]) for run in runs]
        print(f"| {name} | {first['held_out'][name]['before']:.3f} | " + " | ".join(cells) + " |")
    for name in first["guards"]:
        verdicts = " | ".join(run["guards"][name]["verdict"] for run in runs)
        print(f"| guard of {name}: {_allowed(first['guards'][name])} | | {verdicts} |")
    print(
        "| training seconds | | " + " | ".join(f"{run['train_seconds']:.0f}" for run in runs) + " |"
    )
    print("| status | | " + " | ".join(run["status"] for run in runs) + " |")


if __name__ == "__main__":
    main(sys.argv[1:])
