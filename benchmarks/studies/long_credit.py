"""Does credit of chunks learn faster than credit of whole videos on assets/tiny-long?

    python benchmarks/studies/long_credit.py run      # train every arm of every pair; resumable
    python benchmarks/studies/long_credit.py report   # write the page of the finished pairs

Each run is scripts/recipes/tiny_long.toml with fewer clips (`CHANGES`). The arms have the same
prompts, noise and noise levels, and differ in the advantages of the chunks:

- `returns`: the reward of the chunk and of the later ones, times 0.9 for each chunk between.
- `whole`: the advantage of the whole video, for each of its chunks.
- `permuted`: `returns`, dealt to the chunks of each video in a random order (the control).

A pair is one seed. The measure is the reward of held-out captions, by the ODE, on fixed noise.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from _permuted_credit import dealt
from torch import Tensor

from vidrl import config
from vidrl.algorithms.nft import NFT
from vidrl.inference import means
from vidrl.rewards import Score
from vidrl.training import loop
from vidrl.training.rollout import Plan

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "scripts" / "recipes" / "tiny_long.toml"
RUNS = ROOT / "runs" / "long_credit"
PAGE = ROOT / "benchmarks" / "results" / "credit" / "long_credit.md"
SEEDS = range(100, 106)
ARMS = {
    "returns": [],
    "whole": ['algorithm.options.credit="whole"', "algorithm.options.discount=0.0"],
    "permuted": ['algorithm.name="long_credit:Permuted"'],
}
# fewer clips than the recipe has, no evaluation between rounds, and no measures beside the reward
CHANGES = [
    "train.rounds=4",
    "train.prompts_per_round=4",
    "train.learning_rate=1e-3",
    "train.eval_every=4",
    "train.checkpoint_every=4",
    "train.show=1",
    "data.held_out_n=32",
    "train.eval_n=32",
    "guard.bands={}",
    "reward.parts={segment_seam = {weight = 0.5, options = {borders = [13, 29]}}, "
    '"vidrl.synthetic.caption_fit:CaptionFit" = 0.5}',
]


@dataclass(eq=False, kw_only=True)
class Permuted(NFT):
    """DiffusionNFT whose advantages are dealt to the chunks of each video in a random order."""

    def advantages(self, score: Score, group: Tensor, prompts: Sequence[str], plan: Plan) -> Tensor:
        """Return the advantages of the base class, permuted."""
        return dealt(super().advantages(score, group, prompts, plan), score)


def folder(arm: str, seed: int) -> Path:
    """Return the folder of a run."""
    return RUNS / f"{arm}-{seed}"


def gain(arm: str, seed: int) -> tuple[float, float] | None:
    """Return the held-out reward before and after a run; None where the run is not finished."""
    file = folder(arm, seed) / "summary.json"
    if not file.exists():
        return None
    row = json.loads(file.read_text(encoding="utf-8"))["held_out"]["composite"]
    return row["before"], row["after"]


def run(seeds: Sequence[int]) -> None:
    """Train the runs of these seeds that are not finished."""
    for seed in seeds:
        for arm, changes in ARMS.items():
            if gain(arm, seed) is None:
                own = [f"run={folder(arm, seed)}", f"seed={seed}"]
                loop.run(
                    config.load(RECIPE, [*CHANGES, *changes, *own]), folder(arm, seed).exists()
                )


def report() -> str:
    """Return the page of the pairs whose runs are all finished."""
    found = {(arm, seed): gain(arm, seed) for arm in ARMS for seed in SEEDS}
    seeds = [seed for seed in SEEDS if all(found[arm, seed] for arm in ARMS)]
    values = {arm: np.array([found[arm, seed] for seed in seeds]) for arm in ARMS}
    gains = {arm: pair[:, 1] - pair[:, 0] for arm, pair in values.items()}
    rows = [
        f"| {arm} | {gain.mean():+.3f} | {', '.join(f'{x:+.3f}' for x in gain)} | "
        f"{_versus(gains, arm)} |"
        for arm, gain in gains.items()
    ]
    start = float(values["returns"][0, 0])
    changes = "\n".join(CHANGES)
    return TEMPLATE.format(pairs=len(seeds), rows="\n".join(rows), start=start, changes=changes)


def _versus(gains: dict[str, np.ndarray], arm: str) -> str:
    """Return the paired difference of `returns` and an arm, with its interval."""
    if arm == "returns":
        return ""
    mean = means.interval(gains["returns"] - gains[arm], unit="pairs")
    return f"{mean.mean:+.3f} [{mean.low:+.3f}, {mean.high:+.3f}]"


TEMPLATE = """# Credit of chunks against credit of whole videos, on tiny-long

```
python benchmarks/studies/long_credit.py run && python benchmarks/studies/long_credit.py report
```

Runs of scripts/recipes/tiny_long.toml with these changes:

```
{changes}
```

All arms have the same prompts, noise and noise levels. The measure is the mean reward of 32
held-out captions on fixed noise, {start:.3f} before training. Intervals are 95 %, over {pairs}
pairs of runs (seeds 100 and up, which no setting was chosen on). Three pairs of `returns` and
`whole` were run and looked at first; then all runs were made anew, with six seeds, the fewest for
an interval.

| arm | mean gain | gains by seed | `returns` minus this arm |
|---|---|---|---|
{rows}

`returns` credits a chunk with its own reward and that of the later chunks, times 0.9 for each chunk
in between; `whole` with the advantage of the video; `permuted`, the control, deals the credit of
`returns` to the chunks of each video in a random order. The settings of the recipe were chosen with
`returns`, on another seed. A sign-flip test over six pairs cannot give a p below 0.031.
"""


def main() -> None:
    """Train the arms, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=("run", "report"))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="run: which")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    if args.stage == "run":
        run(args.seeds)
    else:
        PAGE.write_text(report(), encoding="utf-8")
        print(PAGE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
