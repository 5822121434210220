"""Write the page of the study time_to_reward: tables from the ledger."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isfinite, log
from pathlib import Path
from statistics import mean, median
from typing import Any

import _time_to_reward_ledger as ledger
import _time_to_reward_times as times
from _time_to_reward_arms import ARMS, COMMON, PLAIN, RATES, RECIPE, missing
from _time_to_reward_best import NAME as BEST
from _time_to_reward_plot import picture
from _time_to_reward_run import PROMPTS, STEPS
from _time_to_reward_words import CHANGED, FAR, HELD, MEAN, MERIT, about, paragraph

from vidrl.inference.families import holm
from vidrl.inference.means import interval

Run = Mapping[str, Any]
AXES = ("steady", "cpu", "calls", "clips")
PAIRS = (  # two arms that differ in one thing
    ("segment", "control", "segment credit against five ratios with whole-clip credit"),
    ("segment", "whole", "segment GRPO against whole clip"),
    ("control", "whole", "five ratios with whole-clip credit against one ratio"),
    ("segment-unequal", "control-unequal", "segment against control, no step equaliser"),
    ("segment-unequal", "whole-unequal", "segment against whole clip, no step equaliser"),
    ("segment", "segment-unequal", "the step equaliser, with segments"),
    ("segment-window", "segment", "noise in a window of 4 steps, with segments"),
    ("nft-5", "nft-1", "segments inside NFT"),
    ("awm-5", "awm-1", "segments inside AWM"),
)
# published methods, S = 1
TUNED = ("mix", "nft-1", "nft-published", "awm-1", "dance", "branch", "tempflow")
ENOUGH = 6  # pairs, below which there is no interval


class Study:
    """The ledger of the study, with the target, the budgets and the arms that follow from it."""

    def __init__(self, runs: Sequence[Run]):
        self.runs = [run for run in runs if run["arm"] != BEST]
        self.best = next((run for run in runs if run["arm"] == BEST), None)
        self.target = ledger.target(self.runs)
        self.usual = median(look for run in self.runs for look in run["looks"].get("look", []))
        plain = ledger.plains(self.runs)
        self.budgets = {axis: mean(self.x(run, axis)[-1] for run in plain) for axis in AXES}
        self.arms = [arm for arm in ARMS if self.finals(arm)]

    def x(self, run: Run, axis: str) -> list[float]:
        """Return what a run had used of an axis at each of its looks."""
        return times.steady(run, self.usual) if axis == "steady" else times.used(run, axis)

    def finals(self, arm: str) -> dict[int, Run]:
        """Return the final runs of an arm by seed, those at the rate that the sweep chose."""
        rate = ledger.chosen(self.runs, arm)
        return {run["seed"]: run for run in ledger.of(self.runs, arm, False) if run["rate"] == rate}

    def reached(
        self,
        arm: str,
        axis: str,
        guards: Mapping[str, float] = times.GUARDS,
        level: float | None = None,
    ) -> dict[int, times.Time]:
        """Return the time of each final run of an arm to a gain, by default the target."""
        found, level = {}, self.target if level is None else level
        for seed, run in self.finals(arm).items():
            # plain ends by rounds, so that each of its runs has a budget of its own
            x = self.x(run, axis)
            limit = x[-1] if arm == PLAIN else self.budgets[axis]
            found[seed] = times.time_to(run, level, x, limit, guards)
        return found

    def ratio(
        self,
        slow: str,
        fast: str,
        axis: str,
        guards: Mapping[str, float] = times.GUARDS,
        level: float | None = None,
    ) -> times.Ratio:
        """Return the ratio of the times of two arms."""
        return times.ratio(
            self.reached(slow, axis, guards, level), self.reached(fast, axis, guards, level)
        )

    def gain(self, arm: str, share: float) -> dict[int, float]:
        """Return the gain of each final run after a fraction of the steady CPU seconds."""
        amount = share * self.budgets["steady"]
        return {
            seed: times.gain_at(run, amount, self.x(run, "steady"))
            for seed, run in self.finals(arm).items()
        }

    def over(self, arm: str) -> dict[int, float]:
        """Return the gain of each final run, averaged over the budget of steady CPU seconds."""
        amount = self.budgets["steady"]
        return {
            seed: times.mean_gain(run, amount, self.x(run, "steady"))
            for seed, run in self.finals(arm).items()
        }


# Cells


def spread(value: float, low: float, high: float, digits: int = 2) -> str:
    """Format a value with its interval, if it has one.

    >>> spread(2.0, 1.5, 2.6), spread(2.0, float("nan"), float("nan"))
    ('2.00 [1.50, 2.60]', '2.00')
    """
    if not isfinite(value):
        return "–"
    known = isfinite(low) and isfinite(high)
    return f"{value:.{digits}f}" + (f" [{low:.{digits}f}, {high:.{digits}f}]" if known else "")


def difference(a: Mapping[int, float], b: Mapping[int, float]) -> str:
    """Format the mean of b − a over the seeds that both have, with its interval."""
    found = [
        b[seed] - a[seed]
        for seed in sorted(a.keys() & b.keys())
        if isfinite(a[seed]) and isfinite(b[seed])
    ]
    if not found:
        return "–"
    over = interval(found, unit="pairs")
    return spread(over.mean, over.low, over.high)


def table(head: Sequence[str], rows: Iterator[Sequence[object]]) -> list[str]:
    """Return a Markdown table as lines."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return [*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows), ""]


