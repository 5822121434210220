"""Run everything that needs a GPU, and write one table; called by scripts/gpu_check.

The parts are the tests marked gpu, a GRPO round with the shapes of Wan 2.1 1.3B and Wan 2.2
5B under each memory option, the agreement of every reward with the CPU, the attention
kernels, and the demo. Each part is a script of its own, with a limit of time; the page
benchmarks/results/training/gpu_check.md names the command of each part, its exit status,
its seconds and its result. The file is written after each part, so that a call that is cut
off loses nothing. A part that ran already with status 0, on the same card, with the same versions
and the same code, is not run again: `--again` runs all.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path("benchmarks/results")
CODE = ("vidrl", "rewards", "benchmarks", "scripts", "tests")  # folders whose code is run
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


def facts(cpu: bool) -> dict[str, str]:
    """Return what the results depend on: the device, the versions, and a digest of the code."""
    import diffusers

    code = hashlib.sha256()
    for folder in CODE:
        for file in sorted((ROOT / folder).rglob("*")):
            if file.suffix in (".py", ".toml") and file.is_file():
                code.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + file.read_bytes())
    return {
        "device": f"{platform.machine()} CPU" if cpu else torch.cuda.get_device_name(),
        "torch": str(torch.__version__),
        "diffusers": diffusers.__version__,
        "python": platform.python_version(),
        "code": code.hexdigest(),
    }


def kept(facts: dict[str, str], cpu: bool) -> Path:
    """Return the folder of what calls with these facts have run; each set of facts has its own."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return Path("runs") / ("gpu-check-cpu" if cpu else "gpu-check") / digest[:12]


def parts(cpu: bool, folder: Path) -> list[Part]:
    """Return the parts, those that matter most first; they take eight minutes on an H200.

    `folder` keeps what an interrupted part has done.
    """
    out = Path("runs/gpu-check-cpu" if cpu else RESULTS)
    flag = ["--cpu"] if cpu else []
    rounds, devices, attention = (
        str(out / name)
        for name in ("training/gpu_round.md", "rewards/devices.md", "training/attention_cuda.md")
    )
    demo = ["-m", "vidrl", "train", "scripts/recipes/demo.toml", f"run={folder}/demo"]
    few = ["train.rounds=2", "data.held_out_n=8", "train.eval_n=0", "train.eval_every=2"]
    study = "benchmarks/studies/"
    cases = ["--cases", str(folder / "rounds.jsonl")] if not cpu else []
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
        Part("demo", [*demo, "--resume", *(few if cpu else [])], 2.0),
    ]


def run(part: Part, cpu: bool) -> Done:
    """Run a part within its limit; on a CPU, which is slower, the limit is ten times as long."""
    if part.page:
        (ROOT / part.page).parent.mkdir(parents=True, exist_ok=True)
    begun = time.time()
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
    return Done(
        part.name,
        shlex.join(["python", *part.command]),
        status,
        seconds,
        said(part, text, begun, page_of(cpu).parent),
    )


def page_of(cpu: bool) -> Path:
    """Return the file of the page that this script writes, from the repository's root."""
    return (Path("runs/gpu-check-cpu") if cpu else RESULTS / "training") / "gpu_check.md"


def said(part: Part, text: str, begun: float, folder: Path) -> str:
    """Return a link to the page that a part has written, or the last line that it printed.

    `begun`: when the part began, in seconds since 1970; an older page is of another call.
    `folder`: where the page with the link lies.
    """
    page = ROOT / part.page
    if part.page and page.is_file() and page.stat().st_mtime >= begun:
        return f"[{Path(part.page).name}]({Path(os.path.relpath(part.page, folder)).as_posix()})"
    return (text.splitlines() or ["no output"])[-1][:200]


def page(done: list[Done], cpu: bool, facts: dict[str, str]) -> str:
    """Return the page with a line for each part."""
    lines = ["| part | exit status | seconds | result | command |", "|---|---|---|---|---|"]
    lines += [
        f"| {d.name} | {d.status} | {d.seconds:.0f} | {d.result} | `{d.command}` |" for d in done
    ]
    paragraphs = [
        "# What scripts/gpu_check has run",
        f"```\nbash scripts/gpu_check{' --cpu' if cpu else ''}\n```",
        f"Device: {facts['device']}. torch {facts['torch']}, diffusers {facts['diffusers']}, "
        f"Python {facts['python']}.",
        "\n".join(lines),
    ]
    return "\n\n".join(paragraphs) + "\n"


def earlier(file: Path) -> dict[str, Done]:
    """Return the parts of earlier calls that ended with status 0."""
    if not file.is_file():
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
    target = ROOT / page_of(args.cpu)
    known_facts = facts(args.cpu)
    folder = kept(known_facts, args.cpu)
    record = ROOT / folder / "parts.json"
    if args.again:
        shutil.rmtree(record.parent, ignore_errors=True)
    for needed in (target.parent, record.parent):
        needed.mkdir(parents=True, exist_ok=True)
    (record.parent / "facts.json").write_text(json.dumps(known_facts, indent=1) + "\n")
    known, done = earlier(record), []
    for part in parts(args.cpu, folder):
        print(f"gpu_check: {part.name}", flush=True)
        done.append(known.get(part.name) or run(part, args.cpu))
        record.write_text(json.dumps([asdict(d) for d in done], indent=1) + "\n")
        target.write_text(page(done, args.cpu, known_facts))
    print(f"gpu_check: {target.relative_to(ROOT)}")
    return int(any(d.status for d in done))


if __name__ == "__main__":
    raise SystemExit(main())
