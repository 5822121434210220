"""What tests of clips of chunks share: a round of GRPO, log-densities, a rollout on the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from pretend_gpu import PretendGpu
from torch import Tensor

from vidrl import lora
from vidrl.algorithms.grpo import GRPO
from vidrl.backbones.base import Cond, SharedCond, on, rows
from vidrl.backbones.long import Long
from vidrl.data.prompt import Prompt
from vidrl.diffusion import transition
from vidrl.training.assembly import Options
from vidrl.training.chunks import sample, split
from vidrl.training.loop import Trainer
from vidrl.training.policy import Policy
from vidrl.training.rollout import Plan, Rollout, draws, join

PROMPTS = ("a red circle", "a blue square")  # one to train with, and one that is held out


def learn_a_round(
    long: Long,
    folder: Path,
    prompts: Sequence[str | Prompt] = PROMPTS,
    targets: Sequence[str] = lora.USUAL,
    sampler: str = "cps",
) -> Path:
    """Train one round of GRPO on two chunks, assert that the weights change, return the run.

    Trainer.go raises where the ratio before the first update is not 1.
    """
    policy = Policy(long, rank=2, alpha=2, targets=targets)
    trainer = Trainer.from_objects(
        policy=policy,
        algorithm=GRPO(sampler=sampler, steps=3, segments=2, discount=0.9, scale="batch"),
        reward=lambda samples: samples.frames.mean((2, 3, 4)),
        prompts=prompts[:1],
        held_out=prompts[1:],
        folder=folder,
        options=Options(rounds=1, prompts_per_round=1, group=2, eval_steps=2, learning_rate=1e-2),
    )
    before = policy.checksum()
    run = trainer.go()
    assert policy.checksum() != before
    return run


def log_density(chunks: Rollout, long: Long, step: int, cond: Cond) -> Tensor:
    """Return the log-density of each row for the one kept step, whose number is `step`."""
    transit = chunks.plan.step(long, chunks.before[:, 0].to(long.device), step, cond)
    after = chunks.after[:, 0].to(long.device)
    return transition.log_density(transit, after).flatten(1).mean(1)


def check_rollout_on_the_host(long: Long) -> None:
    """Assert that chunks sampled on a pretended GPU lie on the host and keep their density."""
    plan = Plan(long.times(2), "cps", 0.3, 2, stochastic=(0,), keep=(0,), chunks=2)
    table = SharedCond(long.encode(["a"]), torch.tensor([0, 0]))
    with PretendGpu():
        long.to("cuda:0")
        made = sample(long, table, draws(0, [(0,), (1,)]), plan, keep_on=torch.device("cpu"))
        chunks = split(join([made], table), long)
        assert {value.device.type for value in chunks.cond.values()} == {"cpu"}
        cond = on(rows(chunks.cond, torch.tensor([2, 0])), long.device)
        some = replace(chunks, before=chunks.before[[2, 0]], after=chunks.after[[2, 0]])
        found = log_density(some, long, 0, cond).cpu()
    assert torch.allclose(found, chunks.log_density[[2, 0], 0, 0], atol=1e-4)
