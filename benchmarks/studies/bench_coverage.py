r"""How often do the intervals of `vidrl bench` contain the truth, and its tests err?

    python benchmarks/studies/bench_coverage.py --keep coverage.json \\
        --out benchmarks/results/bench/bench_coverage.md

Design: clips nested in prompts are simulated, so that their true mean is known. A clip's
value is a function of z = √ρ a + √(1 − ρ) b, with a normal for each prompt, b normal for
each clip, ρ = 0.3. The share of 95 % intervals that contain the true mean should be 95 %.
The tests of equal models are in `_nulls.py`.

Output: the page --out. `--keep` names a file of finished rows, from which a run that was
stopped continues.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import _nulls as nulls
import numpy as np

from vidrl.inference.clusters import clusters
from vidrl.inference.means import difference, interval
from vidrl.inference.student import t_quantile

Array = np.ndarray
Ends = tuple[Array, Array]  # low and high, (runs,) each
SHARED = 0.3  # ρ, the fraction of the variance of z that lies between prompts

KINDS: dict[str, Callable[[Array], Array]] = {
    "normal": lambda z: z,
    "skewed": lambda z: np.exp(0.5 * z),  # lognormal, skewness 1.75, as errors of warping are
    "bounded": lambda z: 1 / (1 + np.exp(-2 - 1.5 * z)),  # in (0, 1), most of it above 0.8
    "piled up": lambda z: np.minimum(1, 0.9 + 0.1 * z),  # one value in six is 1
    "very skewed": lambda z: np.exp(z),  # lognormal, skewness 6.2
}
USUAL = tuple(KINDS)[:4]
SIZES: tuple[tuple[int, ...], ...] = (
    (4,) * 6,
    (1,) * 8,
    (4,) * 10,
    tuple(range(1, 11)),
    (1,) * 20,
    (4,) * 20,
    (1,) * 100,
)


@dataclass(frozen=True)
class Case:
    """Simulated samples: values (runs, n), the clips' prompts (n,), and the true mean."""

    kind: str
    sizes: tuple[int, ...]
    values: Array
    prompts: Array
    truth: float

    @property
    def size(self) -> str:
        """Return the size as text: prompts × clips."""
        few, many = min(self.sizes), max(self.sizes)
        return (
            f"{len(self.sizes)} × {few}" if few == many else f"{len(self.sizes)} × {few} to {many}"
        )


def case(kind: str, sizes: Sequence[int], runs: int, seed: int = 0) -> Case:
    """Draw samples of a kind of values, with a number of clips for each prompt."""
    draw, prompts = np.random.default_rng(seed), np.repeat(np.arange(len(sizes)), sizes)
    between = draw.standard_normal((runs, len(sizes)))
    inside = draw.standard_normal((runs, len(prompts)))
    z = math.sqrt(SHARED) * between[:, prompts] + math.sqrt(1 - SHARED) * inside
    return Case(kind, tuple(sizes), KINDS[kind](z), prompts, true_mean(kind))


def true_mean(kind: str) -> float:
    """Return the mean of a kind of values over a standard normal z, by the trapezoid rule."""
    z = np.linspace(-10, 10, 200_001)
    weights = np.exp(-z * z / 2)
    return float((KINDS[kind](z) * weights).sum() / weights.sum())


# Intervals


def ours(sample: Case) -> Ends:
    """Return the intervals of `vidrl.inference.means.interval`."""
    groups = sample.prompts.tolist()
    found = [interval(values, groups) for values in sample.values]
    return np.array([one.low for one in found]), np.array([one.high for one in found])


def student(sample: Case) -> Ends:
    """Return Student's t intervals of the prompts' means, by the variance of `Clusters`."""
    samples = [clusters(values, sample.prompts.tolist()) for values in sample.values]
    mean = np.array([one.mean for one in samples])
    error = np.sqrt([one.variance for one in samples])
    half_width = t_quantile(len(sample.sizes) - 1) * error
    return mean - half_width, mean + half_width


