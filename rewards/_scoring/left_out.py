"""Parts that a composite leaves out of a clip, and reasons why a clip has no score.

A composite leaves parts that need time out of an image. Shapes: B clips.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .score import STILL, Score


def left_out(score: Score) -> dict[str, str]:
    """Return the parts that are left out of images, by name, with their reasons.

    These parts, and parts of parts, need more frames than an image has.

    >>> lost = Score(torch.tensor([float("nan")]), why=["inapplicable to an image: too short"])
    >>> parts = {"sharpness": Score(torch.tensor([0.5])), "jerk": lost}
    >>> left_out(Score(torch.tensor([0.5]), parts=parts))
    {'jerk': 'inapplicable to an image: too short'}
    """
    found: dict[str, str] = {}
    for name, part in score.parts.items():
        inner = {f"{name}/{below}": why for below, why in left_out(part).items()}
        still = [str(why) for why in part.why if str(why).startswith(STILL)]
        found |= {name: still[0]} if still and len(still) == len(part.why) else inner
    return found


def has_reason(score: Score, begin: str) -> Tensor:
    """Return which clips have a reason that begins with `begin`, bool (B,)."""
    return torch.tensor(
        [str(why).startswith(begin) for why in score.why], device=score.value.device
    )


def reason_of_clip(
    parts: Mapping[str, Score], optional: Sequence[str], i: int, counted: Mapping[str, Score]
) -> str | None:
    """Return the reason why clip `i` has no composite, or None.

    The reason is that of the first part that is not scored and may not be left out. Parts
    may be left out if an image has too few frames for them, or if they are `optional` and
    inapplicable. `counted` are the parts whose weight is not 0: where all of them are left
    out, there is nothing to add up, and the first reason of any part is returned.
    """
    reasons = [
        (name, str(score.why[i])) for name, score in parts.items() if score.why[i] is not None
    ]
    fatal = [
        (name, why)
        for name, why in reasons
        if not (why.startswith(STILL) or (name in optional and why.startswith("inapplicable")))
    ]
    none_counts = all(score.why[i] is not None for score in (counted or parts).values())
    left = fatal or (reasons if none_counts else [])
    if not left:
        return None
    name, why = left[0]
    if len(left) > 1 and all(other.startswith(STILL) for _, other in left):
        names = ", ".join(part for part, _ in left)
        return f"{STILL}: all parts that count need more than one frame: {names}"
    kind, colon, rest = why.partition(": ")
    return f"{kind}: {name}: {rest}" if colon else f"unscored: {name}: {why}"
