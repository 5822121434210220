"""The demo's outcome over seeds, as a Markdown table: `python
benchmarks/studies/demo_seeds.py runs/demo*`.

Reads each run's summary.json; paired differences on its 256 held-out prompts with 95 %
intervals, and what is shown of its guards.
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
    return f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"


def _allowed(guard: dict[str, Any]) -> str:
    low, high = guard["allowed"]
    return f"{low:+.3f} to {high:+.3f} allowed"


def main(folders: list[str]) -> None:
    runs = [json.loads((Path(folder) / "summary.json").read_text()) for folder in folders]
    if not runs:
        raise SystemExit(
            "demo_seeds: expected run folders, got none: bash scripts/demo; bash scripts/demo --seed 1"
        )
    first = runs[0]
    versions = first["versions"]
    print(
        f"Device: {first['device']}. torch {versions['torch']}, diffusers {versions['diffusers']}.\n"
    )
    print("| measure | before | " + " | ".join(f"seed {run['seed']}" for run in runs) + " |")
    print("|---|---|" + "---|" * len(runs))
    for name in MEASURES:
        cells = [cell(run["held_out"][name]) for run in runs]
        print(f"| {name} | {first['held_out'][name]['before']:.3f} | " + " | ".join(cells) + " |")
    for name in first["guards"]:
        told = " | ".join(run["guards"][name]["verdict"] for run in runs)
        print(f"| guard of {name}: {_allowed(first['guards'][name])} | | {told} |")
    print(
        "| training seconds | | " + " | ".join(f"{run['train_seconds']:.0f}" for run in runs) + " |"
    )
    print("| status | | " + " | ".join(run["status"] for run in runs) + " |")


if __name__ == "__main__":
    main(sys.argv[1:])
