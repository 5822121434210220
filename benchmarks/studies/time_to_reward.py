"""How much training does each algorithm need to reach plain Flow-GRPO's final reward?

    python benchmarks/studies/time_to_reward.py run     # continue the ledger, two runs at a time
    python benchmarks/studies/time_to_reward.py next    # list the next runs without training
    python benchmarks/studies/time_to_reward.py best    # measure best of N of the base model
    python benchmarks/studies/time_to_reward.py report  # write the page, the plot and the ledger

The study trains arms (algorithms with options) at several learning rates and seeds. The
first arm is plain Flow-GRPO: the gain at its end is the target of all other arms, and its
CPU seconds are their budget. Each arm's learning rate is swept with a seed that no final
run has.

`run` may be killed and called again: finished runs are in the ledger,
runs/time_to_reward/ledger.jsonl. To stop after the runs in progress, create the file `stop`
in the folder --out. `report` writes benchmarks/results/training/time_to_reward.md, .svg and
.jsonl.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import _time_to_reward_ledger as ledger
from _time_to_reward_arms import ARMS, PLAIN, PLAIN_ROUNDS, ROOT, SWEEP_SEED, Arm, missing
from _time_to_reward_times import GUARDS

from vidrl.training.launch import PARENT, end_with_parent

# a run ends at this multiple of the target or of `HIGH`, whichever is higher: the target may
# still rise with the next runs of plain
MARGIN = 1.1
FORK = multiprocessing.get_context("fork")
Running = tuple[Any, Path]  # the process, and the file for its line
Active = dict[ledger.Job, Running]


def allowed(job: ledger.Job, runs: Sequence[Any]) -> dict[str, float]:
    """Return the target, the CPU seconds and the rounds at which a job ends."""
    if job.arm == PLAIN:
        return {"target": 1e9, "budget": 1e9, "rounds": PLAIN_ROUNDS}
    fraction = ledger.SWEEP_SHARE if job.seed == SWEEP_SEED else 1.0
    ends = {
        "target": MARGIN * max(ledger.target(runs), ledger.HIGH),
        "budget": fraction * ledger.budget(runs),
    }
    # 1e9 instead of infinity, which JSON cannot hold
    return {name: min(value, 1e9) for name, value in ends.items()} | {"rounds": 10**6}


def one(job: ledger.Job, ends: Mapping[str, float], out: Path, file: Path) -> None:
    """Train one run in a child process, and write its line of the ledger to a file."""
    import _time_to_reward_run as running

    end_with_parent()
    with open(out / "runs.log", "ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    row = running.run(ARMS[job.arm], job.rate, job.seed, **ends, out=out, least=GUARDS)
    file.write_text(json.dumps(job._asdict() | row))


def start(job: ledger.Job, runs: Sequence[Any], out: Path) -> Running:
    """Start a job's process, a fork of this one, which has loaded the libraries."""
    file = out / f"{job.arm}-{job.rate:g}-{job.seed}.json"
    file.unlink(missing_ok=True)
    process = FORK.Process(target=one, args=(job, allowed(job, runs), out, file))
    process.start()
    return process, file


def load() -> None:
    """Load the libraries of all runs, so that no run spends CPU seconds on them."""
    import _time_to_reward_run
    import accelerate
    import diffusers
    import peft
    import transformers

    assert _time_to_reward_run and accelerate and peft
    for package, names in {
        diffusers: ("AutoencoderKLWan", "WanTransformer3DModel", "WanPipeline"),
        transformers: ("UMT5EncoderModel", "AutoTokenizer"),
    }.items():
        for name in names:
            getattr(package, name)  # these packages load a class when it is first asked for
    os.environ[PARENT] = str(os.getpid())  # `end_with_parent` in a child compares with this


def finish(job: ledger.Job, code: int, file: Path, book: Path) -> bool:
    """Move a run's line into the ledger; return False where the run left no line."""
    done = code == 0 and file.exists()
    if done:
        row = json.loads(file.read_text())
        ledger.add(book, row)
        last = {name: values[-1] for name, values in row["looks"].items()}
        gain = last["composite"] - row["base"]["composite"] if last else float("nan")
        run = f"{job.arm} {job.rate:g} seed {job.seed}"
        cost = f"{last.get('round')} rounds, {last.get('cpu')} CPU s, gain {gain:+.3f}"
        print(time.strftime("%H:%M:%S"), f"{run}: ended by {row['ended']} after {cost}", flush=True)
    file.unlink(missing_ok=True)
    return done


