"""Does segment credit learn from fewer samples than whole-clip credit?

    python scripts/local_faults.py train          # once: train the model with local faults
    python benchmarks/studies/segments.py sweep   # train each arm at three learning rates
    python benchmarks/studies/segments.py run     # train the chosen rates over paired seeds
    python benchmarks/studies/segments.py report  # write the table and the plots, at any time
    python benchmarks/studies/segments.py final   # evaluate finished runs on 256 prompts

Design: arms (see `ARMS`) × seeds × kinds of clips, trained by `vidrl train`. A pair is one
seed: both runs of the pair have the same prompts and the same first noise of every group.
Held-out prompts and their noise are the same for all runs. Runs of `sweep` have other seeds
than those of `run`.

Each stage may be killed and called again: finished runs are skipped, unfinished runs are
resumed. The name of a run's folder contains a hash of everything that the run overrides, so
that an edited arm never reads the runs of the old arm.

Output: benchmarks/results/credit/segments.md and .svg, or the file --results; runs and the
manifest are in runs/segments, or the folder --out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
import tomllib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import _paired as paired
import numpy as np
from tqdm import tqdm

from vidrl import config, plugin
from vidrl.training import checkpoint, evaluate
from vidrl.training.launch import PARENT

ROOT = Path(__file__).resolve().parents[2]
RECIPE = "scripts/recipes/study.toml"

# The arms that are compared. The first one is compared with each of the others.

OPTION = "algorithm.options."
# options of all arms but `plain`, which shows their effect
SHARED = (f"{OPTION}equalise=true", f'{OPTION}scale="batch"')
ARMS: dict[str, tuple[str, ...]] = {
    "whole": (f"{OPTION}segments=1", f'{OPTION}credit="whole"', *SHARED),
    "segment": (f"{OPTION}segments=5", f'{OPTION}credit="segment"', f"{OPTION}alpha=1.0", *SHARED),
    # the control: five ratios for each clip, but one credit
    "split": (f"{OPTION}segments=5", f'{OPTION}credit="whole"', *SHARED),
    "gls": (f"{OPTION}segments=5", f'{OPTION}credit="gls"', f"{OPTION}alpha=1.0", *SHARED),
    "plain": (
        f"{OPTION}segments=1",
        f'{OPTION}credit="whole"',
        f"{OPTION}equalise=false",
        f'{OPTION}scale="group"',
    ),
}
LEVERS: dict[str, tuple[str, ...]] = {  # `segment` with one option changed
    "unequal": (f"{OPTION}equalise=false",),
    "unparted": (f"{OPTION}per_part=false",),
    "by-group": (f'{OPTION}scale="group"',),
    "window": (f"{OPTION}window=4",),
    "window-decay": (f"{OPTION}window=4", f'{OPTION}window_schedule="exp_decay"'),
    "tight": (f"{OPTION}clip_range=1e-4",),
    "wide": (f"{OPTION}clip_range=2.5e-3",),
}
ARMS |= {name: (*ARMS["segment"], *changed) for name, changed in LEVERS.items()}
NOTES = {
    "split": "the control, five ratios a clip and their wider clip range, but whole-clip credit",
    "unequal": "no step equaliser",
    "unparted": "no normalisation by part",
    "by-group": "each group's own std",
    "window": "noise in four steps a round, sliding (MixGRPO)",
    "window-decay": "the same, early steps more often",
    "tight": "a fifth of the clip range",
    "wide": "five times the clip range",
}
KINDS = {
    "everywhere": "assets/tiny-wan-32",
    "local": "runs/local-faults/model",
    "larger": "assets/tiny-wan",
}
TITLES = {
    "everywhere": "Faults everywhere in the clip",
    "local": "Faults local in time",
    "larger": "Faults everywhere, 64 x 64 pixels, textures and a moving camera",
}
# the model whose influence a kind reads, where the kind's own model has no influence file
MEASURED = {"local": KINDS["everywhere"]}
SWEPT, VALUES = "train.learning_rate", (1.5e-3, 3e-3, 6e-3)
SWEEP_SEEDS = (100, 101)  # two runs for each setting; each seed has another kind of clips
# a run takes about 12 CPU seconds, and 12 more for each evaluation and 11 for each round
SWEEP_ROUNDS, ROUNDS = 8, 16
SEEDS = 5
COMMON = (
    "train.eval_every=4",
    "train.eval_steps=10",
    "data.held_out_n=64",
    'guard.action="warn"',
    "train.checkpoint_every=4",
    "train.keep_checkpoints=1",
    "train.show=2",
)
FINAL_N, FINAL_STEPS = 256, 20  # held-out prompts and denoising steps of `final`
TARGET = 0.8  # the target, as a fraction of the first arm's mean final gain
# each measure must stay at or above this fraction of the base model's value, as in the demo
GUARDS = {"dynamic_degree": 0.95, "verifier": 0.965}
BESIDE = ("dynamic_degree", "verifier", "identity")
AXES = {"clips": "clips", "calls": "denoiser calls", "cpu": "CPU seconds"}


# Jobs


@dataclass(frozen=True)
class Job:
    """One run: its place in the study, and what it overrides in the recipe."""

    stage: str
    kind: str
    arm: str
    seed: int
    overrides: tuple[str, ...]
    out: Path
    value: float | None = None
    final: bool = False  # a run that is not trained, but evaluated on more held-out prompts

    @property
    def folder(self) -> Path:
        """Return the run folder, whose name has a hash of the overrides."""
        key = hashlib.sha256("\n".join(self.overrides).encode()).hexdigest()[:6]
        return self.out / self.stage / self.kind / f"{self.arm}-{key}" / f"seed-{self.seed}"

    @property
    def ended(self) -> Path:
        """Return the file with the numbers of the last evaluation."""
        return self.folder.with_name(f"{self.folder.name}.final") / "000000.npz"

    def all_overrides(self) -> list[str]:
        """Return the overrides with the run folder and the seed."""
        return [f'run="{self.folder.as_posix()}"', f"seed={self.seed}", *self.overrides]

    def command(self) -> list[str] | None:
        """Return the command that the job needs next, or None where the job is done."""
        if self.final:
            words = [
                sys.executable,
                str(Path(__file__).resolve()),
                "measure",
                *self.all_overrides(),
            ]
            return None if self.ended.exists() else words
        if checkpoint.status(self.folder) == "finished":
            return None
        return [sys.executable, "-m", "vidrl", "train", RECIPE, *self.all_overrides(), "--resume"]

    def row(self) -> dict[str, Any]:
        """Return the job's line of the manifest."""
        return {
            "stage": self.stage,
            "kind": self.kind,
            "arm": self.arm,
            "seed": self.seed,
            "value": self.value,
            "folder": self.folder.relative_to(self.out).as_posix(),
            "overrides": list(self.overrides),
        }


