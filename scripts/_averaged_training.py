"""Trains a small network and writes an average of its weights, for scripts that pretrain models."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn


def train(
    network: nn.Module,
    loss: Callable[[int], Tensor],
    out: Path,
    steps: int,
    peak_rate: float,
    every: int,
) -> None:
    """Train a network by AdamW on the loss of each step, which counts from 1.

    The learning rate rises to `peak_rate` in 5 % of the steps and then falls to 0. Every `every`
    steps, network.safetensors is written with a running average of the weights, and
    pretraining.jsonl gets a row with the mean loss and the CPU seconds.
    """
    from safetensors.torch import save_file

    average = {key: value.clone() for key, value in network.state_dict().items()}
    optimiser = torch.optim.AdamW(network.parameters(), peak_rate, (0.9, 0.98), weight_decay=0.01)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, peak_rate, steps, pct_start=0.05)
    losses, start = list[float](), time.process_time()
    for step in range(1, steps + 1):
        value = loss(step)
        optimiser.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        rate.step()
        _follow(average, network, step)
        losses.append(value.item())
        if step % every == 0 or step == steps:
            mean, seconds = sum(losses[-every:]) / len(losses[-every:]), time.process_time() - start
            row = {"step": step, "loss": round(mean, 5), "cpu_seconds": round(seconds, 1)}
            _log(out / "pretraining.jsonl", row, first=step <= every)
            save_file(average, out / "network.safetensors")


def _follow(average: dict[str, Tensor], network: nn.Module, step: int) -> None:
    """Move the average towards the weights, fast at first."""
    keep = min(0.995, step / (step + 10))
    for key, now in network.state_dict().items():
        average[key].lerp_(now, 1 - keep)


def _log(file: Path, row: dict[str, float], first: bool) -> None:
    """Print a row, and write it to a file, which the first row begins anew."""
    print(row, flush=True)
    with file.open("w" if first else "a") as log:
        log.write(json.dumps(row) + "\n")
