"""A reward for steady motion on which both directions of time agree."""

from __future__ import annotations

import torch
from torch import Tensor

from ._flow.things import without_camera
from ._prompts.motion_words import asks_for_rest
from .base import Card, Reward, Samples
from .flow import Motion, length, warp


class MotionConsistency(Reward):
    """How steadily things move: near 1 for smooth motion, near 0 for stillness or shaking.

    The range is [-1, 1]; noise and repeated frames also get about 0. The camera's motion is
    subtracted first, unless the prompt asks for camera motion: a pan over a still counts as
    a still.

    For four frames in a row, let f be the flow from the second to the third frame, b the
    flow from the second back to the first, and f' the flow from the third to the fourth. a
    = f + b is the acceleration and a' the acceleration one frame later; all are followed
    back to the second frame. g is the squared strength of edges. With S = |f| + |b| + |f'|,

      steady = max(-1, sum g (S - |a' - a|) / sum g (S + still)).

    Constant acceleration is steady, so turning and falling cost little. `still`, in
    diagonals a second, is the speed below which a thing counts as still. With w the flow
    back at x + f,

      agreement = 1 - sum g |f + w| / sum g (|f| + |w| + still).

    The term is steady (1 + agreement) / 2. Where the prompt asks for rest, the term is
    instead sum g 8 still / sum g (|f| + |b| + 8 still), which is 1 for stillness. A term
    reads four frames and is credited to the middle two.

    >>> still = torch.rand(1, 1, 3, 32, 32).expand(1, 5, 3, 32, 32)
    >>> MotionConsistency()(Samples(still, [""], 8.0)).value
    tensor([0.])
    """

    needs = ("cv2",)
    lowered_by = ("freeze", "duplicate", "stutter", "shake", "shuffle")
    range = (-1.0, 1.0)
    time_support = "pair"
    lookahead = 3
    shrinks = True
    rate = 8.0
    card = Card(
        sees="Whether motion continues as it began, and whether both directions of time agree "
        "on it.",
        blind_to="How much moves, and whether it should. A bounce off a wall costs a little: "
        "compare clips of equal prompts.",
        hacks="A thing on a background without texture that a pan seems to move; a running "
        "average over frames, which makes motion even.",
        input="At least 4 frames of 8 pixels.",
    )

    def __init__(self, still: float = 0.005, flow: str = "auto", flow_size: int = 192) -> None:
        super().__init__()
        self.still = still
        self.flow, self.flow_size = flow, flow_size

    def terms(self, samples: Samples) -> Tensor:
        """Return one number for four frames in a row, (B, F - 3)."""
        weight = self.motion(samples).weight
        motion = without_camera(self, samples)
        still = self.still * motion.diagonal / samples.fps
        going = (
            steadiness(motion, still, weight) * (1 + agreement(motion, still, weight)[:, 1:-1]) / 2
        )
        rest = torch.tensor(
            [asks_for_rest(prompt) for prompt in samples.prompts], device=going.device
        )
        if not rest.any():
            return going
        # 8: a clip that should rest and moves at the speed `still` keeps 0.8
        return torch.where(rest[:, None], stillness(motion, 8 * still), going)


def steadiness(motion: Motion, still: float, weight: Tensor | None = None) -> Tensor:
    """Return `steady` of `MotionConsistency` at the second of four frames, (B, F - 3)."""
    onward, back = motion.forward[:, 1:], motion.backward[:, :-1]
    change = onward + back
    step = onward[:, :-1]
    jerk = length(warp(change[:, 1:], step, "bilinear") - change[:, :-1])
    total = length(step) + length(back[:, :-1]) + length(warp(onward[:, 1:], step, "bilinear"))
    weight = (motion.weight if weight is None else weight)[:, 1:-2]
    ratio = (weight * (total - jerk)).sum((2, 3)) / (weight * (total + still)).sum((2, 3)).clamp(
        min=1e-12
    )
    return ratio.clamp(min=-1)


def stillness(motion: Motion, still: float) -> Tensor:
    """Return how still the second of four frames is, in [0, 1], (B, F - 3).

    The formula is sum g still / sum g (|f| + |b| + still); 1 for a picture without edges.
    """
    weight = motion.ink[:, 1:-2] + 1e-9
    total = length(motion.forward[:, 1:-1]) + length(motion.backward[:, :-2]) + still
    return still * weight.sum((2, 3)) / (weight * total).sum((2, 3))


def agreement(motion: Motion, still: float, weight: Tensor | None = None) -> Tensor:
    """Return `agreement` of `MotionConsistency` for each pair, in [0, 1], (B, F - 1)."""
    returned = motion.returned
    weight = (motion.weight if weight is None else weight)[:, :-1]
    total = (
        (weight * (length(motion.forward) + length(returned) + still)).sum((2, 3)).clamp(min=1e-12)
    )
    return 1 - (weight * length(motion.forward + returned)).sum((2, 3)) / total