def average(values: Sequence[float]) -> str:
    """Format the mean of the finite values, with its sign."""
    known = [value for value in values if isfinite(value)]
    return f"{mean(known):+.2f}" if known else "–"


# Tables


def speed_rows(study: Study, level: float) -> Iterator[Sequence[object]]:
    """Yield a row for each arm: how many runs arrived, and plain's use over the arm's."""
    for arm in study.arms:
        found = study.reached(arm, "steady", level=level)
        why = [time.why for time in found.values()]
        counts = f"{why.count('')} of {len(why)}"
        cut = ", ".join(
            f"{why.count(name)} {name}" for name in ("budget", "guard", "failed") if name in why
        )
        reached = [time.value for time in found.values() if not time.why]
        cells = [spread(*study.ratio(PLAIN, arm, axis, level=level)[:3]) for axis in AXES]
        free = spread(*study.ratio(PLAIN, arm, "steady", {}, level)[:3])
        yield (
            arm,
            f"{ledger.chosen(study.runs, arm):g}",
            counts,
            cut or "none",
            f"{median(reached):.0f}" if reached else "–",
            *cells,
            free,
        )


def verdict(study: Study, level: float) -> str:
    """Name the fastest arm to a gain, against plain and the fastest published method."""
    found = {
        arm: study.ratio(PLAIN, arm, "steady", level=level) for arm in study.arms if arm != PLAIN
    }
    enough = [arm for arm in found if found[arm].pairs >= ENOUGH]
    if not enough:
        return ""
    first = max(enough, key=lambda arm: found[arm].value)
    sentences = [
        f"Fastest of the arms with {ENOUGH} pairs or more: {first}, "
        f"{spread(*found[first][:3])} times less than plain over {found[first].pairs} pairs"
    ]
    others = [arm for arm in TUNED if arm in found and arm != first]
    if others:
        rival = max(others, key=lambda arm: found[arm].value)
        against = study.ratio(rival, first, "steady", level=level)
        sentences.append(
            f"{spread(*against[:3])} times less than {rival}, the fastest of the other published "
            f"methods that ran ({', '.join(others)}), over {against.pairs} pairs"
        )
    return paragraph(
        "; ".join(sentences)
        + ". The fastest of many arms is partly the luckiest: both ratios flatter it."
    )


def gain_rows(study: Study) -> Iterator[Sequence[object]]:
    """Yield a row for each arm: gains at equal CPU seconds, and measures at the end."""
    plain = study.gain(PLAIN, 0.25)
    for arm in study.arms:
        runs, quarter = list(study.finals(arm).values()), study.gain(arm, 0.25)
        ends = [
            mean(run["looks"][name][-1] for run in runs) - mean(run["base"][name] for run in runs)
            for name in (*times.GUARDS, "warp_error")
        ]
        against_plain = "" if arm == PLAIN else difference(plain, quarter)
        yield (
            arm,
            average(list(quarter.values())),
            against_plain,
            average(list(study.gain(arm, 1.0).values())),
            average([times.gains(run)[-1] for run in runs]),
            *(f"{end:+.3f}" for end in ends),
        )