def work(out: Path, o: argparse.Namespace) -> None:
    """Run the agenda until it is done.

    `work` stops earlier where the CPU seconds --cpu are used up or the file `stop` exists.
    """
    book = out / "ledger.jsonl"
    active, failed = Active(), set[ledger.Job]()
    arms = {name: ARMS[name] for name in checked(o.arms) if not missing(ARMS[name])}
    load()
    while True:
        failed |= ended(active, book)
        runs = ledger.read(book)
        spent = sum(run["spent"] for run in runs)
        stop = (out / "stop").exists() or spent >= o.cpu
        ready = [
            job for job in waiting(runs, arms, o.sweep_only) if job not in active.keys() | failed
        ]
        if not active and (stop or not ready):
            return print(
                f"stopped with {len(ready)} jobs named, {spent:.0f} CPU seconds spent", flush=True
            )
        if ready and not stop and len(active) < o.jobs:
            job = next_of(ready, {job.arm for job in active})
            active[job] = start(job, runs, out)
        else:
            time.sleep(1)


def next_of(ready: Sequence[ledger.Job], arms: set[str]) -> ledger.Job:
    """Return the first job, but never a second run of plain while one is in progress.

    Runs of plain are slow, and two at a time would keep both slots for long.
    """
    other = [job for job in ready if job.arm != PLAIN]
    return other[0] if other and PLAIN in arms else ready[0]


def ended(active: Active, book: Path) -> set[ledger.Job]:
    """Remove the runs that have ended from `active`; return those without a line."""
    over = {job: running for job, running in active.items() if running[0].exitcode is not None}
    for job in over:
        del active[job]
    lost = {
        job for job, (child, file) in over.items() if not finish(job, child.exitcode, file, book)
    }
    for job in lost:
        print(
            f"{job} failed with {over[job][0].exitcode}: see {book.with_name('runs.log')}",
            flush=True,
        )
    return lost


def waiting(runs: Sequence[Any], arms: Mapping[str, Arm], sweep_only: bool) -> list[ledger.Job]:
    """Return the agenda; only plain's part of it while the budget is unknown."""
    named = ledger.agenda(runs, arms)
    if ledger.budget(runs) == float("inf"):
        named = [job for job in named if job.arm == PLAIN]
    return [job for job in named if job.seed == SWEEP_SEED or not sweep_only]


def tell(out: Path, names: Sequence[str]) -> None:
    """Print the next jobs, the chosen rates, and why arms cannot be run."""
    runs = ledger.read(out / "ledger.jsonl")
    spent = sum(run["spent"] for run in runs)
    ends = f"target {ledger.target(runs):+.3f}, budget {ledger.budget(runs):.0f}"
    print(f"{len(runs)} runs, {spent:.0f} CPU s; {ends}")
    for name in names:
        why = missing(ARMS[name])
        rates = {f"{r:g}": round(m, 2) for r, m in ledger.merits(runs, name).items()}
        ready = len(ledger.of(runs, name, False))
        rate = ledger.chosen(runs, name)
        print(f"{name}: rate {rate}, merits {rates}, finals {ready} {why[:150]}")
    arms = {name: ARMS[name] for name in names if not missing(ARMS[name])}
    for job in ledger.agenda(runs, arms)[:20]:
        print(*job)


def options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=("run", "next", "best", "report"))
    parser.add_argument(
        "--out", type=Path, default=ROOT / "runs" / "time_to_reward", help="where the ledger is"
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=ROOT / "benchmarks" / "results" / "training" / "time_to_reward.md",
    )
    parser.add_argument("--jobs", type=int, default=2, help="runs of one thread side by side")
    parser.add_argument(
        "--cpu",
        type=float,
        default=9000.0,
        help="CPU seconds of all runs after which none is begun",
    )
    parser.add_argument(
        "--sweep-only", action="store_true", help="the sweeps of the rates, no final runs"
    )
    parser.add_argument("--arms", default=",".join(ARMS), help="in the order in which they are run")
    return parser.parse_args()


def checked(text: str) -> list[str]:
    """Return the names of the arms, with plain first: its end is the target."""
    names = text.split(",")
    strange = [name for name in names if name not in ARMS]
    if strange:
        raise SystemExit(
            f"time_to_reward: expected arms out of {', '.join(ARMS)}, got {strange[0]!r}"
        )
    return [PLAIN, *(name for name in names if name != PLAIN)]


def main() -> None:
    o = options()
    out, names = o.out.resolve(), checked(o.arms)
    os.chdir(ROOT)  # the paths of a recipe are relative to the repository
    out.mkdir(parents=True, exist_ok=True)
    if o.stage == "next":
        return tell(out, names)
    if o.stage == "report":
        import _time_to_reward_page as page

        return page.write(out / "ledger.jsonl", o.results.resolve())
    if o.stage == "best":
        import _time_to_reward_best as best

        return best.add(out / "ledger.jsonl")
    with open(out / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            cure = "wait for it, or name another --out"
            raise SystemExit(f"time_to_reward: another `run` works in {out}: {cure}") from None
        return work(out, o)


if __name__ == "__main__":
    main()
