"""What a reward returns: a Score, or what can be read as one.

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
# how the reason begins why a reward that needs time does not score one frame
STILL = "inapplicable to an image"


@dataclass
class Score:
    """What a reward says: one number a clip, higher is better, and where in time it comes
    from.

    `value` (B,): NaN means not scored, never a made-up number, and `why` says the reason.
    `frames` (B, F) has `value` as its mean over time; a pair of frames gives half of what
    it adds to or takes from that mean to each of the two. `frames` is None where the reward
    does not say where in time its value comes from. `support` says what one entry of
    `frames` looks at: "frame", "pair" (its neighbours), "prefix" (all frames up to it) or
    "clip". `parts` are the scores of a Composite's parts, `weights` their weights, and
    `slopes` (B,) how much the value rises with each part's; `adds` (B, 2) are what each
    part adds to the value before gates multiply it, and how much that rises with the part's
    value. `maps` (B, F, H, W), made on request, say where in the picture: NaN where a frame
    has none; what lies between two frames stands on the first.
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
    """Scores of several batches as one; it has a curve where all of them have one."""
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


def as_score(said: Any, samples: Samples, name: str) -> Score:
    """What the reward `name` returned for `samples`, as a Score of its clips.

    A tensor, array or list of N numbers is the value of N clips; one of shape (N, F) is a
    curve over the frames, each entry of which is taken to look at its own frame, and the
    value is its mean. A number that is not finite leaves its clip unscored, as None in a
    list does. Raises ValueError for anything else, and for a Score of other clips.

    >>> as_score([0.5, None], Samples(torch.zeros(2, 3, 1, 8, 8), ["", ""], 8.0), "mine").why
    [None, 'unscored: mine returned NaN or infinity']
    """
    want = _wanted(samples, name)
    if isinstance(said, Score):
        return _explained(_fitting(said, samples, want), name)
    numbers = _numbers(said, want).to(samples.video.device)
    clips, frames = samples.video.shape[:2]
    if numbers.shape not in ((clips,), (clips, frames)):
        raise ValueError(f"{want}, got {_told(said)}: {_cure(numbers, samples)}")
    curve = numbers if numbers.dim() == 2 else None
    value = numbers if curve is None else curve.mean(1)
    value = value.masked_fill(value.isinf(), math.nan)
    return _explained(Score(value, curve, "clip" if curve is None else "frame"), name)


def _wanted(samples: Samples, name: str) -> str:
    clips, frames = samples.video.shape[:2]
    numbers, them = ("1 number", "1 clip") if clips == 1 else (f"{clips} numbers", f"{clips} clips")
    return (
        f"expected {name} to return {numbers}, one a clip, as a tensor ({clips},), an array or a list; a tensor "
        f"({clips}, {frames}), one number a frame; or a Score of the {them}"
    )


def _fitting(score: Score, samples: Samples, want: str) -> Score:
    """The score, if it is one of these clips."""
    clips = samples.video.shape[:2]
    if len(score.value) != clips[0]:
        raise ValueError(f"{want}, got a Score of {len(score.value)} clips")
    if score.frames is not None and score.frames.shape != clips:
        raise ValueError(
            f"{want}, got a Score with frames of shape {tuple(score.frames.shape)}: frames has one number "
            f"for each frame of each clip, {tuple(clips)}, or is None"
        )
    if len(score.why) != clips[0]:
        raise ValueError(
            f"{want}, got a Score with {len(score.why)} reasons: why has one for each clip, or is empty"
        )
    return score


def _explained(score: Score, name: str) -> Score:
    """The score, with a reason for each clip that has no value."""
    lost = score.value.isnan().tolist()
    if not any(gone and not reason for gone, reason in zip(lost, score.why, strict=True)):
        return score
    given = f"unscored: {name} returned NaN or infinity"
    return replace(
        score, why=[r or (given if gone else None) for gone, r in zip(lost, score.why, strict=True)]
    )


def _numbers(said: Any, want: str) -> Tensor:
    """The numbers as a tensor of at least float32; None is NaN."""
    if isinstance(said, list | tuple):
        if any(isinstance(one, str | bytes | dict) for one in said):
            raise ValueError(f"{want}, got {_told(said)}")
        said = [math.nan if one is None else one for one in said]
    elif not isinstance(said, Tensor | np.ndarray):
        raise ValueError(f"{want}, got {_told(said)}")
    try:
        numbers = (
            said
            if isinstance(said, Tensor)
            else torch.as_tensor(np.asarray(said, dtype=np.float64)).float()
        )
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{want}, got {_told(said)}") from None
    if numbers.is_complex():
        raise ValueError(f"{want}, got complex numbers")
    return numbers if numbers.dtype in (torch.float32, torch.float64) else numbers.float()


def _told(said: Any) -> str:
    """What came, as an error message says it."""
    if isinstance(said, Tensor | np.ndarray):
        return f"a{'n array' if isinstance(said, np.ndarray) else ' tensor'} of shape {tuple(said.shape)}"
    if isinstance(said, list | tuple):
        return f"a {type(said).__name__} of {len(said)}: {', '.join(sorted({type(one).__name__ for one in said}))}"
    return (
        "None: the function has no return"
        if said is None
        else f"{said!r:.60} ({type(said).__name__})"
    )


def _cure(numbers: Tensor, samples: Samples) -> str:
    """The cure for numbers of another shape."""
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
        return f"a curve has a number for each of the {frames} frames; average it over its last axis for one a clip"
    return "one number for each clip"