def held_rows(study: Study) -> Iterator[Sequence[object]]:
    """Yield a row for each arm: the guarded measures at the arrival, less the base model's."""
    for arm in study.arms:
        runs = list(study.finals(arm).values())
        cells = [
            [times.at_arrival(run, study.target, name) for run in runs] for name in times.GUARDS
        ]
        known = [[value for value in cell if isfinite(value)] for cell in cells]
        if known[0]:
            over = [interval(cell, unit="seeds") for cell in known]
            yield arm, len(known[0]), *(spread(one.mean, one.low, one.high, 3) for one in over)


def pair_rows(study: Study) -> Iterator[Sequence[object]]:
    """Yield a row for each pair of arms that differ in one thing.

    A row has the ratio of their times and the difference of their gains.
    """
    shown = [
        (fast, slow, what)
        for fast, slow, what in PAIRS
        if fast in study.arms and slow in study.arms
    ]
    p = [_p(study, slow, fast) for fast, slow, _ in shown]
    known = [value for value in p if isfinite(value)]
    # Holm's correction is over the pairs of arms that have a p value
    fixed = (
        dict(zip([i for i, v in enumerate(p) if isfinite(v)], holm(known), strict=True))
        if known
        else {}
    )
    for i, (fast, slow, what) in enumerate(shown):
        found = study.ratio(slow, fast, "steady")
        corrected = f"{fixed[i]:.3f}" if i in fixed else "–"
        far = study.ratio(slow, fast, "steady", level=ledger.HIGH)
        yield (
            what,
            found.pairs,
            spread(*found[:3]),
            corrected,
            spread(*far[:3]),
            difference(study.gain(slow, 0.25), study.gain(fast, 0.25)),
            difference(study.over(slow), study.over(fast)),
        )


def _p(study: Study, slow: str, fast: str) -> float:
    """Return the p value of the null that the mean log ratio of two arms' times is 0."""
    each = times.ratios(study.reached(slow, "steady"), study.reached(fast, "steady"))
    return interval([log(value) for value in each], unit="pairs").p


def sweep_rows(study: Study) -> Iterator[Sequence[object]]:
    """Yield a row for each arm: the merit of every rate."""
    for arm in ARMS:
        found = ledger.merits(study.runs, arm)
        best = ledger.chosen(study.runs, arm)
        if found:
            cells = [f"{found[rate]:+.2f}" if rate in found else "–" for rate in RATES]
            yield arm, *cells, "unfinished" if best is None else f"{best:g}"


def best_rows(study: Study) -> Iterator[Sequence[object]]:
    """Yield a row for each n: the gain of the best of n clips, and its other measures."""
    if study.best is None:
        return
    each, clips = study.best["each"], study.best["clips"]
    parts = {
        name: [values[i : i + each] for i in range(0, len(values), each)]
        for name, values in clips.items()
    }
    usual = {name: mean(values) for name, values in clips.items()}
    for n in (2, 4, 8, 12, 16):
        gain = [times.best_of(part, n) - mean(part) for part in parts["composite"]]
        over = interval(gain, unit="prompts")
        both = {name: zip(parts["composite"], parts[name], strict=True) for name in list(parts)[1:]}
        others = {
            name: mean(times.best_of(rank, n, other) for rank, other in pairs)
            for name, pairs in both.items()
        }
        less = [f"{value - usual[name]:+.3f}" for name, value in others.items()]
        yield n, n * STEPS, spread(over.mean, over.low, over.high), *less


def arm_rows(study: Study) -> Iterator[Sequence[object]]:
    """Yield a row for each arm: its description, its options, and the commits that ran."""
    for name, arm in ARMS.items():
        runs = [run for run in study.runs if run["arm"] == name]
        commits = ", ".join(sorted({run["commit"][:7] for run in runs})) or "not run"
        words = " ".join(f"{key}={value}" for key, value in arm.options.items())
        yield (
            name,
            arm.note,
            f"`{arm.algorithm}` `{words}`",
            " ".join(arm.more) or "",
            len(runs),
            commits,
        )


# The page