@dataclass(frozen=True)
class Options:
    """The settings that the command line may change."""

    out: Path
    arms: tuple[str, ...] = ("whole", "segment", "gls", "plain")
    kinds: tuple[str, ...] = ("everywhere", "local")
    seeds: int = SEEDS
    rounds: int = ROUNDS
    sweep_rounds: int = SWEEP_ROUNDS
    extra: tuple[str, ...] = ()
    jobs: int = 2


def overrides(o: Options, arm: str, kind: str, value: float, rounds: int) -> tuple[str, ...]:
    """Return everything that a run overrides; a later entry wins over an earlier one."""
    setting = (
        f"{SWEPT}={value:g}",
        f"train.rounds={rounds}",
        f'backbone.options.model="{KINDS[kind]}"',
    )
    influence = f'{OPTION}influence="{MEASURED.get(kind, KINDS[kind])}/influence.safetensors"'
    return (*COMMON, *setting, *ARMS[arm], *((influence,) if arm == "gls" else ()), *o.extra)


def sweep_jobs(o: Options) -> list[Job]:
    """Return the sweep's jobs: every arm at every learning rate, for each seed.

    The arms take turns, so that a sweep which is stopped early has equally many runs of
    each arm.
    """
    places = [(seed, o.kinds[i % len(o.kinds)]) for i, seed in enumerate(SWEEP_SEEDS)]
    return [
        Job("sweep", kind, arm, seed, overrides(o, arm, kind, value, o.sweep_rounds), o.out, value)
        for seed, kind in places
        for value in VALUES
        for arm in o.arms
    ]


def run_jobs(o: Options, chosen: Mapping[str, float]) -> list[Job]:
    """Return the final jobs, seed by seed every arm on each kind of clips.

    A study that is stopped early has equally many runs of each arm.
    """
    return [
        Job(
            "run",
            kind,
            arm,
            seed,
            overrides(o, arm, kind, chosen[arm], o.rounds),
            o.out,
            chosen[arm],
        )
        for seed in range(o.seeds)
        for kind in o.kinds
        for arm in o.arms
    ]


def final_jobs(o: Options) -> list[Job]:
    """Return the jobs that evaluate the base models and all finished runs on more prompts."""
    base = [
        Job(
            "base",
            kind,
            "base",
            0,
            (f'backbone.options.model="{KINDS[kind]}"', *o.extra),
            o.out,
            final=True,
        )
        for kind in o.kinds
    ]
    rows = [row for row in gathered(o.out, "run") if row["curve"] is not None]
    runs = [
        Job(
            "run",
            row["kind"],
            row["arm"],
            row["seed"],
            tuple(row["overrides"]),
            o.out,
            row["value"],
            final=True,
        )
        for row in rows
        if row["kind"] in o.kinds and row["arm"] in o.arms
    ]
    return base + runs


def check(jobs: Sequence[Job]) -> None:
    """Raise early what a run would raise for its recipe, its options or its model."""
    for job in {(j.kind, j.overrides): j for j in jobs}.values():
        recipe = config.load(ROOT / RECIPE, job.all_overrides())
        config.check_plugins(recipe)
        plugin.load("algorithms", recipe.algorithm.name, **recipe.algorithm.options)
        model = ROOT / str(recipe.backbone.options["model"])
        if not (model / "model_index.json").exists():
            cure = "python scripts/local_faults.py train"
            raise SystemExit(f"segments: expected a model in {model}, found none: {cure}")


