"""Plain functions of samples are wrapped here, so that they can be used as rewards."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from ..base import Reward, refusals
from .samples import Samples
from .score import Score, as_score

# The parameters of the second signature that is accepted, beside fn(samples).
THREE = ("video", "prompts", "fps")


class Plain(Reward):
    """A reward that calls a function `fn(samples) -> tensor | Score`; see `as_score`.

    A function of three arguments is called as `fn(video (B, F, C, H, W) float in [0, 1],
    prompts, fps)`. No gradient is kept. A clip with NaN or infinity in its frames is
    unscored whatever the function returns. Raises ValueError where the function can be
    called in neither way.

    >>> bright = Plain(lambda samples: samples.frames.mean((1, 2, 3, 4)), "bright")
    >>> bright(Samples(torch.full((2, 3, 3, 8, 8), 0.5), ["", ""], 8.0)).value
    tensor([0.5000, 0.5000])
    """

    time_support = "clip"

    def __init__(self, fn: Callable[..., Any], name: str = "") -> None:
        super().__init__()
        self.fn, self.name = fn, name or getattr(fn, "__name__", type(fn).__name__)
        self.takes_three = takes_three(fn, self.name)

    def forward(self, samples: Samples) -> Score:
        """Return the score of whole clips."""
        given = (
            (samples.frames, list(samples.prompts), samples.fps) if self.takes_three else (samples,)
        )
        score = as_score(self.fn(*given), samples, self.name)
        faults = refusals(samples, 1, 1)
        if not any(faults):
            return score
        lost = torch.tensor([fault is not None for fault in faults], device=score.value.device)
        curve = None if score.frames is None else score.frames.masked_fill(lost[:, None], math.nan)
        why = [fault or reason for fault, reason in zip(faults, score.why, strict=True)]
        return replace(score, value=score.value.masked_fill(lost, math.nan), frames=curve, why=why)


def takes_three(fn: Callable[..., Any], name: str) -> bool:
    """Return whether a function is called as fn(video, prompts, fps).

    If not, it is called as fn(samples). Raises ValueError where neither call fits.

    >>> takes_three(lambda samples: 0, "one"), takes_three(lambda video, prompts, fps: 0, "three")
    (False, True)
    """
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):  # some built-in functions have no signature
        return False
    positional = [
        p
        for p in signature.parameters.values()
        if p.kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    ]
    required = sum(p.default is inspect.Parameter.empty for p in positional)
    three = required == len(THREE) or tuple(p.name for p in positional[:3]) == THREE
    try:
        signature.bind(*([None] * (len(THREE) if three else 1)))
    except TypeError:
        raise ValueError(
            f"expected a function fn(samples) of one argument, got {name}{signature}: "
            "read samples.frames (B, F, C, H, W), samples.prompts and samples.fps in it"
        ) from None
    return three


def as_reward(reward: Any, name: str = "") -> Reward:
    """Return a Reward as it is, and any other callable wrapped as a Reward.

    Raises ValueError for a class, where an instance is expected, and for an object that
    cannot be called.

    >>> as_reward(lambda samples: samples.frames.mean((2, 3, 4)), "bright").time_support
    'clip'
    """
    if isinstance(reward, Reward):
        return reward
    want = "expected a Reward or a function fn(samples) that returns one number a clip"
    if isinstance(reward, type):
        raise ValueError(
            f"{want}, got the class {reward.__name__}: make an instance, as {reward.__name__}()"
        )
    if not callable(reward):
        cure = (
            f": vidrl.rewards.load({reward!r}) loads a reward by its name"
            if isinstance(reward, str)
            else ""
        )
        raise ValueError(f"{want}, got {type(reward).__name__}{cure}")
    return Plain(reward, name)
