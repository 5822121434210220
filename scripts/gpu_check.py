"""What scripts/gpu_check runs: gpu tests, the demo, a round of Wan-1.3B's shapes, the
segment study; their record."""

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
    """The closing line of the tests marked gpu."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return {"exit": done.returncode, "said": done.stdout.strip().splitlines()[-1:]}


def demo(folder: Path, overrides: list[str]) -> dict[str, object]:
    """The demo's summary and its wall time; an earlier run in the folder goes on."""
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
    """A study's exit status and its last lines."""
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    said = (done.stdout.strip() or done.stderr.strip()).splitlines()[-5:]
    return {"command": " ".join(("python", *words)), "exit": done.returncode, "said": said}


def study(cpu: bool) -> dict[str, object]:
    """Whole-clip against segment credit: ten seeds of 32 rounds; on the CPU one short seed,
    which proves the path."""
    size = (
        ("--seeds", "1", "--rounds", "2")
        if cpu
        else ("--seeds", "10", "--rounds", "32", "--jobs", "4")
    )
    kept = "runs/segments-gpu-check" if cpu else "runs/segments-gpu"
    page = f"{kept}/segments.md" if cpu else "benchmarks/results/credit/segments_gpu.md"
    few = ("--set", "data.held_out_n=8") if cpu else ()
    return script(
        "benchmarks/studies/segments.py",
        "run",
        "--arms",
        "whole,segment",
        "--kinds",
        "everywhere",
        *size,
        "--out",
        kept,
        "--results",
        page,
        *few,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--cpu",
        action="store_true",
        help="prove the script without a GPU: two rounds, eight prompts",
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
    return int(found["tests"]["exit"] not in (0, 5))  # type: ignore[index]  5: no test ran


if __name__ == "__main__":
    raise SystemExit(main())