def note(out: Path, jobs: Sequence[Job]) -> None:
    """Add jobs to the manifest.

    A job replaces an entry with the same stage, kind, arm, learning rate and seed.
    """
    path = out / "manifest.json"
    listed = json.loads(path.read_text()) if path.exists() else []
    keyed = {_key(row): row for row in listed} | {
        _key(row): row for row in (job.row() for job in jobs)
    }
    out.mkdir(parents=True, exist_ok=True)
    checkpoint.write_text(path, json.dumps(list(keyed.values()), indent=1))


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what identifies an entry of the manifest."""
    swept = row["value"] if row["stage"] == "sweep" else None
    return row["stage"], row["kind"], row["arm"], row["seed"], swept


# Running them


Active = dict[int, tuple[subprocess.Popen[bytes], Job, float]]
Failed = dict[tuple[str, str], tuple[Job, str]]  # (kind, arm) → the job and the reason


def work(jobs: Sequence[Job], slots: int) -> list[str]:
    """Run all jobs, `slots` at a time, and return a line for each failure.

    On Ctrl-C and SIGTERM the running jobs save their state and stop. After a failure, an
    arm is not tried again on the same kind of clips in this call.
    """
    waiting = deque(jobs)
    active: Active = {}
    failed: Failed = {}
    # SIGTERM raises KeyboardInterrupt, like Ctrl-C, so that both stop the children cleanly
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    bar = tqdm(total=len(jobs), unit="run", smoothing=0.1, file=sys.stderr)
    try:
        while waiting or active:
            while waiting and len(active) < slots:
                _start(waiting.popleft(), active, failed, bar)
            time.sleep(0.2)
            bar.set_postfix_str(
                ", ".join(_progress(job) for _, job, _ in active.values()), refresh=False
            )
            for pid in list(active):
                _collect(pid, active, failed, waiting)
    except KeyboardInterrupt:
        _stop(active)
        raise SystemExit("segments: interrupted; the same command goes on") from None
    finally:
        bar.close()
        signal.signal(signal.SIGTERM, previous)
    return [f"{job.folder}: {why}" for job, why in failed.values()]


def _start(job: Job, active: Active, failed: Failed, bar: Any) -> None:
    """Start the next command of a job, if there is one."""
    command = job.command()
    if command is None or (job.kind, job.arm) in failed:
        bar.update()
        return
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        PARENT: str(os.getpid()),
        "PYTHONPATH": _python_path(),
    }
    with open(_log(job), "ab") as log:
        child = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    active[child.pid] = (child, job, time.monotonic())


def _collect(pid: int, active: Active, failed: Failed, waiting: deque[Job]) -> None:
    """If a child process has ended, record its cost and put its job back into the queue."""
    got, status, usage = os.wait4(pid, os.WNOHANG)
    if got == 0:
        return
    child, job, start = active.pop(pid)
    child.returncode = os.waitstatus_to_exitcode(status)  # Popen would wait for it again
    if not job.final:
        _add_cost(job, usage.ru_utime + usage.ru_stime, time.monotonic() - start)
    if child.returncode or job.command() is not None:
        failed[job.kind, job.arm] = job, f"exit {child.returncode}; {_last_line(_log(job))}"
    waiting.appendleft(job)  # `_start` sees that the job is done, and counts it in the bar


def _stop(active: Active) -> None:
    """Stop all children, and record their cost."""
    for child, _, _ in active.values():
        child.terminate()
    for child, job, start in active.values():
        _, _, usage = os.wait4(child.pid, 0)
        child.returncode = 0
        _add_cost(job, usage.ru_utime + usage.ru_stime, time.monotonic() - start)


def _add_cost(job: Job, cpu: float, wall: float) -> None:
    """Add the CPU and wall seconds of a process to the cost of its run.

    The cost covers all processes that trained the run, with their start and evaluations.
    """
    path = job.folder.with_name(f"{job.folder.name}.cost.json")
    old = json.loads(path.read_text()) if path.exists() else {"cpu": 0.0, "wall": 0.0}
    checkpoint.write_text(path, json.dumps({"cpu": old["cpu"] + cpu, "wall": old["wall"] + wall}))


def _log(job: Job) -> Path:
    """Return the log file of a job."""
    return job.folder.with_name(f"{job.folder.name}.log")


def _last_line(path: Path) -> str:
    """Return the last line of a log, with the name of the log."""
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return f"{lines[-1][:300] if lines else 'nothing said'} ({path})"


def _python_path() -> str:
    """Return a PYTHONPATH that begins with this repository."""
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def _progress(job: Job) -> str:
    """Return how many rounds a job has finished, as text."""
    path = job.folder / "metrics.jsonl"
    done = path.read_text().count("\n") if path.exists() else 0
    return f"{job.kind}/{job.arm}/{job.seed}: {done}"


def measure(words: Sequence[str]) -> None:
    """Evaluate a run's weights on FINAL_N held-out prompts; without any, the base model's."""
    from vidrl.backbones.base import PromptCache
    from vidrl.training.held_out import HeldOut
    from vidrl.training.policy import Policy
    from vidrl.training.processes import Workers

    folder = Path(config.load(RECIPE, words).run)
    trained = (
        [f'policy.lora="{(folder / "lora").as_posix()}"'] if (folder / "lora").exists() else []
    )
    recipe = config.load(RECIPE, [*words, *trained])
    backbone = plugin.load("backbones", recipe.backbone.name, **recipe.backbone.options)
    p = recipe.policy
    policy = Policy(
        backbone, p.lora_rank, p.lora_alpha, p.lora_targets, p.lora, p.full, recipe.seed
    )
    prompts = config.read_prompts(recipe.data.held_out)[:FINAL_N]
    reward = evaluate.build_reward(recipe.reward)
    held_out = HeldOut(prompts, reward, Workers(), PromptCache(backbone), FINAL_STEPS)
    measures, _, _ = held_out.measure(policy, "live", 32)
    evaluate.save(folder.with_name(f"{folder.name}.final"), 0, measures)


# Reading them


@dataclass(frozen=True)
class Curve:
    """A run at its E evaluations: what it had used, and what it had gained."""

    seed: int
    rounds: int
    x: dict[str, np.ndarray]  # an axis → (E,)
    gain: np.ndarray  # (E,) held-out composite less the base model's
    held: np.ndarray  # (E,) whether no guard is broken beyond doubt
    outside: np.ndarray  # (E,) whether a mean is outside a guard's band
    beside: dict[str, np.ndarray]  # another measure of `BESIDE` → (E,) less the base model's
    reward: float  # mean reward of the training clips over all rounds


def read(folder: Path, seed: int) -> Curve | None:
    """Return a run's curve, or None if the run is not finished."""
    if checkpoint.status(folder) != "finished":
        return None
    recipe = tomllib.loads((folder / "config.toml").read_text())
    rows = [json.loads(line) for line in (folder / "evals.jsonl").read_text().splitlines()]
    trained = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    at = np.array([row["round"] for row in rows])
    numbers = [evaluate.load(folder / "evals", int(r)) for r in at]
    mean = {
        name: np.array([row["measures"][name]["mean"] for row in rows])
        for name in ("composite", *BESIDE)
    }
    low = np.array(
        [
            [_shortfall(numbers[0][name], now[name], share) for name, share in GUARDS.items()]
            for now in numbers
        ]
    )
    return Curve(
        seed,
        recipe["train"]["rounds"],
        _axes(folder, recipe, trained, at),
        mean["composite"] - mean["composite"][0],
        np.asarray((low[..., 1] <= 0).all(1)),
        np.asarray((low[..., 0] > 0).any(1)),
        {name: mean[name] - mean[name][0] for name in BESIDE},
        float(np.mean([row["reward"]["mean"] for row in trained])),
    )


