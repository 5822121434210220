"""Parts that a composite leaves out of a clip, as of an image those that need time; and why
a clip has no score.

Shapes: B clips.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .score import STILL, Score


def left_out(score: Score) -> dict[str, str]:
    """The parts, and the parts of parts, that need more frames than an image has, each with
    its reason.

    A composite leaves them out of the value of an image.

    >>> lost = Score(torch.tensor([float("nan")]), why=["inapplicable to an image: needs a clip of at least 4 frames"])
    >>> left_out(Score(torch.tensor([0.5]), parts={"sharpness": Score(torch.tensor([0.5])), "jerk": lost}))
    {'jerk': 'inapplicable to an image: needs a clip of at least 4 frames'}
    """
    found: dict[str, str] = {}
    for name, part in score.parts.items():
        inner = {f"{name}/{below}": why for below, why in left_out(part).items()}
        still = [str(why) for why in part.why if str(why).startswith(STILL)]
        found |= {name: still[0]} if still and len(still) == len(part.why) else inner
    return found


def where(score: Score, begins: str) -> Tensor:
    """Which clips have a reason that begins so, bool (B,)."""
    return torch.tensor(
        [str(why).startswith(begins) for why in score.why], device=score.value.device
    )


def reason(
    parts: Mapping[str, Score], optional: Sequence[str], i: int, counted: Mapping[str, Score]
) -> str | None:
    """Why clip `i` has no composite: the first part that is not scored, unless that part
    may be left out.

    Of an image those parts may be left out that need more frames. `counted` are the parts
    that weigh something: where all of these are left out, there is nothing to add up.
    """
    reasons = [
        (name, str(score.why[i])) for name, score in parts.items() if score.why[i] is not None
    ]
    fatal = [
        (name, why)
        for name, why in reasons
        if not (why.startswith(STILL) or (name in optional and why.startswith("inapplicable")))
    ]
    nothing = all(score.why[i] is not None for score in (counted or parts).values())
    left = fatal or (reasons if nothing else [])
    if not left:
        return None
    name, why = left[0]
    if len(left) > 1 and all(told.startswith(STILL) for _, told in left):
        return f"{STILL}: all parts that count need more than one frame: {', '.join(one for one, _ in left)}"
    kind, colon, rest = why.partition(": ")
    return f"{kind}: {name}: {rest}" if colon else f"unscored: {name}: {why}"
