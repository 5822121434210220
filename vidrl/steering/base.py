"""This module defines the base class of the steering methods."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from vidrl.rewards.base import Reward, Samples


class Steering(ABC):
    """A method that generates clips of a higher reward with a frozen generator.

    The constructor's arguments are the options of the method.
    """

    @abstractmethod
    def generate(
        self, generator: Any, prompts: Sequence[str], reward: Reward, seed: int = 0
    ) -> Samples:
        """Generate one clip for each prompt, steered towards a higher reward."""