def _shortfall(base: np.ndarray, now: np.ndarray, share: float) -> tuple[float, float]:
    """Return how far a measure is below share × base, as a mean and a lower bound.

    The mean is over clips; the bound is the lower end of its 95 % interval.
    """
    d = share * base - now
    d = d[np.isfinite(d)]
    return float(d.mean()), float(d.mean() - 1.96 * d.std(ddof=1) / np.sqrt(len(d)))


def _axes(
    folder: Path, recipe: Mapping[str, Any], trained: Sequence[Any], at: np.ndarray
) -> dict[str, np.ndarray]:
    """Return clips, denoiser calls and CPU seconds of training after the rounds `at`.

    A call is one clip's forward pass; a trained step of the update counts as three calls
    (forward and backward). The seconds of evaluations are left out. CPU seconds are the
    seconds of the stages, times the fraction of the wall clock during which the processes
    had a core.
    """
    clips = recipe["train"]["prompts_per_round"] * recipe["train"]["group"]
    options = recipe["algorithm"]["options"]
    steps = options["steps"]
    kept = options.get("train_steps") or options.get("window") or steps - 1
    seconds = np.cumsum([0.0] + [sum(row["seconds"].values()) for row in trained])
    path = folder.with_name(f"{folder.name}.cost.json")
    cost = json.loads(path.read_text()) if path.exists() else {"cpu": 1.0, "wall": 1.0}
    return {
        "clips": at * clips,
        "calls": at * clips * (steps + 3 * kept),
        "cpu": seconds[at] * min(1.0, cost["cpu"] / cost["wall"]),
    }


def gathered(out: Path, stage: str) -> list[dict[str, Any]]:
    """Return the manifest's rows of a stage, each with its curve, None if not finished."""
    path = out / "manifest.json"
    rows = json.loads(path.read_text()) if path.exists() else []
    return [
        row | {"curve": read(out / row["folder"], row["seed"])}
        for row in rows
        if row["stage"] == stage
    ]


# Choosing


def chosen(out: Path, arms: Sequence[str]) -> tuple[dict[str, float], list[str]]:
    """Return each arm's best learning rate in the sweep, and a table of all rates.

    The best rate has the greatest mean height of the held-out curve.
    """
    found: dict[tuple[str, float], list[float]] = {}
    for row in gathered(out, "sweep"):
        curve = row["curve"]
        if curve is not None:
            height = paired.mean_height(curve.x["clips"], curve.gain)
            found.setdefault((row["arm"], row["value"]), []).append(height)
    best: dict[str, float] = {}
    head = "| arm | " + " | ".join(f"{v:g}" for v in VALUES) + " | chosen |"
    lines = [head, "|---|" + "---|" * 4]
    for arm in arms:
        runs = {value: found.get((arm, value), []) for value in VALUES}
        complete = {value: float(np.mean(heights)) for value, heights in runs.items() if heights}
        if complete:
            best[arm] = max(complete, key=complete.__getitem__)
        cells = [f"{np.mean(runs[v]):+.3f} ({len(runs[v])})" if runs[v] else "–" for v in VALUES]
        lines.append(f"| {arm} | " + " | ".join(cells) + f" | {_chosen(best.get(arm))} |")
    return best, lines


def _chosen(value: float | None) -> str:
    """Format a learning rate; without a sweep the recipe's is used."""
    return "the recipe's" if value is None else f"{value:g}"


# Comparing

Times = tuple[np.ndarray, np.ndarray]  # (n,) each: times, and whether it got there


@dataclass(frozen=True)
class Comparison:
    """One arm against the first on one kind of clips, over the pairs of finished runs."""

    arm: str
    seeds: tuple[int, ...]
    gain: float  # mean final gain of the arm
    final: paired.Interval  # final gain of the arm less the first's
    height: paired.Interval  # mean height of the arm's curve less the first's
    reward: paired.Interval  # training reward of the arm less the first's
    reached: int  # runs of the arm that reach the target
    median: float  # of the arm's clips to the target
    ratio: dict[str, paired.Interval]  # an axis → restricted mean of the first / the arm
    pair: tuple[Times, Times]  # clips of the first and of the arm
    horizon: float  # clips up to which all runs of both arms were trained
    p: float  # of the paired test of clips to the target

    @property
    def each(self) -> np.ndarray:
        """Return the ratio of clips to the target of each pair."""
        return self.pair[0][0] / self.pair[1][0]

    @property
    def censored(self) -> np.ndarray:
        """Return the pairs in which at least one run never reached the target."""
        return ~(self.pair[0][1] & self.pair[1][1])


Runs = Mapping[str, Mapping[int, Curve]]  # an arm → a seed → its finished run


def finished(out: Path) -> dict[str, dict[str, dict[int, Curve]]]:
    """Return the curves of finished runs: kind → arm → seed → curve.

    Raises SystemExit where runs of different lengths would be compared.
    """
    rows = [row for row in gathered(out, "run") if row["curve"] is not None]
    lengths = {row["curve"].rounds for row in rows}
    if len(lengths) > 1:
        got = f"got {sorted(lengths)} rounds"
        raise SystemExit(f"segments: expected runs of one length, {got}: use another --out")
    curves: dict[str, dict[str, dict[int, Curve]]] = {}
    for row in rows:
        curves.setdefault(row["kind"], {}).setdefault(row["arm"], {})[row["seed"]] = row["curve"]
    return curves


def times(curves: Sequence[Curve], target: float, axis: str) -> tuple[np.ndarray, np.ndarray]:
    """Return when each run reaches a gain with its guards held, and whether it does."""
    found = [paired.first_crossing(c.x[axis], c.gain, target, c.held) for c in curves]
    return np.array([t for t, _ in found]), np.array([e for _, e in found], bool)


def target_of(runs: Mapping[int, Curve]) -> float:
    """Return TARGET of the mean final gain; NaN, which no run reaches, without a gain."""
    gain = float(np.mean([curve.gain[-1] for curve in runs.values()]))
    return TARGET * gain if gain > 0 else float("nan")


