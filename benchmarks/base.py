"""The base class of the benchmarks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from vidrl.rewards.base import Samples


class Benchmark(ABC):
    """A measure of temporal consistency over a set of clips; constructor arguments are its options."""

    @abstractmethod
    def measure(self, samples: Samples) -> Mapping[str, float]:
        """The named numbers of these clips; NaN where a number cannot be had, never a made-up one."""
