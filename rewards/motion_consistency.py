"""Motion that goes on as it went: steady, and agreed on by both directions of time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ._prompts.motion_words import camera, rests
from .base import Card, Reward, Samples
from .flow import Motion, length, warp


class MotionConsistency(Reward):
    """How steadily things move: near 1 for smooth motion, about 0 for stillness, shaking,
    noise, repeated frames.

    The camera's own motion is taken off first, unless the prompt speaks of the camera: a
    pan over a still is a still. For four frames in a row, f the flow from the second to the
    third, b that back to the first, f' the flow from the third to the fourth and a = f + b,
    a' the accelerations, all followed to the second frame; g the squared strength of edges:
    steady = sum g (S - |a' - a|) / sum g (S + still), S = |f| + |b| + |f'|, at least -1.
    Constant acceleration is steady, so turning and falling cost little. It is multiplied by
    (1 + agreement) / 2, agreement = 1 - sum g |f + w| / sum g (|f| + |w| + still), w the
    flow back at x + f. `still`, in diagonals a second, is the speed that counts as none.
    Where the prompt asks for rest it is sum g 8 still / sum g (|f| + |b| + 8 still): 1 for
    stillness. A term is four frames, credited to the middle two.

    >>> MotionConsistency()(Samples(torch.rand(1, 1, 3, 32, 32).expand(1, 5, 3, 32, 32), [""], 8.0)).value
    tensor([0.])
    """

    needs = ("cv2",)
    lowered_by = ("freeze", "duplicate", "stutter", "shake", "shuffle")
    range = (-1.0, 1.0)
    support = "pair"
    reach = 3
    shrinks = True
    rate = 8.0
    card = Card(
        sees="Whether motion goes on as it went, and both directions of time agree on it.",
        blind_to="How much moves, and whether it should. Bouncing off a wall costs a little: compare equal prompts.",
        hacks="A thing on plain ground that a pan pretends to move; a running average, which evens motion out.",
        input="At least 4 frames of 8 pixels.",
    )

    def __init__(self, still: float = 0.005, flow: str = "dis", flow_size: int = 192) -> None:
        super().__init__()
        self.still = still
        self.flow, self.flow_size = flow, flow_size

    def terms(self, samples: Samples) -> Tensor:
        """One number for four frames in a row, (B, F - 3)."""
        weight = self.motion(samples).weight
        motion = without_camera(self.motion(samples), samples.prompts)
        still = self.still * motion.diagonal / samples.fps
        going = (
            steadiness(motion, still, weight) * (1 + agreement(motion, still, weight)[:, 1:-1]) / 2
        )
        rest = torch.tensor([rests(prompt) for prompt in samples.prompts], device=going.device)
        if not rest.any():
            return going
        return torch.where(rest[:, None], stillness(motion, 8 * still), going)


def without_camera(motion: Motion, prompts: Sequence[str]) -> Motion:
    """The same frames, and the flow less the camera's where the prompt does not speak of
    it."""
    keep = torch.tensor([camera(prompt) for prompt in prompts], device=motion.forward.device)[
        :, None, None, None, None
    ]
    forward = motion.forward - motion.camera_forward.masked_fill(keep, 0)
    return replace(
        motion,
        forward=forward,
        backward=motion.backward - motion.camera_backward.masked_fill(keep, 0),
    )


def steadiness(motion: Motion, still: float, weight: Tensor | None = None) -> Tensor:
    """sum g (S - |a' - a|) / sum g (S + still) of the second of four frames, at least -1,
    (B, F - 3)."""
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
    """sum g still / sum g (|f| + |b| + still) of the second of four frames, 1 where nothing
    shows, (B, F - 3)."""
    weight = motion.ink[:, 1:-2] + 1e-9
    total = length(motion.forward[:, 1:-1]) + length(motion.backward[:, :-2]) + still
    return still * weight.sum((2, 3)) / (weight * total).sum((2, 3))


def agreement(motion: Motion, still: float, weight: Tensor | None = None) -> Tensor:
    """1 - sum g |f + w| / sum g (|f| + |w| + still), w the flow back at x + f, in [0, 1],
    (B, F - 1)."""
    returned = motion.returned
    weight = (motion.weight if weight is None else weight)[:, :-1]
    total = (
        (weight * (length(motion.forward) + length(returned) + still)).sum((2, 3)).clamp(min=1e-12)
    )
    return 1 - (weight * length(motion.forward + returned)).sum((2, 3)) / total
