"""How often does the bench call equal models different, if clips lack or sets are many?

    python benchmarks/studies/bench_missing.py --out benchmarks/results/bench/bench_missing.md

Design: two simulated models are equal; a clip's value is its prompt's quality plus noise.
In the first table the worst clips of one model are unscored. In the second table several
equal models are compared on several dims, and a page is wrong where it claims any
difference.

Output: a page with both tables, in the file --out or on standard output.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vidrl.bench.compare import compare, compare_all
from vidrl.bench.verdicts import verdict

PROMPTS = 100
Values = Sequence[Sequence[float | None]]


def clips(name: str, values: Values) -> dict[str, object]:
    """Return a set of results.json, with one clip of each prompt."""
    rows = [
        {
            "path": f"{name}/{i}.mp4",
            "prompt": f"p{i}",
            "seed": 0,
            "why": {},
            "value": {f"d{k}": value for k, value in enumerate(row)},
        }
        for i, row in enumerate(values)
    ]
    return {"name": name, "clips": rows}


def lost(seed: int, share: float) -> tuple[dict[str, object], dict[str, object]]:
    """Simulate two equal models, the second with its worst clips unscored.

    `share` is the fraction of its clips that have no number.
    """
    rng = np.random.default_rng(seed)
    quality = rng.normal(size=PROMPTS)
    a, b = (quality + 0.7 * rng.normal(size=PROMPTS) for _ in range(2))
    least = np.quantile(b, share)
    return clips("a", [[x] for x in a]), clips("b", [[None if x < least else x] for x in b])


def missing_row(share: float, runs: int) -> str:
    """Format the row that says how often the second model is called better.

    "Scored alone" compares only the clips that both have; the last column is the rule of
    the bench.
    """
    rows = [compare(*lost(seed, share), ["d0"])[0] for seed in range(runs)]
    alone = sum(row["p_scored"] < 0.05 and row["low"] > 0 for row in rows)
    better = sum(verdict({}, row) == 1 for row in rows)
    return f"| {share:.0%} | {alone / runs:.1%} | {better / runs:.1%} |"


def family_row(sets: int, dims: int, prompts: int, runs: int) -> str:
    """Format the row that says how often a page of equal models claims any difference."""
    wrong = 0
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        quality = rng.normal(size=(prompts, dims))
        models = [
            clips(f"m{i}", (quality + 0.7 * rng.normal(size=quality.shape)).tolist())
            for i in range(sets)
        ]
        names = [f"d{k}" for k in range(dims)]
        wrong += any(verdict({}, row) for row in compare_all(models, names))
    return f"| {sets} | {dims} | {prompts} | {wrong / runs:.1%} |"


def report(runs: int) -> str:
    """Return the page with the two tables as Markdown."""
    parts = [
        "# Verdicts that are wrong: unscored clips, and all pairs of sets\n\n"
        f"{runs} simulated pages a row of equal models, "
        f"by `python benchmarks/studies/bench_missing.py --runs {runs}`.\n",
        f"## The worst clips of one model are unscored\n\n{PROMPTS} prompts. 2.5 % is right.\n",
        "| worst clips unscored | better by the scored clips alone | better beyond doubt |",
        "|---:|---:|---:|",
        *(missing_row(share, runs) for share in (0.05, 0.1, 0.2, 0.3)),
        "\n## Any claim on a page of equal models\n\n5 % at most is right.\n",
        "| sets | dims | prompts | pages with a claim |\n|---:|---:|---:|---:|",
        *(family_row(*case, runs) for case in ((2, 4, 30), (3, 4, 30))),
    ]
    return "\n".join(parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, help="file to write; standard output without")
    parser.add_argument("--runs", type=int, default=400, help="simulated pages a row (400)")
    options = parser.parse_args(arguments)
    text = report(options.runs)
    options.out.write_text(text, encoding="utf-8") if options.out else print(text, end="")


if __name__ == "__main__":
    main()