def page(study: Study, name: str) -> str:
    """Return the page as Markdown."""
    seen = sorted({run["commit"][:7] for run in study.runs})
    lines = [
        "# Time to a reward",
        "",
        "```",
        "python benchmarks/studies/time_to_reward.py run",
        "python benchmarks/studies/time_to_reward.py best",
        "python benchmarks/studies/time_to_reward.py report",
        "```",
        "",
        device(),
        f"Commits: {', '.join(seen)}.",
        "",
        about(study.target, study.budgets, study.usual),
        "",
        f"![gain against CPU seconds]({name})",
        "",
    ]
    head = [
        "arm",
        "rate",
        "arrived",
        "cut by",
        "median, steady CPU s",
        "steady CPU s",
        "CPU s",
        "calls",
        "clips",
        "no guards",
    ]
    lines += [
        f"## Plain's use over the arm's, up to the target, {study.target:+.3f}",
        "",
        *table(head, speed_rows(study, study.target)),
        verdict(study, study.target),
        "",
        f"## The same up to a gain of {ledger.HIGH:+.1f}",
        "",
        paragraph(FAR),
        "",
        *table(head, speed_rows(study, ledger.HIGH)),
        verdict(study, ledger.HIGH),
        "",
    ]
    head = [
        "arm",
        "gain at ¼ budget",
        "less plain's",
        "gain at the budget",
        "gain at the last look",
    ]
    lines += [
        "## Gains at equal steady CPU seconds, "
        "and the guards at the last look less the base model's",
        "",
        "A run that has reached the target is ended early, so few have a gain at the whole budget.",
        "",
        *table([*head, *times.GUARDS, "warp_error"], gain_rows(study)),
    ]
    lines += [
        "## The guards' measures where runs arrive at the target, less the base model's",
        "",
        paragraph(HELD),
        "",
        *table(["arm", "runs", *times.GUARDS], held_rows(study)),
    ]
    far = f"to {ledger.HIGH:+.1f}"
    head = [
        "what",
        "pairs",
        "to the target, second / first",
        "p, Holm",
        far,
        "gain at ¼ budget",
        "mean gain",
    ]
    lines += ["## One thing changed", "", paragraph(MEAN), "", *table(head, pair_rows(study))]
    head = ["n", "calls a clip", "gain", "dynamic_degree", "verifier", "identity"]
    lines += [
        "## Best of n clips of the base model, by the same reward, without training",
        "",
        best_words(study),
        "",
        *table(head, best_rows(study)),
    ]
    lines += [
        "## Learning rates",
        "",
        paragraph(MERIT),
        "",
        *table(["arm", *(f"{rate:g}" for rate in RATES), "chosen"], sweep_rows(study)),
    ]
    head = ["arm", "what", "options", "more", "runs", "commits"]
    lines += [
        "## Arms",
        "",
        f"Of all: `{RECIPE}` with `{' '.join(COMMON)}`.",
        "",
        *table(head, arm_rows(study)),
        *absent(),
        "## What was changed on the way",
        "",
        paragraph(CHANGED),
        "",
    ]
    return "\n".join(lines)


def best_words(study: Study) -> str:
    """Say how many clips of each prompt the denoiser calls of training would buy."""
    counts = []
    for arm in study.arms:
        spent = [time.value for time in study.reached(arm, "calls").values() if not time.why]
        counts += [f"{arm} {median(spent) / PROMPTS / STEPS:.1f}"] if spent else []
    return paragraph(
        f"The denoiser calls that training needed up to the target ({study.target:+.2f}) would buy "
        f"so many clips for each of the {PROMPTS} held-out prompts: {', '.join(counts)}. Best of n "
        "pays again for every new clip, training does not."
    )


def absent() -> list[str]:
    """Return a sentence that lists the arms that this code cannot run."""
    lacking = [f"{name} ({why})" for name, arm in ARMS.items() if (why := missing(arm))]
    return [f"Not there: {'; '.join(lacking)}.", ""] if lacking else []


def device() -> str:
    """Return the processor's name and the versions of Python and torch."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"{name}, {os.cpu_count()} cores. {versions}."


def write(book: Path, results: Path, say: Callable[[str], None] = print) -> None:
    """Write the page, the plot and a copy of the ledger."""
    runs = ledger.read(book)
    if not ledger.of(runs, PLAIN, False):
        raise SystemExit("time_to_reward: no final run of plain yet: nothing to compare with")
    study = Study(runs)
    results.with_suffix(".svg").write_text(picture(study), encoding="utf-8")
    results.write_text(page(study, results.with_suffix(".svg").name), encoding="utf-8")
    results.with_suffix(".jsonl").write_text(book.read_text(encoding="utf-8"), encoding="utf-8")
    say(results.read_text(encoding="utf-8"))