def compare(runs: Runs, arm: str, first: str) -> Comparison | None:
    """Compare an arm with the first one; None without a pair."""
    seeds = tuple(sorted(runs.get(first, {}).keys() & runs.get(arm, {}).keys()))
    if not seeds:
        return None
    a, b = [runs[first][s] for s in seeds], [runs[arm][s] for s in seeds]
    target = target_of(runs[first])
    at = {axis: (times(a, target, axis), times(b, target, axis)) for axis in AXES}
    ratio = {
        axis: paired.time_ratio(*pair, min(c.x[axis][-1] for c in (*a, *b)))
        for axis, pair in at.items()
    }
    whole, other = at["clips"]
    height = [
        np.array([paired.mean_height(c.x["clips"], c.gain) for c in curves]) for curves in (a, b)
    ]
    ends = [np.array([c.gain[-1] for c in curves]) for curves in (a, b)]
    reward = [np.array([c.reward for c in curves]) for curves in (a, b)]
    return Comparison(
        arm,
        seeds,
        float(ends[1].mean()),
        paired.mean_difference(*ends),
        paired.mean_difference(*height),
        paired.mean_difference(*reward),
        int(other[1].sum()),
        paired.median_time(*other),
        ratio,
        (whole, other),
        float(min(c.x["clips"][-1] for c in (*a, *b))),
        paired.paired_time_p([whole], [other]),
    )


def compared(found: Mapping[str, Runs], arms: Sequence[str]) -> dict[str, list[Comparison]]:
    """Return the comparisons of each kind, which begin with the first arm and itself."""
    made = {kind: [compare(runs, arm, arms[0]) for arm in arms] for kind, runs in found.items()}
    return {kind: [c for c in rows if c is not None] for kind, rows in made.items()}


def pooled(rows: Sequence[Comparison]) -> tuple[paired.Interval, float]:
    """Combine the comparisons of one arm over all kinds of clips.

    The result is the geometric mean of the kinds' ratios, with seeds resampled together,
    and the p value of all pairs. Raises ValueError where the kinds have different seeds.
    """
    if len({c.seeds for c in rows}) != 1:
        raise ValueError(f"expected the same seeds of every kind, got {[c.seeds for c in rows]}")
    pairs = [(c.pair, c.horizon) for c in rows]
    return paired.pooled_ratio(pairs), paired.paired_time_p(
        *zip(*(c.pair for c in rows), strict=True)
    )


# The page


def span(i: paired.Interval, form: str = "+.3f") -> str:
    """Format a value with its interval, with true minus signs."""
    return f"{i.value:{form}} [{i.low:{form}}, {i.high:{form}}]".replace("-", "−")


def speed_table(rows: Sequence[Comparison], adjusted: Mapping[str, float]) -> list[str]:
    """Return the table of samples to the target."""
    head = (
        "arm",
        "runs",
        "reached",
        "median clips",
        "clips, first / arm",
        "calls",
        "CPU seconds",
        "faster, slower, neither",
        "p",
        "p, Holm",
    )
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for i, c in enumerate(rows):
        median = f"{c.median:.0f}" if np.isfinite(c.median) else "not reached"
        ratios = [span(c.ratio[axis], ".2f") if i else "1" for axis in AXES]
        numbers = [
            ", ".join(map(str, paired.wins(*c.pair))),
            f"{c.p:.3f}",
            f"{adjusted.get(c.arm, 1.0):.3f}",
        ]
        tests = numbers if i else ["", "", ""]
        lines.append(
            f"| {c.arm} | {len(c.seeds)} | {c.reached} | {median} | "
            + " | ".join(ratios + tests)
            + " |"
        )
    return lines


def pooled_table(all_rows: Mapping[str, Sequence[Comparison]], arms: Sequence[str]) -> list[str]:
    """Return the table over all kinds of clips, for arms whose seeds are the same."""
    found = {
        arm: [c for rows in all_rows.values() for c in rows if c.arm == arm] for arm in arms[1:]
    }
    made = {
        arm: pooled(rows)
        for arm, rows in found.items()
        if rows and len({c.seeds for c in rows}) == 1
    }
    if len(all_rows) < 2 or not made:
        return []
    adjusted = paired.holm([p for _, p in made.values()])
    lines = [
        "## All kinds together",
        "",
        "The geometric mean of the kinds' ratios; Holm's over the arms.",
        "",
        "| arm | pairs | clips, first / arm | p | p, Holm |",
        "|---|---|---|---|---|",
    ]
    for (arm, (ratio, p)), q in zip(made.items(), adjusted, strict=True):
        pairs = sum(len(c.seeds) for c in found[arm])
        lines.append(f"| {arm} | {pairs} | {span(ratio, '.2f')} | {p:.4f} | {q:.4f} |")
    return [*lines, ""]


def gain_table(
    rows: Sequence[Comparison], runs: Runs, last: Mapping[str, Sequence[float]]
) -> list[str]:
    """Return the table of final gains, mean heights, and measures outside the reward."""
    head = (
        "arm",
        "final gain",
        "less the first's",
        "mean height, less the first's",
        "training reward, less the first's",
        f"gain on {FINAL_N} prompts",
        *BESIDE,
        "ends outside a guard",
        "beyond doubt",
    )
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for i, c in enumerate(rows):
        curves = [runs[c.arm][s] for s in c.seeds]
        beside = [
            f"{np.mean([curve.beside[name][-1] for curve in curves]):+.3f}" for name in BESIDE
        ]
        broken = [
            f"{sum(int(f(curve)) for curve in curves)} of {len(curves)}"
            for f in (lambda k: k.outside[-1], lambda k: not k.held[-1])
        ]
        more = f"{np.mean(last[c.arm]):+.3f}" if last.get(c.arm) else "–"
        differences = [span(c.final), span(c.height), span(c.reward)] if i else ["", "", ""]
        cells = [c.arm, f"{c.gain:+.3f}", *differences, more, *beside, *broken]
        lines.append("| " + " | ".join(cell.replace("-", "−") for cell in cells) + " |")
    return lines


