"""Say on the page of a run what a reward knows of itself, and how often people would choose.

Legend: N held-out clips.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from vidrl.inference.means import interval
from vidrl.rewards import Reward


@dataclass(frozen=True)
class AboutReward:
    """What a page says of a reward besides its values.

    - `remarks`: the sentences of `Reward.remarks`.
    - `in_logits`: the measures whose gaps are logits of people's choices (`Reward.in_logits`).
    """

    remarks: tuple[str, ...] = ()
    in_logits: tuple[str, ...] = ()

    @classmethod
    def of(cls, reward: Reward) -> AboutReward:
        """Return what a reward says of itself; its value is the measure "composite".

        >>> from vidrl.rewards.fitted import Fitted
        >>> AboutReward.of(Fitted.tiny()).in_logits
        ('composite',)
        """
        parts = getattr(reward, "parts", {})
        named = [name for name, part in parts.items() if part.in_logits]
        return cls(tuple(reward.remarks()), ("composite",) if reward.in_logits else tuple(named))


def chosen(before: np.ndarray, after: np.ndarray) -> dict[str, Any] | None:
    """Return how often people would choose the second clip of each pair, with its interval.

    It is the mean of σ(after − before) over N pairs of values in logits, ties left out; None
    where no pair has two values. The interval is over the pairs, so over prompts. It holds the
    choices of the people as the reward knows them, not what the reward does not know.

    >>> row = chosen(np.zeros(6), np.full(6, np.log(3)))
    >>> round(row["share"], 2), row["n"]
    (0.75, 6)
    """
    gaps = (after - before)[np.isfinite(before) & np.isfinite(after)]
    if not len(gaps):
        return None
    found = interval(1 / (1 + np.exp(-gaps)), limits=(0.0, 1.0), unit="clips")
    ends = [end if math.isfinite(end) else None for end in (found.low, found.high)]
    return {"share": found.mean, "low": ends[0], "high": ends[1], "n": len(gaps)}
