"""Keep the ledger of the study time_to_reward, and decide which runs come next.

The ledger is a file with one line of JSON for each finished run. A job names one run by
arm, learning rate and seed; a job whose line is in the ledger is done. A line is added when
its run ends, so that a study which is killed loses only the runs that were in progress.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from _time_to_reward_arms import FIRST_RATES, PLAIN, RATES, SWEEP_SEED, Arm
from _time_to_reward_times import Run, broken, gains, merit

# a gain above the one that plain reaches: rates are chosen by the time to this gain, and fast
# arms, which reach the target within a round or two, are compared by this time
HIGH = 1.5
# with so many final runs of plain the target comes from these runs, before from plain's sweep
LEAST_FINALS = 3
SWEEP_SHARE = 1 / 3  # a run of a sweep may use this fraction of the budget
# arms whose runs take turns, so that a study which is stopped early has equally many runs of
# each arm of a block
BLOCK = 14
# pairs that every arm of a block gets before any arm gets more; an interval needs six pairs
PHASES = (3, 5, 6)
MOST, BEST = 10, 4  # the claim's arms and the best four others get ten pairs
CLAIM = (PLAIN, "segment", "control")


class Job(NamedTuple):
    """One run, named by its arm, learning rate and seed."""

    arm: str
    rate: float
    seed: int


# The file


def read(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a ledger, without a last line that a kill cut short."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n") and line.strip()]


def add(path: Path, row: Mapping[str, Any]) -> None:
    """Add a line to a ledger, after removing a last line that a kill cut short.

    The file is locked while the line is written: two processes may add lines at the same
    time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        line = json.dumps(row, separators=(",", ":"), ensure_ascii=False) + "\n"
        file.write(line.encode())


def key(run: Run) -> Job:
    """Return the job that a line of the ledger belongs to."""
    return Job(run["arm"], run["rate"], run["seed"])


def of(runs: Sequence[Run], arm: str, sweep: bool) -> list[Run]:
    """Return the runs of an arm: those of its sweep, or its final runs."""
    return [run for run in runs if run["arm"] == arm and (run["seed"] == SWEEP_SEED) == sweep]


# Target and budget


def plains(runs: Sequence[Run]) -> list[Run]:
    """Return the final runs of plain at the rate that did best in these runs."""
    rate = chosen(runs, PLAIN)
    return [run for run in of(runs, PLAIN, False) if run["rate"] == rate]


def budget(runs: Sequence[Run]) -> float:
    """Return the CPU seconds of a run: the mean of plain's runs, or infinity."""
    whole = [
        run["looks"]["cpu"][-1]
        for run in plains(runs) or of(runs, PLAIN, True)
        if run["ended"] == "budget"
    ]
    return mean(whole) if whole else float("inf")


def target(runs: Sequence[Run]) -> float:
    """Return the target: the mean gain at the end of plain's final runs.

    Before plain has three final runs, the target is the gain of its best rate in the sweep.
    """
    finals = [gains(run)[-1] for run in plains(runs)]
    if len(finals) >= LEAST_FINALS:
        return mean(finals)
    swept = [gains(run)[-1] for run in of(runs, PLAIN, True) if broken(run) is None] or finals
    return max(swept, default=float("inf"))


# The sweep


def merits(runs: Sequence[Run], arm: str) -> dict[float, float]:
    """Return the merit of each rate of an arm's sweep, computed for the gain `HIGH`.

    The merit of a rate of plain is its gain at the end of the run.
    """
    found = {run["rate"]: run for run in of(runs, arm, True)}
    if arm == PLAIN:
        return {rate: gains(run)[-1] for rate, run in found.items()}
    return {rate: merit(run, HIGH, budget(runs)) for rate, run in found.items()}


def sweep(runs: Sequence[Run], arm: str) -> list[Job]:
    """Return the runs that an arm's sweep still needs.

    The sweep begins with three rates. One more rate is tried while the best rate lies at an
    end of those tried. Nothing is returned for an arm that has final runs: the target moves
    a little with every run of plain, and a rate that was chosen stays.
    """
    score = merits(runs, arm)
    if of(runs, arm, False):
        return []
    first = [RATES[i] for i in FIRST_RATES if RATES[i] not in score]
    if first:
        return [Job(arm, rate, SWEEP_SEED) for rate in first]
    place = RATES.index(max(score, key=score.__getitem__))
    beyond = [RATES[i] for i in (place - 1, place + 1) if 0 <= i < len(RATES)]
    return [Job(arm, rate, SWEEP_SEED) for rate in beyond if rate not in score]