def clips_alone(sample: Case, draws: int = 1000) -> Ends:
    """Return percentile intervals of a bootstrap over clips, as if clips were independent.

    Most published tables print these intervals.
    """
    n = len(sample.prompts)
    return _percentiles(
        np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), draws) / n, sample
    )


def two_stages(sample: Case, draws: int = 1000) -> Ends:
    """Return percentile intervals of a bootstrap over prompts, then over clips."""
    return _percentiles(np.stack(list(_drawn_twice(sample, draws))), sample)


def _drawn_twice(sample: Case, draws: int) -> Iterator[Array]:
    """Yield the weights of the clips in each draw of `two_stages`."""
    rng, G = np.random.default_rng(0), len(sample.sizes)
    members = [np.flatnonzero(sample.prompts == g) for g in range(G)]
    for _ in range(draws):
        chosen = np.concatenate(
            [rng.choice(members[g], len(members[g])) for g in rng.integers(0, G, G)]
        )
        yield np.bincount(chosen, minlength=len(sample.prompts)) / len(chosen)


def _percentiles(weights: Array, sample: Case) -> Ends:
    low, high = np.quantile(weights @ sample.values.T, [0.025, 0.975], axis=0)
    return low, high


METHODS: dict[str, Callable[[Case], Ends]] = {
    "vidrl bench": ours,
    "Student, prompts": student,
    "percentiles, prompts then clips": two_stages,
    "percentiles, clips": clips_alone,
}


# Coverage of the intervals


def held(ends: Ends, truth: float) -> tuple[float, float, float]:
    """Return the fractions of intervals that contain, lie below and lie above the truth."""
    below, above = float((ends[1] < truth).mean()), float((ends[0] > truth).mean())
    return 1 - below - above, below, above


def unpaired(
    kind: str, sizes: Sequence[int], others: Sequence[int], spread: float, runs: int
) -> float:
    """Return how often the interval of the difference of two unpaired sets contains 0.

    The second set is `spread` times wider.
    """
    first, second = case(kind, sizes, runs), case(kind, others, runs, seed=1)
    hits = 0
    for a, b in zip(
        first.values - first.truth, spread * (second.values - second.truth), strict=True
    ):
        found = difference(
            clusters(a, first.prompts.tolist()), clusters(b, second.prompts.tolist())
        )
        hits += found.low <= 0 <= found.high
    return hits / runs


def mean_row(kind: str, sizes: Sequence[int], runs: int) -> str:
    """Format the table row of one kind and size: the coverage of all methods."""
    sample = case(kind, sizes, runs)
    shares = [held(method(sample), sample.truth) for method in METHODS.values()]
    numbers = " | ".join(f"{100 * share:.1f}" for share, _, _ in shares)
    below, above = (100 * share for share in shares[0][1:])
    return f"| {kind} | {sample.size} | {numbers} | {below:.1f}, {above:.1f} |"


def unpaired_row(kind: str, runs: int) -> str:
    """Format the table row of unpaired sets that differ in size and in spread."""
    share = unpaired(kind, (1,) * 20, (2,) * 30, 2.0, runs)
    return f"| {kind} | 20 × 1 against 30 × 2, twice as wide | {100 * share:.1f} |"


# Values piled up


def rate(share: float) -> Callable[[np.random.Generator, int, int], Array]:
    """Return a function that draws ones with this probability, else zeros."""
    return lambda rng, runs, n: (rng.random((runs, n)) < share).astype(float)


def _nearly_all(rng: np.random.Generator, runs: int, n: int) -> Array:
    return np.where(rng.random((runs, n)) < 0.97, 1.0, rng.random((runs, n)))


def _three(rng: np.random.Generator, runs: int, n: int) -> Array:
    return rng.choice([0.0, 0.5, 1.0], (runs, n), p=[0.05, 0.15, 0.8])


def _penalty(rng: np.random.Generator, runs: int, n: int) -> Array:
    return np.where(rng.random((runs, n)) < 0.9, 0.0, -rng.exponential(size=(runs, n)))


def _rare_gap(rng: np.random.Generator, runs: int, n: int) -> Array:
    """Draw differences of ones and zeros of two equal models, which nearly always agree."""
    return rng.choice([-1.0, 0.0, 1.0], (runs, n), p=[0.02, 0.96, 0.02])


