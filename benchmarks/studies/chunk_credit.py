"""Does the credit of chunks learn faster than the credit of whole videos?

    python benchmarks/studies/chunk_credit.py run      # train every arm of every pair; resumable
    python benchmarks/studies/chunk_credit.py report   # write the page of the finished pairs

Long clips of four chunks, by a Wan pipeline of random weights (16 x 16 pixels), are trained by GRPO
on a reward with a curve: the light of each frame, less its change from frame to frame. The arms
have the same prompts, noise, ratios (one for each chunk) and clip range, and differ in the
advantages of the chunks:

- `returns`: the reward of the chunk and of the later ones, times 0.9 for each chunk between.
- `whole`: the advantage of the whole video, for each of its chunks.
- `permuted`: `returns`, dealt to the chunks of each video in a random order (the control).

A pair is one seed. The measure is the reward of 32 held-out clips of fixed noise, by the ODE.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from _permuted_credit import dealt
from torch import Tensor

from vidrl.algorithms.grpo import GRPO
from vidrl.backbones._tiny import pipeline
from vidrl.backbones.long import Long
from vidrl.inference import means
from vidrl.rewards import Card, Reward, Samples, Score
from vidrl.training.assembly import Options
from vidrl.training.clips import generate
from vidrl.training.loop import Trainer
from vidrl.training.policy import Policy
from vidrl.training.rollout import Plan, draws

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "runs" / "chunk_credit.jsonl"
PAGE = ROOT / "benchmarks" / "results" / "credit" / "chunk_credit.md"
CHUNKS, ROUNDS = 4, 10
SEEDS = 6
RATE = 1e-2
ARMS = ("returns", "whole", "permuted")
SIZE = {"height": 16, "width": 16, "frames": 5, "fps": 8.0, "text_length": 16}
PROMPTS = [
    f"a {word} {thing}" for word in ("red", "blue", "green") for thing in ("circle", "square")
]


class Light(Reward):
    """The light of each frame, less three times its change from the frame before."""

    time_support = "prefix"  # a change is in the entry of the later frame
    card = Card(sees="Light.", blind_to="All else.", hacks="A white clip.", input="Any clip.")

    def terms(self, samples: Samples) -> Tensor:
        """Return the terms, (B, F); a first frame has no change."""
        light = samples.frames.mean((2, 3, 4))
        change = samples.frames.diff(dim=1).abs().mean((2, 3, 4))
        return light - 3 * torch.nn.functional.pad(change, (1, 0))


@dataclass(eq=False, kw_only=True)
class Permuted(GRPO):
    """GRPO whose advantages are dealt to the chunks of each video in a random order."""

    def advantages(self, score: Score, group: Tensor, prompts: Sequence[str], plan: Plan) -> Tensor:
        """Return the advantages of the base class, permuted."""
        return dealt(super().advantages(score, group, prompts, plan), score)


def algorithm(arm: str) -> GRPO:
    """Return the algorithm of an arm."""
    kind = Permuted if arm == "permuted" else GRPO
    return kind(
        sampler="flow_sde",
        eta=0.7,
        steps=4,
        segments=CHUNKS,
        credit="whole" if arm == "whole" else "segment",
        discount=0.9 if arm in ("returns", "permuted") else 0.0,
        scale="batch",
        equalise=True,
        train_steps=2,
        updates=2,
        clip_range=2e-3,
        same_start=True,
    )


def train(arm: str, seed: int) -> float:
    """Return the held-out reward after a run."""
    long = Long(pipeline(), chunks=CHUNKS, options=SIZE)
    policy = Policy(long, full=True)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer.from_objects(
            policy=policy,
            algorithm=algorithm(arm),
            reward=Light(),
            prompts=PROMPTS[:4],
            held_out=PROMPTS[4:],
            folder=folder,
            options=Options(
                rounds=ROUNDS,
                prompts_per_round=2,
                group=6,
                learning_rate=RATE,
                eval_every=ROUNDS,
                eval_n=1,
                eval_steps=1,
                checkpoint_every=ROUNDS,
                micro_batch=64,
                score_batch=16,
                seed=seed,
            ),
        )
        trainer.go()
        trainer.close()
    return evaluate(policy)


def evaluate(policy: Policy) -> float:
    """Return the mean reward of 32 held-out clips of fixed noise."""
    prompts = PROMPTS[4:] * 16
    clips = generate(policy, prompts, draws(0, [("held", i) for i in range(32)]), steps=4)
    return float(Light()(clips).value.mean())


def finished() -> dict[tuple[str, int], float]:
    """Return the finished runs."""
    lines = WORK.read_text().splitlines() if WORK.exists() else []
    return {(row["arm"], row["seed"]): row["reward"] for row in map(json.loads, lines)}


def run(seeds: Sequence[int]) -> None:
    """Train the runs of these seeds that are not finished, and append each to the file."""
    WORK.parent.mkdir(exist_ok=True)
    for seed in seeds:
        for arm in ARMS:
            if (arm, seed) not in finished():
                row = {"arm": arm, "seed": seed, "reward": train(arm, seed)}
                with WORK.open("a") as file:
                    file.write(json.dumps(row) + "\n")


def report() -> str:
    """Return the page of the pairs whose runs are all finished."""
    found = finished()
    seeds = [seed for seed in range(SEEDS) if all((arm, seed) in found for arm in ARMS)]
    start = evaluate(Policy(Long(pipeline(), chunks=CHUNKS, options=SIZE), full=True))
    gains = {arm: np.array([found[arm, seed] - start for seed in seeds]) for arm in ARMS}
    rows = [
        f"| {arm} | {values.mean():+.4f} | {_listed(values)} | {_versus(gains, arm)} |"
        for arm, values in gains.items()
    ]
    return TEMPLATE.format(
        start=start,
        rows="\n".join(rows),
        pairs=len(seeds),
        rounds=ROUNDS,
        chunks=CHUNKS,
        rate=RATE,
    )


def _listed(values: np.ndarray) -> str:
    """Return numbers as text."""
    return ", ".join(f"{value:+.4f}" for value in values)


def _versus(gains: dict[str, np.ndarray], arm: str) -> str:
    """Return the paired difference of `returns` and an arm, with its interval."""
    if arm == "returns":
        return ""
    mean = means.interval(gains["returns"] - gains[arm], unit="pairs")
    return f"{mean.mean:+.4f} [{mean.low:+.4f}, {mean.high:+.4f}]"


TEMPLATE = """# Credit of chunks against credit of whole videos

