"""The ledger of the study time_to_reward, one line of JSON a run, and what is to be run
next.

A job is one run; a job whose line stands in the ledger is done. Lines are added at a run's
end, so that a study which is killed loses the runs that were under way and nothing else.
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

# a gain beyond plain's, by which fast arms are compared with each other, and rates chosen
HIGH = 1.5
LEAST_FINALS = 3  # final runs of plain from which the target is theirs and no longer of its sweep
SWEEP_SHARE = 1 / 3  # of the budget, for the runs of a sweep
BLOCK = 14  # arms that are swept and run side by side, so that a study cut short is even
# pairs that every arm of a block gets before any gets more; six are the fewest with an
# interval
PHASES = (3, 5, 6)
MOST, BEST = 10, 4  # pairs of the claim's arms and of the best four others
CLAIM = (PLAIN, "segment", "control")


class Job(NamedTuple):
    """One run."""

    arm: str
    rate: float
    seed: int


# The file


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a ledger; the last one is left out where a kill cut it short."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n") and line.strip()]


def add(path: Path, row: Mapping[str, Any]) -> None:
    """Add a line, after taking away one that a kill cut short; two processes may add at
    once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        line = json.dumps(row, separators=(",", ":"), ensure_ascii=False) + "\n"
        file.write(line.encode())


def key(run: Run) -> Job:
    """Which job a line is of."""
    return Job(run["arm"], run["rate"], run["seed"])


def of(runs: Sequence[Run], arm: str, sweep: bool) -> list[Run]:
    """The runs of an arm's sweep, or its final ones."""
    return [run for run in runs if run["arm"] == arm and (run["seed"] == SWEEP_SEED) == sweep]


# Target and budget


def plains(runs: Sequence[Run]) -> list[Run]:
    """The final runs of plain, at the one of its rates that did best in them."""
    rate = chosen(runs, PLAIN)
    return [run for run in of(runs, PLAIN, False) if run["rate"] == rate]


def budget(runs: Sequence[Run]) -> float:
    """CPU seconds that every arm has: the mean of plain's runs; infinite before its first
    one."""
    whole = [
        run["looks"]["cpu"][-1]
        for run in plains(runs) or of(runs, PLAIN, True)
        if run["ended"] == "budget"
    ]
    return mean(whole) if whole else float("inf")


def target(runs: Sequence[Run]) -> float:
    """The mean gain of plain's final runs at their end; of its best rate in the sweep
    before there are three."""
    finals = [gains(run)[-1] for run in plains(runs)]
    if len(finals) >= LEAST_FINALS:
        return mean(finals)
    swept = [gains(run)[-1] for run in of(runs, PLAIN, True) if broken(run) is None] or finals
    return max(swept, default=float("inf"))


# The sweep


def merits(runs: Sequence[Run], arm: str) -> dict[float, float]:
    """Of each rate of an arm's sweep, the merit with respect to the gain `HIGH`; of plain
    its gain at its end."""
    found = {run["rate"]: run for run in of(runs, arm, True)}
    if arm == PLAIN:
        return {rate: gains(run)[-1] for rate, run in found.items()}
    return {rate: merit(run, HIGH, budget(runs)) for rate, run in found.items()}


def sweep(runs: Sequence[Run], arm: str) -> list[Job]:
    """What an arm's sweep still needs: three rates, and one more while the best lies at an
    end.

    Nothing once it has final runs: the target moves a little with every run of plain, and a
    rate that was chosen stays.
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
    """The best rate of a sweep that is complete, or that of the final runs that there are;
    None before.

    Plain has final runs at the best two rates of its sweep, and the one with the greater
    mean gain counts: what is chosen by the final runs themselves flatters plain.
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
    """Whether a guard failed in every final run at a rate, of three or more.

    The sweep's one seed can make a rate look good at which training collapses. The arm then
    goes on with the next best rate of its sweep.
    """
    own = [run for run in finals if run["rate"] == rate]
    return len(own) >= LEAST_FINALS and all(broken(run) is not None for run in own)


# What is next


def finals(runs: Sequence[Run], arm: str, pairs: range) -> list[Job]:
    """The final runs of an arm that are not done."""
    rate = chosen(runs, arm)
    if rate is None:
        return []
    done = {key(run) for run in runs}
    return [job for seed in pairs if (job := Job(arm, rate, seed)) not in done]


def agenda(runs: Sequence[Run], arms: Mapping[str, Arm]) -> list[Job]:
    """All jobs that can be named now, in order, each once."""
    return list(dict.fromkeys(_named(runs, arms)))


def _named(runs: Sequence[Run], arms: Mapping[str, Arm]) -> Iterator[Job]:
    """The jobs of the agenda, some of them twice.

    Plain's sweep and first pairs; then block by block of the arms the sweep and three pairs
    of each, then five and six pairs of each; then ten pairs of plain, of the segment
    claim's arms and of the best four others.
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
    """Plain's first final runs at each of the best two rates of its sweep, once that is
    complete."""
    score, done = merits(runs, PLAIN), {key(run) for run in runs}
    rates = sorted(score, key=score.__getitem__, reverse=True)[:2] if not sweep(runs, PLAIN) else []
    return [
        job
        for rate in rates
        for seed in range(PHASES[0])
        if (job := Job(PLAIN, rate, seed)) not in done
    ]


def more(runs: Sequence[Run], names: Sequence[str], phases: Sequence[int]) -> Iterator[Job]:
    """Final runs of some arms in phases of so many pairs."""
    for start, end in pairwise((0, *phases)):
        for name in names:
            yield from finals(runs, name, range(start, end))


def best(runs: Sequence[Run], names: Sequence[str]) -> list[str]:
    """The arms whose final runs have the greatest mean merit."""
    goal, whole = target(runs), budget(runs)
    found = {name: [merit(run, goal, whole) for run in of(runs, name, False)] for name in names}
    known = {name: mean(values) for name, values in found.items() if values}
    return sorted(known, key=known.__getitem__, reverse=True)[:BEST]
