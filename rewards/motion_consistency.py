"""Motion that goes on as it went: steady, agreed on by both directions of time."""

from __future__ import annotations

import torch
from torch import Tensor

from ._prompts import rests
from .base import Reward, Samples
from .flow import Motion, length, warp


class MotionConsistency(Reward):
    """How steadily things move: 1 at constant velocity, 0 for stillness, shaking, noise or repeated frames.

    For three frames in a row, f the flow from the middle one to the next, b to the one before, g the strength of edges
    as weight: steady = sum g (|f - b| - |f + b|) / sum g (|f| + |b| + still), because constant velocity has b = -f.
    It is multiplied by the agreement 1 - sum g |f(x) + w(x + f)| / sum g (|f| + |w| + still) of the flow with the flow
    back, w. `still` is the speed, in diagonals a second, that counts as none. Where the prompt asks for rest, stillness
    is what is steady, and gets 1. A term is three frames, credited to the middle one.

    >>> MotionConsistency()(Samples(torch.rand(1, 1, 3, 32, 32).expand(1, 5, 3, 32, 32), [""], 8.0)).value
    tensor([0.])
    """

    needs = ("cv2",)
    lowered_by = ("freeze", "duplicate", "stutter", "shake", "shuffle")
    range = (-1.0, 1.0)
    support = "pair"
    reach = 2
    card = "Pleased by any smooth motion, a camera's too. Turning and bouncing cost a little: compare equal prompts."

    def __init__(self, still: float = 0.01, flow: str = "dis", flow_size: int = 192) -> None:
        super().__init__()
        self.still, self.flow, self.flow_size = still, flow, flow_size

    def terms(self, samples: Samples) -> Tensor:
        """One number for three frames in a row, (B, F - 2)."""
        motion = self.motion(samples)
        still = self.still * motion.diagonal / samples.fps
        agree = agreement(motion, still)
        agree = (agree[:, 1:] + agree[:, :-1]) / 2
        rest = torch.tensor([rests(prompt) for prompt in samples.prompts], device=agree.device)
        return steadiness(motion, still, rest) * torch.where(rest[:, None], 1.0, agree)


def steadiness(motion: Motion, still: float, rest: Tensor) -> Tensor:
    """sum g (|f - b| - |f + b|) / sum g (|f| + |b| + still), (B, F - 2); `rest` (B,) adds `still` above the line."""
    onward, back, weight = motion.forward[:, 1:], motion.backward[:, :-1], motion.structure[:, 1:-1]
    kept = length(onward - back) - length(onward + back) + still * rest[:, None, None, None]
    total = length(onward) + length(back) + still
    return (weight * kept).sum((2, 3)) / (weight * total).sum((2, 3)).clamp(min=1e-12)


def agreement(motion: Motion, still: float) -> Tensor:
    """1 - sum g |f + w| / sum g (|f| + |w| + still), w the flow back at x + f, (B, F - 1)."""
    returned = warp(motion.backward, motion.forward)
    weight = motion.structure[:, :-1]
    total = (weight * (length(motion.forward) + length(returned) + still)).sum((2, 3)).clamp(min=1e-12)
    return 1 - (weight * length(motion.forward + returned)).sum((2, 3)) / total