OPEN = (-math.inf, 0.0)
PILES: dict[
    str, tuple[Callable[[np.random.Generator, int, int], Array], tuple[float, float], float]
] = {
    "rate 0.05": (rate(0.05), (0, 1), 0.05),
    "rate 0.5": (rate(0.5), (0, 1), 0.5),
    "rate 0.9": (rate(0.9), (0, 1), 0.9),
    "rate 0.95": (rate(0.95), (0, 1), 0.95),
    "rate 0.98": (rate(0.98), (0, 1), 0.98),
    "97 % are 1, the rest uniform": (_nearly_all, (0, 1), 0.985),
    "0, 1/2 or 1": (_three, (0, 1), 0.875),
    "differences: 96 % are 0, else ±1": (_rare_gap, (-1, 1), 0.0),
    "penalty without a lower limit: 90 % are 0": (_penalty, OPEN, -0.1),
}
PILE_SIZES = (8, 20, 50, 100, 200)


def pile_row(kind: str, n: int, runs: int, clips: int = 1) -> str:
    """Format the table row of one kind of piled values: the coverage.

    The sample has `n` prompts, each with `clips` equal clips.
    """
    draw, limits, truth = PILES[kind]
    values = np.repeat(draw(np.random.default_rng(n), runs, n), clips, 1)
    groups = np.repeat(np.arange(n), clips).tolist()
    found = [interval(row, groups, draws=2000, limits=limits) for row in values]
    low, high = (np.array([getattr(one, side) for one in found]) for side in ("low", "high"))
    share, below, above = held((low, high), truth)
    opened = float(np.isinf(high - low).mean())
    sides = f"{100 * below:.1f}, {100 * above:.1f}"
    return f"| {kind} | {n} × {clips} | {100 * share:.1f} | {sides} | {100 * opened:.0f} |"


# The page


class Kept:
    """Table rows that are computed already, kept in a file if one is named."""

    def __init__(self, path: Path | None):
        self.path = path
        self.rows: dict[str, str] = json.loads(path.read_text()) if path and path.is_file() else {}

    def row(self, make: Callable[..., str], *of: object) -> str:
        """Return the row that `make` computes, from the file if the row is there."""
        key = f"{make.__name__} {of}"
        if key not in self.rows:
            self.rows[key] = make(*of)
            if self.path:
                self.path.write_text(json.dumps(self.rows, ensure_ascii=False))
        return self.rows[key]


def _table(head: str, rows: Sequence[str]) -> str:
    return "\n".join([head, "|---" * (head.count("|") - 1) + "|", *rows])


def report(runs: int, kept: Kept) -> str:
    """Return the page as Markdown."""
    start = time.process_time()
    means = _table(
        "| values | prompts × clips | " + " | ".join(METHODS) + " | ours below, above the truth |",
        [kept.row(mean_row, kind, sizes, runs) for kind in KINDS for sizes in SIZES],
    )
    gaps = _table(
        "| values | prompts × clips | 0 is held |",
        [kept.row(unpaired_row, kind, runs) for kind in USUAL],
    )
    piles = _table(
        "| values | prompts × clips | held | below, above the truth | open on a side |",
        [kept.row(pile_row, kind, n, runs) for kind in PILES for n in PILE_SIZES]
        + [kept.row(pile_row, "rate 0.95", 20, runs, 4)],
    )
    tests = _table(
        "| differences | prompts × clips | p < 0.05 | down, up | 95 % interval leaves out 0 |",
        [
            kept.row(nulls.paired_row, kind, sizes, runs)
            for kind in nulls.KINDS
            for sizes in nulls.SIZES
        ],
    )
    apart = _table(
        "| sets | prompts | p < 0.05 | down, up | 95 % interval leaves out 0 |",
        [kept.row(nulls.unpaired_row, name, runs) for name in nulls.UNPAIRED],
    )
    families = _table(
        "| differences | prompts | dims | any corrected p < 0.05 "
        "| all simultaneous intervals hold 0 |",
        [kept.row(nulls.family_row, kind, n, m, runs) for kind, n, m in nulls.FAMILIES],
    )
    seen = _table(
        "| prompts | dims | least detectable difference, in std | found, % |",
        [kept.row(nulls.power_row, n, m, runs) for n in (10, 20, 50, 100) for m in (1, 12)],
    )
    seconds = time.process_time() - start
    return PAGE.format(
        runs=runs,
        error=100 * math.sqrt(0.95 * 0.05 / runs),
        means=means,
        gaps=gaps,
        piles=piles,
        tests=tests,
        apart=apart,
        families=families,
        seen=seen,
        seconds=seconds,
        machine=platform.machine(),
        numpy=np.__version__,
    )


