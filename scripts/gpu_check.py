"""Run everything that needs a GPU, and record the results; called by scripts/gpu_check.

The parts are the tests marked gpu, the demo, a round with the shapes of Wan-1.3B, and the
segment study. The record is benchmarks/results/training/gpu_check.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent


def tests() -> dict[str, object]:
    """Run the tests marked gpu, and return their exit status and last line."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return {"exit": done.returncode, "said": done.stdout.strip().splitlines()[-1:]}


def demo(folder: Path, overrides: list[str]) -> dict[str, object]:
    """Run the demo, or continue an earlier run; return its summary and wall time."""
    start = time.time()
    command = [
        sys.executable,
        "-m",
        "vidrl",
        "train",
        "scripts/recipes/demo.toml",
        f"run={folder}",
        "--resume",
        *overrides,
    ]
    subprocess.run(command, cwd=ROOT, check=True)
    return json.loads((ROOT / folder / "summary.json").read_text()) | {
        "wall_seconds": round(time.time() - start, 1)
    }


def script(*words: str) -> dict[str, object]:
    """Run a script, and return its exit status and last lines."""
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    said = (done.stdout.strip() or done.stderr.strip()).splitlines()[-5:]
    return {"command": " ".join(("python", *words)), "exit": done.returncode, "said": said}


def study(cpu: bool) -> dict[str, object]:
    """Run the study of whole-clip against segment credit: ten seeds of 32 rounds.

    On the CPU the study has one short seed, which only checks that the script runs.
    """
    size = (
        ("--seeds", "1", "--rounds", "2")
        if cpu
        else ("--seeds", "10", "--rounds", "32", "--jobs", "4")
    )
    out = "runs/segments-gpu-check" if cpu else "runs/segments-gpu"
    page = f"{out}/segments.md" if cpu else "benchmarks/results/credit/segments_gpu.md"
    fewer_prompts = ("--set", "data.held_out_n=8") if cpu else ()
    return script(
        "benchmarks/studies/segments.py",
        "run",
        "--arms",
        "whole,segment",
        "--kinds",
        "everywhere",
        *size,
        "--out",
        out,
        "--results",
        page,
        *fewer_prompts,
    )


def main() -> int:
    """Run all parts and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--cpu",
        action="store_true",
        help="check the script without a GPU: two rounds, eight prompts",
    )
    args = parser.parse_args()
    if not args.cpu and not torch.cuda.is_available():
        print(
            "gpu_check: expected a CUDA device, found none; --cpu runs the same path on the CPU",
            file=sys.stderr,
        )
        return 2
    short = ["train.rounds=2", "data.held_out_n=8", "train.eval_every=2"] if args.cpu else []
    folder = Path("runs/gpu-check-cpu" if args.cpu else "runs/gpu-check")
    found = {
        "command": "bash scripts/gpu_check" + (" --cpu" if args.cpu else ""),
        "tests": tests(),
        "demo": demo(folder, short),
        "wan_update": script("scripts/wan_update.py", *(["--cpu"] if args.cpu else [])),
        "segments": study(args.cpu),
    }
    target = ROOT / (folder if args.cpu else Path("benchmarks/results/training")) / "gpu_check.json"
    target.write_text(json.dumps(found, indent=1) + "\n")
    print(f"gpu_check: {target.relative_to(ROOT)}")
    # 5 is pytest's exit status where no test was collected, as on the CPU
    return int(found["tests"]["exit"] not in (0, 5))  # type: ignore[index]


if __name__ == "__main__":
    raise SystemExit(main())
