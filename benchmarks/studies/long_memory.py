"""Does the memory of an update grow with the number of chunks of a clip?

    python benchmarks/studies/long_memory.py --out benchmarks/results/training/long_memory.md

For clips of 2, 8 and 32 chunks of assets/tiny-wan-32, two clips are sampled and one GRPO update is
taken. Counted are the bytes of the tensors that autograd keeps for the backward pass, at their
peak: in the update, whose rows are chunks, and in one prediction of a whole clip, for comparison.
The bytes of the rollout, which is in host memory, grow with the chunks. Counts of bytes do not
depend on the machine.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from vidrl.algorithms.base import Experience
from vidrl.algorithms.grpo import GRPO
from vidrl.backbones.long import Long
from vidrl.config import Train
from vidrl.rewards._scoring.plain import as_reward
from vidrl.training.chunks import sample
from vidrl.training.policy import Policy
from vidrl.training.processes import Workers
from vidrl.training.rollout import draws
from vidrl.training.update import Updater

ROOT = Path(__file__).resolve().parents[2]
CHUNKS = (2, 8, 32)
PROMPT = "a red circle moves left slowly on a dark background"


class Kept:
    """A tensor that autograd keeps; its bytes are counted until autograd frees it."""

    now, peak = 0, 0

    def __init__(self, value: Tensor):
        self.value = value
        Kept.now += value.nbytes
        Kept.peak = max(Kept.peak, Kept.now)

    def __del__(self) -> None:
        Kept.now -= self.value.nbytes


@contextmanager
def counting() -> Iterator[None]:
    """Count the tensors that autograd keeps within this context."""
    Kept.now = Kept.peak = 0
    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.value):
        yield


def measure(chunks: int) -> dict[str, float]:
    """Return the MB of an update, of a whole clip's prediction, and of the rollout."""
    options = {"frames": 13, "text_length": 24}
    long = Long(str(ROOT / "assets" / "tiny-wan-32"), chunks=chunks, options=options)
    policy = Policy(long, rank=16)
    algorithm = GRPO(sampler="cps", steps=4, segments=chunks, updates=1, scale="batch")
    algorithm.setup(policy, as_reward(lambda samples: samples.frames.mean((1, 2, 3, 4))), 2)
    plan = algorithm.plan(long, 0, torch.Generator().manual_seed(0))
    cond = long.encode([PROMPT] * 2)
    rollout = sample(policy, cond, draws(0, [(0,), (1,)]), plan)
    advantage, group = torch.randn(2, chunks), torch.tensor([0, 0])
    experience = Experience(rollout, advantage, group, [PROMPT] * 2, torch.arange(2), 0, 0)
    updater = Updater(policy, algorithm, Workers(), dataclasses.replace(Train(), micro_batch=4), 0)
    with counting():
        updater.update(experience)
    update = Kept.peak
    with counting():
        x = rollout.before[:1, 0]
        policy.predict(x, torch.tensor([0.5]), {k: v[:1] for k, v in cond.items()}).sum().backward()
    tensors = (rollout.latents, rollout.before, rollout.after, rollout.log_density)
    kept = sum(value.nbytes for value in tensors)
    return {"update": update / 1e6, "whole": Kept.peak / 1e6, "rollout": kept / 1e6}


def page(rows: dict[int, dict[str, float]]) -> str:
    """Return the results page."""
    table = "\n".join(
        f"| {chunks} | {row['update']:.2f} | {row['whole']:.2f} | {row['rollout']:.3f} |"
        for chunks, row in rows.items()
    )
    return f"""# Long video: memory of an update by the number of chunks

```
python benchmarks/studies/long_memory.py --out benchmarks/results/training/long_memory.md
```

assets/tiny-wan-32 with chunks of 4 latent frames, two clips, GRPO with 4 steps and a LoRA of rank
16, micro-batches of 4 rows. The numbers are MB of tensors that autograd keeps for the backward
pass, at their peak, and MB of the rollout, which host memory holds. They are counts, which do not
depend on the machine.

| chunks | update, one row a chunk | prediction of a whole clip | rollout of two clips |
|---|---|---|---|
{table}

An update has rows of one chunk, so that its memory does not grow with the chunks. The prediction
of a whole clip in one row, which no algorithm of vidrl takes, would.
"""


def main() -> None:
    """Measure every number of chunks, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    text = page({chunks: measure(chunks) for chunks in CHUNKS})
    print(text)
    if args.out:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
