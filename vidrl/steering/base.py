"""The base class of the steering methods."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from vidrl.rewards.base import Reward, Samples


class Steering(ABC):
    """A way to make clips that score higher with a frozen generator; constructor arguments
    are its options."""

    @abstractmethod
    def generate(
        self, generator: Any, prompts: Sequence[str], reward: Reward, seed: int = 0
    ) -> Samples:
        """One clip a prompt, steered towards a higher reward."""
