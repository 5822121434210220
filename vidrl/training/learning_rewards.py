"""Rewards that learn beside the policy: when they learn, and what a checkpoint keeps of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidrl.rewards import Reward, Samples
from vidrl.rewards.compose import leaves

CLIPS = 32  # how many clips of a round are decoded again to be learned from


class LearningRewards:
    """The parts of a run's reward that learn (`Reward.learns`) are kept here by their names.

    Most runs have none.

    Example:
        >>> from vidrl.rewards.flicker import Flicker
        >>> LearningRewards(Flicker()).names
        []
    """

    def __init__(self, reward: Reward):
        found = {
            path.removeprefix("/") or type(leaf).__name__.lower(): leaf
            for path, leaf in leaves("", reward).items()
        }
        self.found = {name: leaf for name, leaf in found.items() if leaf.learns}
        # whether the rewards have seen clips of the base model, or were restored
        self.begun = not self.found

    @property
    def names(self) -> list[str]:
        """Return the names of the rewards that learn."""
        return list(self.found)

    @property
    def notes(self) -> list[str]:
        """Return what a person should know before training."""
        return [
            f"{name} learns during the run: its values of different rounds cannot be compared, and "
            "with them those of the composite; judge the run by measures that stay the same"
            for name in self.found
        ]

    def check(self, processes: int, workers: bool) -> None:
        """Raise ValueError where several processes would learn apart, or nothing can be learned."""
        if self.found and (processes > 1 or workers):
            got = f"{processes} processes" if processes > 1 else "reward.workers"
            raise ValueError(
                f"expected one process without reward.workers for {', '.join(self.found)}, which "
                f"learns during the run, got {got}: each process would learn something else; start "
                "one process, and set reward.workers = 0"
            )
        for reward in self.found.values():
            reward.check_learns()

    def refresh(self, clips: Iterable[Samples], round: int) -> dict[str, dict[str, float]]:
        """Let each reward learn from clips of a round; return what the round logs, by name."""
        pieces = list(clips) if self.found else []
        self.begun = True
        if not pieces:
            return {}
        prompts = [prompt for piece in pieces for prompt in piece.prompts]
        samples = Samples(torch.cat([piece.video for piece in pieces]), prompts, pieces[0].fps)
        return {name: reward.refresh(samples, round) for name, reward in self.found.items()}

    def state(self) -> dict[str, Any]:
        """Return the state of each reward."""
        return {name: reward.state() for name, reward in self.found.items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        for name, reward in self.found.items():
            reward.load_state(state[name])
        self.begun = True

    def save(self, folder: Path) -> None:
        """Write what each reward has learned to a file of the folder."""
        for name, reward in self.found.items():
            folder.mkdir(parents=True, exist_ok=True)
            reward.save(folder / f"{name.replace('/', '.')}.safetensors")


def some(count: int) -> Tensor:
    """Return the numbers of at most CLIPS of `count` samples, evenly spread.

    >>> some(3), len(some(100))
    (tensor([0, 1, 2]), 32)
    """
    return torch.linspace(0, count - 1, min(count, CLIPS)).round().long()