def last_gains(out: Path, kind: str) -> dict[str, list[float]]:
    """Return the gains of each arm's runs on the prompts of `final`."""
    rows = json.loads((out / "manifest.json").read_text())
    base = [row for row in rows if row["stage"] == "base" and row["kind"] == kind]
    made: dict[str, list[float]] = {}
    before = _composite(out / base[-1]["folder"]) if base else None
    for row in rows:
        after = (
            _composite(out / row["folder"])
            if row["stage"] == "run" and row["kind"] == kind
            else None
        )
        if before is not None and after is not None:
            made.setdefault(row["arm"], []).append(float(np.nanmean(after - before)))
    return made


def _composite(folder: Path) -> np.ndarray | None:
    """Return the composite of a run's clips in `final`, or None without this evaluation."""
    path = folder.with_name(f"{folder.name}.final")
    return evaluate.load(path, 0)["composite"] if (path / "000000.npz").exists() else None


BROKEN = " or ".join(f"{share:g} of the base model's {name}" for name, share in GUARDS.items())
ABOUT = f"""\
A pair is one seed: the same prompts and first noises. The held-out composite is measured \
every few rounds on the same
prompts and noise for all runs; a gain is what it lies above the base model's. \
The target is {TARGET:.0%} of the first
arm's mean final gain; a run reaches it where its curve, interpolated, first does \
at an evaluation at which no guard is
broken beyond doubt (the 95 % interval over clips of a measure wholly below
{BROKEN}). Runs that never reach it are
kept, as censored at their end: medians are Kaplan-Meier's, ratios are of restricted means, \
and so nearer to 1 than the
truth where many are censored. Intervals are 95 %, of a bootstrap over pairs with expanded
percentiles; p is of log-rank scores under all sign changes of pairs, \
Holm's over all arms and kinds. A denoiser call is
a clip's forward pass; a kept step of the update counts as three. \
The training reward is the mean over all rounds. CPU
seconds are of training, evaluation left out."""


def power(pairs: int) -> str:
    """Say what so few pairs can show at best.

    This is the smallest two-sided p of a sign test, and the meaning of an interval of two
    pairs.

    >>> power(5)
    'Five pairs can give a sign test no less than p = 0.062.'
    """
    named = ("No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine")
    count = named[pairs] if pairs < len(named) else str(pairs)
    smallest = min(1.0, 2.0 ** (1 - pairs))
    least = (
        f"{count} pair{'s' * (pairs != 1)} can give a sign test no less than p = {smallest:.2g}."
    )
    if pairs > 2:
        return least
    return (
        f"{least} The interval of two pairs is their range, which holds the true value in about "
        "half of all cases."
    )


def page(o: Options, found: Mapping[str, Runs], picture: str) -> str:
    """Return the page as Markdown."""
    compare_all = compared(found, o.arms)
    tests = [(kind, c) for kind, rows in compare_all.items() for c in rows[1:]]
    corrected = dict(
        zip([(k, c.arm) for k, c in tests], paired.holm([c.p for _, c in tests]), strict=True)
    )
    title = (
        "# Whole-clip against segment credit"
        if o.arms[0] == "whole"
        else "# What else changes how segments learn"
    )
    lines = [
        title,
        "",
        "```",
        *commands(o),
        "```",
        "",
        device(),
        "",
        ABOUT,
        "",
        f"![curves and ratios]({picture})",
        "",
    ]
    for kind, rows in compare_all.items():
        if not rows:
            continue
        target = target_of(found[kind][o.arms[0]])
        lines += [
            f"## {TITLES[kind]}",
            "",
            f"Model `{KINDS[kind]}`; the target is a gain of {target:+.3f}.",
            "",
            power(min(len(c.seeds) for c in rows)),
            "",
            *speed_table(rows, {arm: q for (k, arm), q in corrected.items() if k == kind}),
            "",
            *gain_table(rows, found[kind], last_gains(o.out, kind)),
            "",
        ]
    lines += pooled_table({kind: rows for kind, rows in compare_all.items() if rows}, o.arms)
    return "\n".join([*lines, "## Arms", "", *arm_lines(o), ""])


def commands(o: Options) -> Iterator[str]:
    """Yield the commands that reproduce the page."""
    if "local" in o.kinds:
        yield "python scripts/local_faults.py train"
    swept = {row["arm"] for row in gathered(o.out, "sweep")}
    for stage in ("sweep", "run", "report") if swept else ("run", "report"):
        options_ = _without_places(sys.argv[2:])
        words = " ".join(["python benchmarks/studies/segments.py", stage, *options_])
        of_sweep = ",".join(arm for arm in o.arms if arm in swept)
        yield words.replace(",".join(o.arms), of_sweep) if stage == "sweep" else words


def _without_places(words: Sequence[str]) -> list[str]:
    """Return the words of a command line without --out and --results."""
    places = [i for i, word in enumerate(words) if word in ("--out", "--results")]
    return [word for i, word in enumerate(words) if i not in places and i - 1 not in places]


def device() -> str:
    """Return the processor's name and the versions of Python, torch and numpy."""
    import torch

    info = Path("/proc/cpuinfo")
    names = (
        [
            line.split(":")[1].strip()
            for line in info.read_text().splitlines()
            if line.startswith("model name")
        ]
        if info.exists()
        else []
    )
    name = names[0] if names else platform.processor() or platform.machine()
    return (
        f"{name}, {os.cpu_count()} cores, two runs of one thread side by side. "
        f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}."
    )