PAGE = """# How often the intervals of `vidrl bench` hold the truth, and how often its tests err

```
python benchmarks/studies/bench_coverage.py --out benchmarks/results/bench/bench_coverage.md
```

Percent over {runs} simulated sets a row (standard error {error:.1f} at 95 %). 30 % of \
the variance lies between
prompts. `vidrl.inference.means` has the rule by which intervals and p values are made.

## Means

Percent of 95 % intervals that hold the true mean. Below 6 prompts there is no interval. \
Very skewed values (skewness
6.2) are held less often than they should: a set cannot know of what it has not seen.

{means}

"Prompts then clips" counts the spread of the clips of a prompt twice, and "clips" takes \
clips of one prompt for
independent: each is right only by accident.

Unpaired sets: the interval of a difference that is 0.

{gaps}

## Values piled up

Where nearly all values are equal the limits of the range decide. Of zeros and ones the \
intervals are exact, which
means that they hold the truth more often than 95 %: no exact interval of few zeros and \
ones holds just 95 %. Without a
limit on a side the interval is open on that side, and no page prints it.

{piles}

## Tests of equal models

The null: the mean of the differences over prompts is 0. p is asked to be below 0.05 in \
at most 5 %, and in at most
2.5 % in each direction. "Skewed" differences are a lognormal of σ = 0.5 (skewness 1.75), \
"strongly skewed" of σ = 0.8
(skewness 3.7), less their mean; "mixed" are shifted by one in a fifth of the prompts; \
"rare" differ by 1 in 5 % of the
prompts, where a difference is known to lie within ±1; "rare, open" the same where no \
limit is known.

{tests}

Skewed differences err in one direction, that of the many small ones: few prompts may \
hold none of the rare large
ones. Up to skewness 1.75 that is 2.1 % at most; strongly skewed ones reach 3.1 %, where \
2.5 % is asked. No test of few
prompts can know of a failure that is not among them; of one that is, \
`vidrl.inference.means.dominant_group_notes` makes a note.

Unpaired:

{apart}

## Families of dims

Dims of one set are correlated (0.5). p is corrected by Holm's steps; the simultaneous \
intervals are those of
`vidrl.inference.families.simultaneous_level`. Half as many simulated sets a row (standard \
error 0.7). A correction for twelve
dims asks for the far tail of a distribution, of which twenty prompts know little; \
`vidrl.inference.confidence.inflated_p`
makes small p larger for that. So families err in at most 5 % where the skewness of \
differences is below 2; strongly
skewed ones do on 20 prompts of four dims and on 100 prompts, but not on 20 prompts of \
twelve. The simultaneous
intervals have no such caution: of skewed differences they hold 0 less often than they should.

{families}

## Least detectable difference

`vidrl.inference.power.least_detectable` promises 80 %. Normal differences.

{seen}

{seconds:.0f} CPU seconds of this run (kept rows cost none), {machine}, numpy {numpy}.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, help="file to write; standard output without")
    parser.add_argument(
        "--keep", type=Path, help="file of finished rows, from which a broken run goes on"
    )
    parser.add_argument("--runs", type=int, default=2000, help="simulated sets a row (2000)")
    asked = parser.parse_args(arguments)
    text = report(asked.runs, Kept(asked.keep))
    asked.out.write_text(text) if asked.out else print(text)


if __name__ == "__main__":
    main()