def chosen(runs: Sequence[Run], arm: str) -> float | None:
    """Return the rate of an arm's final runs; None before its sweep is complete.

    The rate is the best one of the sweep. An arm that has final runs keeps their rate.
    Plain has final runs at the best two rates of its sweep, and the rate with the greater
    mean gain counts: a choice by the final runs themselves favours plain.
    """
    finals = of(runs, arm, False)
    if arm == PLAIN and finals:
        rates = {run["rate"] for run in finals}
        return max(
            sorted(rates),
            key=lambda rate: mean(gains(run)[-1] for run in finals if run["rate"] == rate),
        )
    score, taken = merits(runs, arm), [run["rate"] for run in finals]
    if not taken and sweep(runs, arm):
        return None
    used = sorted(set(taken), key=taken.count, reverse=True)
    order = [*used, *sorted(score.keys() - set(taken), key=score.__getitem__, reverse=True)]
    return next((rate for rate in order if not fallen(finals, rate)), order[0] if order else None)


def fallen(finals: Sequence[Run], rate: float) -> bool:
    """Say whether a guard failed in every final run at a rate, of three or more.

    A rate at which training collapses can look good in a sweep, which has one seed only.
    The arm then continues with the next best rate of its sweep.
    """
    own = [run for run in finals if run["rate"] == rate]
    return len(own) >= LEAST_FINALS and all(broken(run) is not None for run in own)


# What is next


def finals(runs: Sequence[Run], arm: str, pairs: range) -> list[Job]:
    """Return the final runs of an arm that are not done, for a range of seeds."""
    rate = chosen(runs, arm)
    if rate is None:
        return []
    done = {key(run) for run in runs}
    return [job for seed in pairs if (job := Job(arm, rate, seed)) not in done]


def agenda(runs: Sequence[Run], arms: Mapping[str, Arm]) -> list[Job]:
    """Return all jobs that can be named now, in order and without repetitions."""
    return list(dict.fromkeys(_named(runs, arms)))


def _named(runs: Sequence[Run], arms: Mapping[str, Arm]) -> Iterator[Job]:
    """Yield the jobs of the agenda, some of them twice.

    First come plain's sweep and its first pairs. Then each block of arms has its sweeps and
    three pairs of each arm, and then the fifth and sixth pairs. Last, plain, the arms of
    the claim about segments and the best four other arms get ten pairs.
    """
    yield from sweep(runs, PLAIN)
    yield from twice(runs)
    names = [name for name in arms if name != PLAIN]
    for start in range(0, len(names), BLOCK):
        block = names[start : start + BLOCK]
        for name in block:
            yield from sweep(runs, name)
            yield from more(runs, [name], PHASES[:1])
        yield from more(runs, [PLAIN, *block], PHASES)
    last = [
        *(name for name in CLAIM if name in arms),
        *best(runs, [name for name in names if name not in CLAIM]),
    ]
    yield from more(runs, last, (MOST,))


def twice(runs: Sequence[Run]) -> list[Job]:
    """Return plain's missing first final runs at the best two rates of its sweep."""
    score, done = merits(runs, PLAIN), {key(run) for run in runs}
    rates = sorted(score, key=score.__getitem__, reverse=True)[:2] if not sweep(runs, PLAIN) else []
    return [
        job
        for rate in rates
        for seed in range(PHASES[0])
        if (job := Job(PLAIN, rate, seed)) not in done
    ]


def more(runs: Sequence[Run], names: Sequence[str], phases: Sequence[int]) -> Iterator[Job]:
    """Yield the missing final runs of some arms, phase by phase; a phase is so many pairs."""
    for start, end in pairwise((0, *phases)):
        for name in names:
            yield from finals(runs, name, range(start, end))


def best(runs: Sequence[Run], names: Sequence[str]) -> list[str]:
    """Return the arms whose final runs have the greatest mean merit."""
    goal, whole = target(runs), budget(runs)
    found = {name: [merit(run, goal, whole) for run in of(runs, name, False)] for name in names}
    known = {name: mean(values) for name, values in found.items() if values}
    return sorted(known, key=known.__getitem__, reverse=True)[:BEST]