```
python benchmarks/studies/chunk_credit.py run && python benchmarks/studies/chunk_credit.py report
```

Clips of {chunks} chunks by a Wan pipeline of random weights (16 x 16 pixels,
`vidrl.backbones.long`), GRPO, {rounds} rounds of 2 prompts x 6 clips, all weights trained at
{rate:g}. The reward is the light of each frame less three times its change from the frame before.
All arms have one ratio for each chunk; a pair has the same prompts and noise. The measure is the
mean reward of 32 held-out clips of fixed noise, {start:.4f} before training. Intervals are 95 %,
over {pairs} pairs.

| arm | mean gain | gains by seed | `returns` minus this arm |
|---|---|---|---|
{rows}

`returns` credits a chunk with its own reward and that of the later chunks, times 0.9 for each
chunk in between; `whole` with the advantage of the video; `permuted`, the control, deals the
credit of `returns` to the chunks of each video in a random order.

This is a toy: the weights are random, the reward is simple and every chunk can raise it. It tests
the credit, not a model. The learning rate was not tuned for any arm.
"""


def main() -> None:
    """Train the arms, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=("run", "report"))
    parser.add_argument("--seeds", type=int, nargs="+", default=range(SEEDS), help="run: which")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    if args.stage == "run":
        run(args.seeds)
    else:
        PAGE.write_text(report())
        print(PAGE.read_text())


if __name__ == "__main__":
    main()
