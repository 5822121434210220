"""Compute the learning rate of each round: a warm-up, and then one of three schedules.

The names "constant", "linear" and "cosine" mean what they mean in
`diffusers.optimization.get_scheduler`. The rate is a function of the round alone, so that a
resumed run needs no state of a scheduler.
"""

from __future__ import annotations

from math import cos, pi
from typing import Literal

Schedule = Literal["constant", "linear", "cosine"]


def factor(
    round: int, rounds: int, schedule: Schedule = "constant", end: float = 0.0, warmup: int = 0
) -> float:
    """Return the fraction of `train.learning_rate` for a round, 0 to rounds − 1.

    The first `warmup` rounds rise in equal steps: (round + 1) / (warmup + 1). After them,
    with p from 0 at the first full round to 1 at the last round:

    - "constant": 1
    - "linear": 1 − (1 − end) p
    - "cosine": end + (1 − end) (1 + cos πp) / 2, which is equation 5 of arXiv 1608.03983
      without restarts

    Example:
        >>> [round(factor(k, 5, "linear", end=0.2), 3) for k in range(5)]
        [1.0, 0.8, 0.6, 0.4, 0.2]
        >>> [round(factor(k, 5, "cosine", end=0.0), 3) for k in range(5)]
        [1.0, 0.854, 0.5, 0.146, 0.0]
        >>> [factor(k, 5, warmup=3) for k in range(5)]
        [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    if round < warmup:
        return (round + 1) / (warmup + 1)
    if schedule == "constant":
        return 1.0
    p = min((round - warmup) / max(rounds - 1 - warmup, 1), 1.0)
    left = 1 - p if schedule == "linear" else (1 + cos(pi * p)) / 2
    return end + (1 - end) * left