def arm_lines(o: Options) -> list[str]:
    """Return the arms' overrides, the sweep's result and how many runs are finished."""
    rows = json.loads((o.out / "manifest.json").read_text())
    used = {row["arm"]: row for row in rows if row["stage"] == "run"}
    table = ["| arm | overrides of the recipe |", "|---|---|"]
    for arm in o.arms:
        own = [word for word in used.get(arm, {}).get("overrides", ARMS[arm]) if word not in COMMON]
        shown = [word.removeprefix(OPTION) for word in own if not word.startswith("backbone.")]
        table.append(f"| {arm} | `{' '.join(shown)}` |")
    state = [
        row
        for row in rows
        if row["stage"] == "run" and row["arm"] in o.arms and row["kind"] in o.kinds
    ]
    done = sum(checkpoint.status(o.out / row["folder"]) == "finished" for row in state)
    swept = [f"The sweep: mean height of the held-out gain over {SWEPT}, runs in brackets.", ""]
    unswept = (
        f"Every arm has the recipe's {SWEPT}: [a sweep](segments_local.md) chose it for whole, "
        "segment and gls."
    )
    swept = [*swept, *chosen(o.out, o.arms)[1]] if gathered(o.out, "sweep") else [unswept]
    said = (
        f"Of all: `{RECIPE}` with `{' '.join(COMMON)}`.\n{done} of {len(state)} runs are finished."
    )
    notes = [f"`{arm}`: {NOTES[arm]}." for arm in o.arms if arm in NOTES]
    return [*table, "", *notes, *([""] if notes else []), said, "", *swept]


# The picture

INKS = ("#3b4252", "#d1495b", "#2a7f9e", "#e09f3e", "#5b8c5a", "#8f6bb3", "#b5651d", "#777f8a")
WIDE, HIGH = 250, 170  # size of a panel
GAP = 62  # between panels
LEFT, TOP = 66, 46  # upper left corner of the first panel


def picture(o: Options, found: Mapping[str, Runs]) -> str:
    """Draw the learning curves, and below them the ratios of each pair.

    There is a row of panels for each kind and a column for each axis.
    """
    parts, y = legend(o.arms), TOP
    for kind, runs in found.items():
        for k, axis in enumerate(AXES):
            parts += panel(runs, o.arms, axis, kind, LEFT + k * (WIDE + GAP), y)
        y += HIGH + GAP
    comparisons = compared(found, o.arms)
    parts += dots(comparisons, o.arms, y)
    height = y + 40 + sum(26 * max(len(rows) - 1, 0) + 14 for rows in comparisons.values()) + 40
    width = LEFT + 3 * (WIDE + GAP)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" '
        f'font-family="ui-sans-serif,system-ui,Helvetica,Arial,sans-serif" '
        f'font-size="11" fill="#1b1c1e">'
        f'<rect width="{width}" height="{height}" rx="10" fill="#ffffff"/>{"".join(parts)}</svg>\n'
    )


def text(x: float, y: float, words: str, more: str = "") -> str:
    """Return one label as SVG."""
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escape(words)}</text>'


def legend(arms: Sequence[str]) -> list[str]:
    """Return the legend with the colours of the arms."""
    parts, x = [], float(LEFT)
    for arm, ink in zip(arms, INKS, strict=False):
        parts += [
            f'<rect x="{x}" y="14" width="18" height="4" fill="{ink}"/>',
            text(x + 24, 21, arm),
        ]
        x += 44 + 7 * len(arm)
    return [*parts, text(x, 21, "mean over seeds, band: one standard error", 'fill="#62656b"')]


def panel(
    runs: Runs, arms: Sequence[str], axis: str, kind: str, left: float, top: float
) -> list[str]:
    """Return the curves of one kind over one axis."""
    lines = [
        (ink, *mean_curve(list(runs[arm].values()), axis))
        for arm, ink in zip(arms, INKS, strict=False)
        if runs.get(arm)
    ]
    right = max(x[-1] for _, x, _, _ in lines)
    low, high = min((m - e).min() for *_, m, e in lines), max((m + e).max() for *_, m, e in lines)

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            left + WIDE * x / right,
            top + HIGH * (1 - (y - low) / ((high - low) or 1)),
        )

    parts = [
        f'<rect x="{left}" y="{top}" width="{WIDE}" height="{HIGH}" fill="none" stroke="#c9ccd1"/>',
        text(left, top - 6, f"{kind}: held-out gain", 'fill="#62656b"'),
        text(left + WIDE, top + HIGH + 14, f"{AXES[axis]} {right:,.0f}", 'text-anchor="end"'),
        text(left, top + HIGH + 14, "0"),
        text(left - 6, top + 9, f"{high:.2f}", 'text-anchor="end"'),
        text(left - 6, top + HIGH, f"{low:.2f}", 'text-anchor="end"'),
    ]
    if arms[0] in runs:
        y = place(0, target_of(runs[arms[0]]))[1]
        parts.append(f'<path d="M{left},{y:.1f}h{WIDE}" stroke="#9aa0a6" stroke-dasharray="4 3"/>')
    for ink, x, mean, error in lines:
        edge = [place(a, b) for a, b in zip(x, mean + error)] + [
            place(a, b) for a, b in zip(x, mean - error)
        ][::-1]
        parts.append(f'<polygon points="{_points(edge)}" fill="{ink}" opacity=".15"/>')
        parts.append(
            f'<polyline points="{_points([place(a, b) for a, b in zip(x, mean)])}" fill="none" '
            f'stroke="{ink}" stroke-width="2"/>'
        )
    return parts


