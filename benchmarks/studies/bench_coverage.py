"""How often do the intervals of `vidrl bench` hold the truth? Simulated clips, nested in prompts, whose mean is known.

    python benchmarks/studies/bench_coverage.py --out benchmarks/results/bench_coverage.md

A clip's value is a function of z = √ρ a + √(1 − ρ) b, with a normal for each prompt, b normal for each clip, ρ = 0.3.
"""

from __future__ import annotations

import argparse
import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vidrl.inference.clusters import clusters
from vidrl.inference.means import interval
from vidrl.inference.resampling import DRAWS, bounds
from vidrl.inference.student import t_quantile

Array = np.ndarray
Ends = tuple[Array, Array]  # low and high, (runs,) each
SHARED = 0.3  # ρ, the share of the variance of z that lies between prompts

KINDS: dict[str, Callable[[Array], Array]] = {
    "normal": lambda z: z,
    "skewed": lambda z: np.exp(0.5 * z),  # lognormal, skewness 1.75, as errors of warping are
    "bounded": lambda z: 1 / (1 + np.exp(-2 - 1.5 * z)),  # in (0, 1), most of it above 0.8
    "piled up": lambda z: np.minimum(1, 0.9 + 0.1 * z),  # one value in six is 1
    "very skewed": lambda z: np.exp(z),  # lognormal, skewness 6.2
}
USUAL = tuple(KINDS)[:4]
SIZES: tuple[tuple[int, ...], ...] = (
    (4,) * 3, (4,) * 5, (4,) * 10, tuple(range(1, 11)), (1,) * 20, (4,) * 20, (1,) * 100,
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """`runs` samples: values (runs, n), the prompts of their clips (n,), the true mean."""

    kind: str
    sizes: tuple[int, ...]
    values: Array
    prompts: Array
    truth: float

    @property
    def size(self) -> str:
        """Prompts × clips."""
        few, many = min(self.sizes), max(self.sizes)
        return f"{len(self.sizes)} × {few}" if few == many else f"{len(self.sizes)} × {few} to {many}"


def case(kind: str, sizes: Sequence[int], runs: int, seed: int = 0) -> Case:
    """Samples of a kind with so many clips of each prompt."""
    draw, prompts = np.random.default_rng(seed), np.repeat(np.arange(len(sizes)), sizes)
    between, inside = draw.standard_normal((runs, len(sizes))), draw.standard_normal((runs, len(prompts)))
    z = math.sqrt(SHARED) * between[:, prompts] + math.sqrt(1 - SHARED) * inside
    return Case(kind, tuple(sizes), KINDS[kind](z), prompts, true_mean(kind))


def true_mean(kind: str) -> float:
    """The mean over a standard normal z, by the trapezoid rule."""
    z = np.linspace(-10, 10, 200_001)
    weights = np.exp(-z * z / 2)
    return float((KINDS[kind](z) * weights).sum() / weights.sum())


# Intervals


def ours(sample: Case) -> Ends:
    """`vidrl.inference.means.interval`."""
    groups = sample.prompts.tolist()
    found = [interval(values, groups) for values in sample.values]
    return np.array([one.low for one in found]), np.array([one.high for one in found])


def student(sample: Case) -> Ends:
    """Student's t of prompts' means, by the variance of `Clusters`."""
    made = [clusters(values, sample.prompts.tolist()) for values in sample.values]
    mean, error = np.array([one.mean for one in made]), np.sqrt([one.variance for one in made])
    reach = t_quantile(len(sample.sizes) - 1) * error
    return mean - reach, mean + reach


def clips_alone(sample: Case, draws: int = 1000) -> Ends:
    """Percentiles of a bootstrap over clips, as if they were independent: what most tables print."""
    n = len(sample.prompts)
    return _percentiles(np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), draws) / n, sample)


def two_stages(sample: Case, draws: int = 1000) -> Ends:
    """Percentiles of a bootstrap that draws prompts, and then clips of each anew."""
    return _percentiles(np.stack(list(_drawn_twice(sample, draws))), sample)


