"""Keep the attention kernel of a run, and sample with another one where the recipe asks for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidrl.attention import ALONE, AUTO, Agreement
from vidrl.backbones.base import Cond, Denoiser, on

from . import checkpoint
from .broadcast import texts
from .chunks import sample
from .policy import Policy
from .processes import Workers
from .rollout import Level, Plan, Rollout, density

FILE = "attention.json"


class Sampler:
    """Samples with the kernel of rollouts, and keeps how far its densities are from the update's.

    Where the backbone has no other kernel for rollouts, this is `rollout.sample`.
    """

    def __init__(self, policy: Policy, workers: Workers):
        self.policy, self.workers = policy, workers
        self.ratios: list[Tensor] = []

    def __call__(
        self,
        cond: Cond,
        generators: Sequence[torch.Generator],
        plan: Plan,
        above: Sequence[Level],
        kept_on: torch.device | None = None,
    ) -> Rollout:
        """Return a rollout whose log-densities are those of the update's kernel.

        The arguments are those of `rollout.sample`.
        """
        switch = self.policy.backbone.attention_switch
        if switch is None or not switch.mixes:
            return sample(self.policy, cond, generators, plan, above, kept_on)
        with switch.sampling(self.policy.backbone.device):
            drawn = sample(self.policy, cond, generators, plan, above, kept_on)
        again = densities_again(self.policy, drawn)
        noisy = [column for column, k in enumerate(sorted(plan.keep)) if k in plan.stochastic]
        self.ratios.append((again.log_density - drawn.log_density)[:, noisy].exp().flatten())
        return again

    def row(self) -> dict[str, Any]:
        """Return `rollout_drift` of the round, over all processes; nothing without a mix."""
        switch = self.policy.backbone.attention_switch
        if switch is None or not switch.mixes:
            return {}
        own = torch.cat(self.ratios) if self.ratios else torch.zeros(0)
        self.ratios.clear()
        gap = (self.workers.all(own) - 1).abs()
        return (
            {"rollout_drift": {"mean": float(gap.mean()), "max": float(gap.max())}}
            if len(gap)
            else {}
        )


@torch.no_grad()
def densities_again(policy: Policy | Denoiser, rollout: Rollout) -> Rollout:
    """Return a rollout with the log-densities, and means, that the present kernel gives its steps.

    Call this with the weights that sampled. The samples stay as they are.
    """
    plan, device = rollout.plan, _device(policy)
    cond = on(rollout.cond, device)
    logs: list[Tensor] = []
    means: list[Tensor] = []
    for column, k in enumerate(sorted(plan.keep)):
        step = plan.step(policy, rollout.before[:, column].to(device), k, cond)
        log = density(plan, step, rollout.after[:, column].to(device), k)
        logs.append(log.to(rollout.log_density.device))
        means.append(step.mean.to(rollout.after.device))
    if not logs:
        return rollout
    mean = None if rollout.mean is None else torch.stack(means, 1)
    return replace(rollout, log_density=torch.stack(logs, 1), mean=mean)


def _device(policy: Policy | Denoiser) -> torch.device:
    """Return the device on which the networks compute."""
    return (policy.backbone if isinstance(policy, Policy) else policy).device


def keep(backbone: Denoiser, read: Callable[[], dict[str, Any]]) -> None:
    """Let a backbone use the kernel that an earlier start of the run has chosen by "auto".

    `read` returns what `kept` found on the main process, and is called by all processes or by
    none: a process that measures alone would wait for the others' order of kernels for ever.
    """
    switch = backbone.attention_switch
    found = read() if switch is not None and switch.wanted == AUTO else {}
    if switch is not None and found.get("wanted") == AUTO:
        switch.keep(found["choice"], found["measured"])


def kept(folder: Path) -> dict[str, Any]:
    """Return what `write` wrote into a run folder, empty without the file."""
    file = folder / FILE
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return found


class Agreed(Agreement):
    """The agreement of all processes of a run: each must make the same calls."""

    def __init__(self, workers: Workers):
        self.workers = workers
        self.together = workers.together

    def failures(self, own: Sequence[str]) -> list[str]:
        """Return the first process's reason of each failure, and which process that is."""
        every = [json.loads(text) for text in texts(self.workers, json.dumps(list(own)))]
        return [_first_reason(reasons) for reasons in zip(*every, strict=True)]

    def of_main(self, names: Sequence[str]) -> list[str]:
        """Return the names that the main process has passed."""
        found: list[str] = json.loads(texts(self.workers, json.dumps(list(names)))[0])
        return found


def _first_reason(reasons: Sequence[str]) -> str:
    """Return the first reason of several processes, "" if no process has one.

    >>> _first_reason(["", "it fails"]), _first_reason(["it fails"] * 2), _first_reason([""])
    ('process 1: it fails', 'it fails', '')
    """
    rank = next((rank for rank, reason in enumerate(reasons) if reason), -1)
    if rank < 0 or all(reasons):
        return reasons[rank] if reasons else ""
    return f"process {rank}: {reasons[rank]}"


@contextmanager
def agreed(backbone: Denoiser, workers: Workers) -> Iterator[None]:
    """Let all processes come to one verdict on each kernel that is proven within this context.

    Processes that call the network together agree afterwards too; others predict alone, and
    would wait for processes that never ask.
    """
    switch = backbone.attention_switch
    if switch is None or workers.size == 1:
        yield
        return
    switch.agreement = Agreed(workers)
    yield
    if not workers.together:
        switch.agreement = ALONE


def write(backbone: Denoiser, folder: Path) -> None:
    """Write attention.json, where the recipe asks for another kernel than torch's usual one."""
    switch = backbone.attention_switch
    if switch is not None and not switch.plain:
        checkpoint.write_text(folder / FILE, json.dumps(switch.to_dict(), indent=1))


def notes(backbone: Denoiser, plan: Plan) -> Iterator[str]:
    """Yield a sentence on the kernel that "auto" chose, and one on a mix with rollouts.

    `plan`: that of a round, which says whether the algorithm keeps log-densities.
    """
    switch = backbone.attention_switch
    if switch is None:
        return
    if switch.wanted == AUTO:
        yield f"attention = 'auto' uses {switch.choice}{_compared(switch.measured, switch.choice)}"
    if switch.mixes:
        densities = set(plan.keep) & set(plan.stochastic)
        yield (
            f"rollouts use the attention kernel {switch.rollout} and updates {switch.choice}: "
            + (
                "old log-densities are computed again, and rollout_drift in metrics.jsonl is the "
                "difference"
                if densities
                else "the algorithm keeps no log-densities, so that rollout_drift is not measured"
            )
        )


def _compared(measured: dict[str, Any] | None, choice: str) -> str:
    """Return the seconds of the chosen kernel against sdpa's, as text.

    >>> rows = [{"kernel": "sdpa", "both": 0.02}, {"kernel": "flash", "both": 0.01}]
    >>> _compared({"rows": rows}, "flash")
    ': 10.0 ms of attention a prediction, forward and backward, 20.0 ms by sdpa (attention.json)'
    """
    both = {row["kernel"]: row["both"] for row in (measured or {}).get("rows", [])}
    if not both.get(choice) or not both.get("sdpa"):
        return ""
    own = f": {1e3 * both[choice]:.1f} ms of attention a prediction, forward and backward"
    return f"{own}, {1e3 * both['sdpa']:.1f} ms by sdpa ({FILE})"
