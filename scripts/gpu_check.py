"""Run everything that needs a GPU, and write one table; called by scripts/gpu_check.

The parts are the tests marked gpu, a GRPO round with the shapes of Wan 2.1 1.3B and Wan 2.2
5B under each memory option, the agreement of every reward with the CPU, the attention
kernels, and the demo. Each part is a script of its own, with a limit of time; the page
benchmarks/results/training/gpu_check.md names the command of each part, its exit status,
its seconds and its result. The file is written after each part, so that a call that is cut
off loses nothing. A part that ran already with status 0 is not run again: `--again` runs all.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path("benchmarks/results")
NO_TESTS = 5  # pytest's exit status where no test was collected, as on a CPU


@dataclass(frozen=True)
class Part:
    """A part of the check: its command, its limit in minutes, and the page that it writes."""

    name: str
    command: list[str]
    minutes: float
    page: str = ""


@dataclass(frozen=True)
class Done:
    """What came of a part."""

    name: str
    command: str
    status: int
    seconds: float
    result: str


def parts(cpu: bool) -> list[Part]:
    """Return the parts, those that matter most first; they take eight minutes on an H200."""
    out = Path("runs/gpu-check-cpu" if cpu else RESULTS)
    flag = ["--cpu"] if cpu else []
    rounds, devices, attention = (
        str(out / name)
        for name in ("training/gpu_round.md", "rewards/devices.md", "training/attention_cuda.md")
    )
    demo = ["-m", "vidrl", "train", "scripts/recipes/demo.toml", "run=runs/gpu-check-demo"]
    short = ["train.rounds=2", "data.held_out_n=8", "train.eval_every=2"] if cpu else []
    study = "benchmarks/studies/"
    cases = ["--cases", "runs/gpu-check/rounds.jsonl"] if not cpu else []
    kernels = ["--quick", "--out", attention]
    return [
        Part("tests", ["-m", "pytest", "-q", "-m", "gpu", "tests"], 1.0),
        Part(
            "rounds",
            [study + "gpu_round.py", *flag, *cases, "--minutes", "4", "--out", rounds],
            5.0,
            rounds,
        ),
        Part("rewards", [study + "reward_devices.py", *flag, "--out", devices], 1.0, devices),
        Part("attention", [study + "attention.py", *kernels], 1.0, attention),
        Part("demo", [*demo, "--resume", *short], 2.0),
    ]


def run(part: Part, cpu: bool) -> Done:
    """Run a part within its limit; on a CPU, which is slower, the limit is ten times as long."""
    if part.page:
        (ROOT / part.page).parent.mkdir(parents=True, exist_ok=True)
    start, limit = time.monotonic(), 60 * part.minutes * (10 if cpu else 1)
    command = [sys.executable, *part.command]
    try:
        made = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=limit
        )
        status, text = made.returncode, (made.stdout.strip() or made.stderr.strip())
    except subprocess.TimeoutExpired:
        status, text = 124, f"not finished after {limit:.0f} s"
    seconds = time.monotonic() - start
    status = 0 if part.name == "tests" and status == NO_TESTS else status
    return Done(part.name, shlex.join(["python", *part.command]), status, seconds, said(part, text))


def said(part: Part, text: str) -> str:
    """Return a link to the page of a part, or the last line that the part printed."""
    if part.page and (ROOT / part.page).is_file():
        return f"[{Path(part.page).name}]({Path(part.page).as_posix()})"
    return (text.splitlines() or ["no output"])[-1][:200]


def page(done: list[Done], cpu: bool) -> str:
    """Return the page with a line for each part."""
    import diffusers

    name = f"{platform.machine()} CPU" if cpu else torch.cuda.get_device_name()
    lines = ["| part | exit status | seconds | result | command |", "|---|---|---|---|---|"]
    lines += [
        f"| {d.name} | {d.status} | {d.seconds:.0f} | {d.result} | `{d.command}` |" for d in done
    ]
    paragraphs = [
        "# What was run on a GPU",
        f"```\nbash scripts/gpu_check{' --cpu' if cpu else ''}\n```",
        f"Device: {name}. torch {torch.__version__}, diffusers {diffusers.__version__}, Python "
        f"{platform.python_version()}.",
        "\n".join(lines),
    ]
    return "\n\n".join(paragraphs) + "\n"


def earlier(file: Path, again: bool) -> dict[str, Done]:
    """Return the parts of earlier calls that ended with status 0."""
    if again or not file.is_file():
        return {}
    found = [Done(**entry) for entry in json.loads(file.read_text())]
    return {done.name: done for done in found if done.status == 0}


def main() -> int:
    """Run all parts, and write the page after each one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cpu", action="store_true", help="check the script without a GPU")
    parser.add_argument("--again", action="store_true", help="run also what was run before")
    args = parser.parse_args()
    if not args.cpu and not torch.cuda.is_available():
        print(
            "gpu_check: expected a CUDA device, found none; --cpu runs the same path on the CPU",
            file=sys.stderr,
        )
        return 2
    target = ROOT / ("runs/gpu-check-cpu" if args.cpu else RESULTS / "training") / "gpu_check.md"
    record = ROOT / "runs" / ("gpu-check-cpu" if args.cpu else "gpu-check") / "parts.json"
    for folder in (target.parent, record.parent):
        folder.mkdir(parents=True, exist_ok=True)
    known, done = earlier(record, args.again), []
    for part in parts(args.cpu):
        print(f"gpu_check: {part.name}", flush=True)
        done.append(known.get(part.name) or run(part, args.cpu))
        record.write_text(json.dumps([asdict(d) for d in done], indent=1) + "\n")
        target.write_text(page(done, args.cpu))
    print(f"gpu_check: {target.relative_to(ROOT)}")
    return int(any(d.status for d in done))


if __name__ == "__main__":
    raise SystemExit(main())