def _drawn_twice(sample: Case, draws: int) -> Iterator[Array]:
    rng, G = np.random.default_rng(0), len(sample.sizes)
    members = [np.flatnonzero(sample.prompts == g) for g in range(G)]
    for _ in range(draws):
        chosen = np.concatenate([rng.choice(members[g], len(members[g])) for g in rng.integers(0, G, G)])
        yield np.bincount(chosen, minlength=len(sample.prompts)) / len(chosen)


def _percentiles(weights: Array, sample: Case) -> Ends:
    low, high = np.quantile(weights @ sample.values.T, [0.025, 0.975], axis=0)
    return low, high


METHODS: dict[str, Callable[[Case], Ends]] = {
    "vidrl bench": ours, "Student, prompts": student, "percentiles, prompts then clips": two_stages,
    "percentiles, clips": clips_alone,
}  # fmt: skip


# What comes of them


def held(ends: Ends, truth: float) -> tuple[float, float, float]:
    """Shares of the intervals that hold the truth, lie below it, and above it."""
    below, above = float((ends[1] < truth).mean()), float((ends[0] > truth).mean())
    return 1 - below - above, below, above


def unpaired(kind: str, sizes: Sequence[int], others: Sequence[int], spread: float, runs: int) -> float:
    """How often the interval of two unpaired sets' difference holds 0; the second is `spread` times wider."""
    first, second = case(kind, sizes, runs), case(kind, others, runs, seed=1)
    hits = 0
    for a, b in zip(first.values - first.truth, spread * (second.values - second.truth), strict=True):
        sides = [clusters(a, first.prompts.tolist()), clusters(b, second.prompts.tolist())]
        low, high = bounds(sides[1].mean - sides[0].mean, sum(side.variance for side in sides), sides, 0.95, DRAWS, 0)
        hits += low <= 0 <= high
    return hits / runs


def table(runs: int) -> str:
    """One row a kind and size."""
    lines = ["| values | prompts × clips | " + " | ".join(METHODS) + " | ours below, above the truth |",
             "|---|---" + "|---" * len(METHODS) + "|---|"]
    for kind in KINDS:
        for sizes in SIZES:
            sample = case(kind, sizes, runs)
            shares = [held(method(sample), sample.truth) for method in METHODS.values()]
            numbers = " | ".join(f"{100 * share:.1f}" for share, _, _ in shares)
            lines.append(f"| {kind} | {sample.size} | {numbers} | {100 * shares[0][1]:.1f}, {100 * shares[0][2]:.1f} |")
    return "\n".join(lines)


def differences(runs: int) -> str:
    """One row a kind: unpaired sets of unlike sizes and spreads."""
    lines = ["| values | prompts × clips | 0 is held |", "|---|---|---|"]
    for kind in USUAL:
        share = unpaired(kind, (1,) * 20, (2,) * 30, 2.0, runs)
        lines.append(f"| {kind} | 20 × 1 against 30 × 2, twice as wide | {100 * share:.1f} |")
    return "\n".join(lines)


def report(runs: int) -> str:
    """The whole page."""
    start = time.process_time()
    means, gaps = table(runs), differences(runs)
    seconds, error = time.process_time() - start, 100 * math.sqrt(0.95 * 0.05 / runs)
    return f"""# How often the intervals of `vidrl bench` hold the truth

```
python benchmarks/studies/bench_coverage.py --out benchmarks/results/bench_coverage.md
```

Percent of 95 % intervals that hold the true mean, over {runs} simulated sets a row (standard error {error:.1f}). 30 %
of the variance lies between prompts. `vidrl bench` draws prompts, each with its clips, and takes percentiles of
Student's ratio; below 8 prompts, and where many draws have no spread, it is Student's interval. Few prompts of skewed
values hold less than they should, with whatever method: a set cannot know of what it has not seen. So do very skewed
values (skewness 6.2) up to a hundred prompts.

{means}

"Prompts then clips" counts the spread of the clips of a prompt twice, and "clips" takes clips of one prompt for
independent: each is right only by accident.

Unpaired sets: the interval of a difference that is 0.

{gaps}

{seconds:.0f} CPU seconds, {platform.machine()}, numpy {np.__version__}.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, help="file to write; standard output without")
    parser.add_argument("--runs", type=int, default=2000, help="simulated sets a row (2000)")
    asked = parser.parse_args(arguments)
    text = report(asked.runs)
    asked.out.write_text(text) if asked.out else print(text)


if __name__ == "__main__":
    main()
