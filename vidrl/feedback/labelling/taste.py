"""Say which pairs a fitted reward is unsure about, so that these pairs are labelled next."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vidrl.feedback.labelling.clip_sets import Clip
from vidrl.feedback.selection import Item, mutual_information
from vidrl.rewards import Samples, video

POINTS = 15  # of Gauss-Hermite quadrature over the gap of a pair


def information(value: Sequence[float], std: Sequence[float]) -> float:
    """Return what an answer to a pair says about a fitted reward's gap, in nats.

    `value` and `std` hold the mean and the standard deviation of the reward of both clips, in
    logits of a choice. The gap is N(d, s²) with s² the sum of both variances, as if the errors of
    the two clips were independent. NaN of a clip that was not scored gives 0.

    >>> round(information([1.0, 1.0], [0.0, 0.0]), 6)
    0.0
    >>> information([0.0, 0.0], [2.0, 2.0]) > information([9.0, 0.0], [2.0, 2.0]) > 0
    True
    """
    gap, spread = value[0] - value[1], math.hypot(*std)
    if not (math.isfinite(gap) and math.isfinite(spread)):
        return 0.0
    nodes, weights = np.polynomial.hermite_e.hermegauss(POINTS)
    return mutual_information(1 / (1 + np.exp(-(gap + spread * nodes))), weights)


def of_reward(reward: Any, clips: Sequence[Clip]) -> Callable[[Item], float]:
    """Score clips by a fitted reward, and return the information of a pair of their places.

    Raises ValueError for a reward without the part `uncertainty`. A clip that cannot be read has
    no information of its own.
    """
    found = [_score(reward, clip.path, clip.prompt) for clip in clips]

    def of_pair(item: Item) -> float:
        value, std = zip(*(found[place] for place in item), strict=True)
        return information(value, std)

    return of_pair


def _score(reward: Any, path: Path, prompt: str) -> tuple[float, float]:
    """Return a clip's value and its standard deviation, NaN where the clip cannot be read."""
    try:
        frames, fps = video.read(path)
    except (OSError, video.Unreadable):
        return math.nan, math.nan
    score = reward(Samples(frames[None].float() / 255, [prompt], fps))
    if "uncertainty" not in (score.parts or {}):
        raise ValueError(
            f"expected --reward to be a folder that `vidrl fit` wrote, got {type(reward).__name__} "
            "without the part uncertainty"
        )
    return float(score.value[0]), float(score.parts["uncertainty"].value[0])