def mean_curve(curves: Sequence[Curve], axis: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean x, mean gain and its standard error at each evaluation."""
    x, y = np.stack([c.x[axis] for c in curves]), np.stack([c.gain for c in curves])
    error = y.std(0, ddof=1) / np.sqrt(len(y)) if len(y) > 1 else np.zeros(y.shape[1])
    return x.mean(0), y.mean(0), error


def _points(points: Sequence[tuple[float, float]]) -> str:
    """Format points as an SVG list of coordinates."""
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def dots(
    comparisons: Mapping[str, Sequence[Comparison]], arms: Sequence[str], top: float
) -> list[str]:
    """Draw clips to the target, first arm's over each arm's, with a dot for each pair.

    A dot is hollow if a run of the pair never reached the target; a bar shows the ratio.
    """
    shown = [(kind, c) for kind, rows in comparisons.items() for c in rows[1:]]
    distances = [
        abs(np.log2(v))
        for _, c in shown
        for v in (*c.each, *c.ratio["clips"])
        if np.isfinite(v) and v > 0
    ]
    widest = max([1.0, *distances]) * 1.05  # the axis is symmetric about a ratio of 1
    left, width = LEFT + 150, 2 * (WIDE + GAP) + WIDE - 300
    place = lambda ratio: left + width * (0.5 + float(np.log2(ratio)) / (2 * widest))  # noqa: E731
    words = (
        f"clips to the target, {arms[0]} / arm (above 1: fewer); "
        "bar: ratio of restricted means, 95 %"
    )
    parts, y = [text(LEFT, top, words, 'fill="#62656b"')], top + 24.0
    bottom = y + 26 * len(shown) + 14
    for tick in [t for t in (0.25, 0.5, 1, 1.5, 2, 4) if abs(np.log2(t)) <= widest]:
        dash = "" if tick == 1 else ' stroke-dasharray="2 4"'
        parts += [
            f'<path d="M{place(tick):.1f},{y - 12}V{bottom - 14}" stroke="#c9ccd1"{dash}/>',
            text(place(tick), bottom, f"{tick:g}×", 'text-anchor="middle" fill="#62656b"'),
        ]
    for kind, c in shown:
        ink, whole = INKS[arms.index(c.arm) % len(INKS)], c.ratio["clips"]
        parts.append(text(left - 10, y + 4, f"{kind}, {c.arm}", 'text-anchor="end"'))
        if np.isfinite(whole.low) and whole.low > 0:
            parts.append(
                f'<path d="M{place(whole.low):.1f},{y}H{place(whole.high):.1f}" stroke="{ink}" '
                f'stroke-width="3"/>'
            )
        parts.append(
            f'<path d="M{place(whole.value):.1f},{y - 7}v14" stroke="{ink}" stroke-width="3"/>'
        )
        parts += [
            f'<circle cx="{place(v):.1f}" cy="{y - 7 + 3 * (k % 5):.1f}" r="3" stroke="{ink}" '
            f'fill="{"#ffffff" if cut else ink}" fill-opacity=".7"/>'
            for k, (v, cut) in enumerate(zip(c.each, c.censored, strict=True))
        ]
        y += 26
    return parts


# The command line


def do_sweep(o: Options) -> list[str]:
    """Run the sweep, and write the chosen learning rates to chosen.json."""
    jobs = sweep_jobs(o)
    check(jobs)
    note(o.out, jobs)
    failed = work(jobs, o.jobs)
    best, lines = chosen(o.out, o.arms)
    path = o.out / "chosen.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    checkpoint.write_text(path, json.dumps(kept | best, indent=1))
    print("\n".join(lines))
    return failed


def do_run(o: Options) -> list[str]:
    """Run the final runs, at the chosen learning rates or the recipe's own."""
    path = o.out / "chosen.json"
    best = json.loads(path.read_text()) if path.exists() else {}
    missing = [arm for arm in o.arms if arm not in best]
    if missing:
        print(
            f"segments: no sweep of {', '.join(missing)}: the recipe's own {SWEPT}", file=sys.stderr
        )
    jobs = run_jobs(o, dict.fromkeys(missing, _recipe_value()) | best)
    check(jobs)
    note(o.out, jobs)
    return work(jobs, o.jobs)


def do_final(o: Options) -> list[str]:
    """Evaluate the base models and the finished runs on more prompts."""
    jobs = final_jobs(o)
    note(o.out, [job for job in jobs if job.stage == "base"])
    return work(jobs, o.jobs)


def _recipe_value() -> float:
    """Return the recipe's learning rate."""
    table: Any = tomllib.loads((ROOT / RECIPE).read_text())
    for word in SWEPT.split("."):
        table = table[word]
    return float(table)


def do_report(o: Options, results: Path) -> None:
    """Write the page and the picture from the finished runs."""
    found = finished(o.out)
    if not any(o.arms[0] in runs for runs in found.values()):
        print(f"segments: no finished run of {o.arms[0]} yet: nothing to compare", file=sys.stderr)
        return
    results.parent.mkdir(parents=True, exist_ok=True)
    results.with_suffix(".svg").write_text(picture(o, found), encoding="utf-8")
    results.write_text(page(o, found, results.with_suffix(".svg").name), encoding="utf-8")
    print(results.read_text(encoding="utf-8"))


def options() -> tuple[str, Options, Path]:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=("sweep", "run", "report", "final"))
    parser.add_argument(
        "--arms",
        default=",".join(Options.arms),
        help="arms to compare; the first one is compared with each of the others",
    )
    parser.add_argument("--kinds", default=",".join(Options.kinds))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--sweep-rounds", type=int, default=SWEEP_ROUNDS)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, of one thread each")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "runs" / "segments", help="folder of the runs"
    )
    parser.add_argument(
        "--results", type=Path, default=ROOT / "benchmarks" / "results" / "credit" / "segments.md"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override for all runs"
    )
    a = parser.parse_args()
    arms, kinds = tuple(a.arms.split(",")), tuple(a.kinds.split(","))
    strange = [name for name in arms if name not in ARMS] + [
        name for name in kinds if name not in KINDS
    ]
    if strange:
        named = f"arms out of {', '.join(ARMS)} and kinds out of {', '.join(KINDS)}"
        parser.error(f"expected {named}, got {strange[0]!r}")
    o = Options(
        a.out.resolve(), arms, kinds, a.seeds, a.rounds, a.sweep_rounds, tuple(a.set), a.jobs
    )
    return a.stage, o, a.results.resolve()


def main() -> None:
    """Run one stage; "measure" is the hidden stage that `final` starts for each run."""
    if sys.argv[1:2] == ["measure"]:  # what `final` starts
        return measure(sys.argv[2:])
    stage, o, results = options()
    os.chdir(ROOT)  # the paths of a recipe are relative to the repository
    failed = {"sweep": do_sweep, "run": do_run, "final": do_final, "report": lambda o: []}[stage](o)
    if stage != "sweep":
        do_report(o, results)
    for line in failed:
        print(f"segments: failed: {line}", file=sys.stderr)
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
