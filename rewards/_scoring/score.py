"""A Score is what a reward returns, or what can be read as one.

Shapes: B clips, F frames, H W height and width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .samples import Samples

SUPPORTS = ("frame", "pair", "prefix", "clip")
# The first words of the reason why a reward that needs time does not score an image.
STILL = "inapplicable to an image"


@dataclass
class Score:
    """A score holds one number for each clip, and where in time that number comes from.

    - `value` (B,): higher is better. NaN means not scored; `why` says the reason.
    - `frames` (B, F): the curve. Its mean over time is `value`. A term that compares two
      frames is split: half of its deviation from the mean is credited to each frame.
      `frames` is None where the reward does not say where in time its value comes from.
    - `support`: which frames an entry of the curve depends on: "frame" (its own), "pair"
      (its own and its neighbours), "prefix" (all frames up to its own) or "clip" (all).
    - `parts`: the scores of a Composite's parts by name, and `weights` their weights.
    - `why`: for each clip the reason why it is not scored, or None.
    - `slopes`: for each part, d value / d part, (B,).
    - `adds`: for each part (B, 2): the amount that the part adds to the sum before the
      gates, and the derivative of this amount in the part's value.
    - `maps`: where in the picture a fault lies, (B, F, H, W) by name; only if the reward
      was called with maps=True. NaN where a frame has no map; the map of a pair of frames
      is on the first one.
    """

    value: Tensor
    frames: Tensor | None = None
    support: str = "frame"
    parts: dict[str, Score] = field(default_factory=dict)
    why: Sequence[str | None] = ()
    weights: dict[str, float] = field(default_factory=dict)
    slopes: dict[str, Tensor] = field(default_factory=dict)
    maps: dict[str, Tensor] = field(default_factory=dict)
    adds: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.support not in SUPPORTS:
            raise ValueError(
                f"expected support to be one of {', '.join(SUPPORTS)}, got {self.support!r}"
            )
        if self.value.dim() != 1:
            raise ValueError(f"expected value of shape (B,), got {tuple(self.value.shape)}")
        self.why = list(self.why) or [None] * len(self.value)


def join(scores: Sequence[Score]) -> Score:
    """Return the scores of several batches as one score.

    The joined score has a curve if all of them have one.
    """
    first = scores[0]
    curves = [s.frames for s in scores if s.frames is not None]
    frames = torch.cat(curves) if len(curves) == len(scores) else None
    shared = [name for name in first.parts if all(name in s.parts for s in scores)]
    parts = {name: join([s.parts[name] for s in scores]) for name in shared}
    why = [reason for s in scores for reason in s.why]
    slopes = {name: torch.cat([s.slopes[name] for s in scores]) for name in first.slopes}
    adds = {name: torch.cat([s.adds[name] for s in scores]) for name in first.adds}
    value = torch.cat([s.value for s in scores])
    return Score(value, frames, first.support, parts, why, first.weights, slopes, adds=adds)


def on_device(score: Score, device: torch.device | str) -> Score:
    """Return the score with the tensors of all its parts on `device`.

    >>> on_device(Score(torch.zeros(2), torch.zeros(2, 3)), "cpu").frames.device
    device(type='cpu')
    """
    slopes, maps, adds = (
        {name: rows.to(device) for name, rows in table.items()}
        for table in (score.slopes, score.maps, score.adds)
    )
    return replace(
        score,
        value=score.value.to(device),
        frames=None if score.frames is None else score.frames.to(device),
        parts={name: on_device(part, device) for name, part in score.parts.items()},
        slopes=slopes,
        maps=maps,
        adds=adds,
    )


def as_score(returned: Any, samples: Samples, name: str) -> Score:
    """Return what the reward `name` returned for `samples` as a Score of its clips.

    A tensor, array or list of N numbers holds the values of N clips. One of shape (N, F)
    holds curves over the frames, each entry of which depends on its own frame; their means
    are the values. A number that is not finite leaves its clip unscored, as None in a list
    does. Raises ValueError for anything else, and for a Score of other clips.

    >>> samples = Samples(torch.zeros(2, 3, 1, 8, 8), ["", ""], 8.0)
    >>> as_score([0.5, None], samples, "mine").why
    [None, 'unscored: mine returned NaN or infinity']
    """
    want = _wanted(samples, name)
    if isinstance(returned, Score):
        return _explained(_fitting(returned, samples, want), name)
    numbers = _numbers(returned, want).to(samples.video.device)
    clips, frames = samples.video.shape[:2]
    if numbers.shape not in ((clips,), (clips, frames)):
        raise ValueError(f"{want}, got {_description(returned)}: {_cure(numbers, samples)}")
    curve = numbers if numbers.dim() == 2 else None
    value = numbers if curve is None else curve.mean(1)
    value = value.masked_fill(value.isinf(), math.nan)
    return _explained(Score(value, curve, "clip" if curve is None else "frame"), name)


def _wanted(samples: Samples, name: str) -> str:
    """Return what a reward may return, as an error message says it."""
    clips, frames = samples.video.shape[:2]
    numbers, them = ("1 number", "1 clip") if clips == 1 else (f"{clips} numbers", f"{clips} clips")
    return (
        f"expected {name} to return {numbers}, one a clip, as a tensor ({clips},), an array or a "
        f"list; a tensor ({clips}, {frames}), one number a frame; or a Score of the {them}"
    )


def _fitting(score: Score, samples: Samples, want: str) -> Score:
    """Return the score if it is a score of these clips, or raise ValueError."""
    clips = samples.video.shape[:2]
    if len(score.value) != clips[0]:
        raise ValueError(f"{want}, got a Score of {len(score.value)} clips")
    if score.frames is not None and score.frames.shape != clips:
        raise ValueError(
            f"{want}, got a Score with frames of shape {tuple(score.frames.shape)}: frames has "
            f"one number for each frame of each clip, {tuple(clips)}, or is None"
        )
    if len(score.why) != clips[0]:
        raise ValueError(
            f"{want}, got a Score with {len(score.why)} reasons: "
            "why has one for each clip, or is empty"
        )
    return score


def _explained(score: Score, name: str) -> Score:
    """Return the score with a reason for each clip that has no value."""
    lost = score.value.isnan().tolist()
    if not any(gone and not reason for gone, reason in zip(lost, score.why, strict=True)):
        return score
    default = f"unscored: {name} returned NaN or infinity"
    return replace(
        score,
        why=[r or (default if gone else None) for gone, r in zip(lost, score.why, strict=True)],
    )


def _numbers(returned: Any, want: str) -> Tensor:
    """Return numbers as a tensor of at least float32, with NaN for None."""
    if isinstance(returned, list | tuple):
        if any(isinstance(number, str | bytes | dict) for number in returned):
            raise ValueError(f"{want}, got {_description(returned)}")
        returned = [math.nan if number is None else number for number in returned]
    elif not isinstance(returned, Tensor | np.ndarray):
        raise ValueError(f"{want}, got {_description(returned)}")
    try:
        numbers = (
            returned
            if isinstance(returned, Tensor)
            else torch.as_tensor(np.asarray(returned, dtype=np.float64)).float()
        )
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{want}, got {_description(returned)}") from None
    if numbers.is_complex():
        raise ValueError(f"{want}, got complex numbers")
    return numbers if numbers.dtype in (torch.float32, torch.float64) else numbers.float()


def _description(returned: Any) -> str:
    """Return a description of what a reward returned, for an error message."""
    if isinstance(returned, Tensor | np.ndarray):
        kind = "an array" if isinstance(returned, np.ndarray) else "a tensor"
        return f"{kind} of shape {tuple(returned.shape)}"
    if isinstance(returned, list | tuple):
        types = ", ".join(sorted({type(number).__name__ for number in returned}))
        return f"a {type(returned).__name__} of {len(returned)}: {types}"
    return (
        "None: the function has no return"
        if returned is None
        else f"{returned!r:.60} ({type(returned).__name__})"
    )


def _cure(numbers: Tensor, samples: Samples) -> str:
    """Return the cure for numbers of another shape."""
    clips, frames = samples.video.shape[:2]
    if numbers.dim() == 2 and numbers.shape == (clips, 1):
        return "take its last axis away with squeeze(1)"
    if numbers.dim() == 0:
        return (
            "do not average over the clips; samples.frames.mean((1, 2, 3, 4)) has one number a clip"
        )
    if numbers.dim() > 2 and len(numbers) == clips:
        return "average over the axes after the first, or after the first two"
    if numbers.dim() == 2 and len(numbers) == clips:
        return (
            f"a curve has a number for each of the {frames} frames; "
            "average it over its last axis for one a clip"
        )
    return "one number for each clip"
