"""A reward that wants things, rather than the camera, to move enough and not too much."""

from __future__ import annotations

import torch
from torch import Tensor

from ._flow import kernels, planes
from ._flow.things import without_camera
from ._prompts.motion_words import asked_pace, asks_for_rest
from .base import Card, Reward, Samples
from .flow import Motion, around, length, squares


class DynamicDegree(Reward):
    """Whether things move at a wanted speed: 1 inside a wide band, less on both sides.

    Let f and b be the flows from the middle of three frames to the next and to the previous
    frame, less the camera's motion, each averaged along the edges nearby. The lasting speed
    of a pixel is (|f - b| - |f + b|) / 2, which is 0 for a thing that shakes around one
    place. The speed of a clip is that of the fastest 5 % of the pixels near edges, in
    diagonals a second.

    `low` and `high` bound the band. A word of pace in the prompt moves both bounds
    ("slowly" halves them, "quickly" doubles them). The camera's motion counts fully where
    the prompt asks for it; in other prompts a moving camera earns `camera` times what a
    thing of that speed would earn. Where the prompt asks for rest, any speed below `low`
    gets 1.

    With u = speed / low, a term is min(1, 1.5 u^2 / (u^2 + 0.5)), times high / speed above
    `high`. It is multiplied by exp(-(a - 0.005) / 0.02) where the camera jumps by more than
    0.005 diagonals, a, from one frame to the next. A term reads three frames and is
    credited to the middle frame. The range is [0, 1]; a still gets 0.

    >>> still = torch.rand(1, 1, 3, 32, 32).expand(1, 5, 3, 32, 32)
    >>> DynamicDegree()(Samples(still, [""], 8.0)).value
    tensor([0.])
    """

    needs = ("cv2",)
    lowered_by = ("freeze", "duplicate", "grey")
    range = (0.0, 1.0)
    time_support = "pair"
    lookahead = 2
    shrinks = True
    rate = 8.0
    card = Card(
        sees="How fast things move relative to the camera, compared with a wide band that the "
        "words of the prompt move.",
        blind_to="All speeds inside its band, on purpose: it neither speeds up slow motion nor "
        "slows down quick motion.",
        hacks="Any lasting motion that is fast enough, whatever moves. In slow clips of few "
        "frames a second, repeated frames double the speed between the others.",
        input="At least 3 frames of 8 pixels.",
    )

    def __init__(
        self,
        low: float = 0.03,
        high: float = 1.0,
        camera: float = 0.2,
        flow: str = "auto",
        flow_size: int = 192,
    ) -> None:
        super().__init__()
        if not 0 < low < high:
            raise ValueError(
                f"expected 0 < low < high, speeds in diagonals a second, got low={low}, high={high}"
            )
        self.low, self.high = low, high
        self.camera = camera
        self.flow, self.flow_size = flow, flow_size

    def terms(self, samples: Samples) -> Tensor:
        """Return one number for three frames in a row, (B, F - 2)."""
        motion = self.motion(samples)
        unit, moving = samples.fps / motion.diagonal, without_camera(self, samples)
        found = zip(speeds(moving, motion.hold) * unit, panned(motion) * unit, samples.prompts)
        return torch.stack([self._wanted(*row) for row in found]) * calm(motion)

    def _wanted(self, speed: Tensor, pan: Tensor, prompt: str) -> Tensor:
        """Return how well the speeds of one clip, (F - 2,), fit its prompt, from 0 to 1."""
        if asks_for_rest(prompt):
            return (self.low / speed.clamp(min=1e-6)).clamp(max=1)
        low, high = self.low * asked_pace(prompt), self.high * asked_pace(prompt)
        return torch.maximum(band(speed, low, high), self.camera * band(pan, low, high))


def band(speed: Tensor, low: float, high: float) -> Tensor:
    """Return 1 in [low, high], falling to 0 on both sides.

    >>> band(torch.tensor([0.0, 1.0, 2.0, 4.0, 8.0]), 1.0, 4.0)
    tensor([0.0000, 1.0000, 1.0000, 1.0000, 0.5000])
    """
    square = (speed / low) ** 2
    return (1.5 * square / (square + 0.5)).clamp(max=1) * (high / speed.clamp(min=high))


def calm(motion: Motion, slack: float = 0.005, scale: float = 0.02) -> Tensor:
    """Return 1 for a camera that rests or glides, less for one that jumps, (B, F - 2)."""
    # flows to the next and to the previous frame are opposite, and their sum 0, if motion is even
    jump = _camera(motion)[0] / motion.diagonal
    return torch.exp(-(jump - slack).clamp(min=0) / scale)


def panned(motion: Motion) -> Tensor:
    """Return the mean lasting speed of the camera, pixels a frame, (B, F - 2)."""
    return _camera(motion)[1]


def _camera(motion: Motion) -> tuple[Tensor, Tensor]:
    """Return how much the camera's motion changes, and how much of it lasts, (B, F - 2) each."""
    onward, back = motion.camera_forward[:, 1:], motion.camera_backward[:, :-1]
    if planes.fits(onward, back):
        return kernels.lasting_means(onward, back)
    change = length(onward + back)
    lasting = (length(onward - back) - change).clamp(min=0) / 2
    return change.mean((-2, -1)), lasting.mean((-2, -1))


def speeds(moving: Motion, hold: Tensor, share: float = 0.05) -> Tensor:
    """Return the lasting speed of the fastest `share` of pixels, (B, F - 2).

    The unit is pixels a frame. `moving` is the motion that counts, and `hold` is where edges
    hold the flow.
    """
    # flow is reliable near edges only ("ink"), so the flow there is spread over the neighbourhood
    ink = moving.ink[:, 1:-1]
    onward, back = moving.forward[:, 1:], moving.backward[:, :-1]
    lasting = _lasting(onward, back, ink) * hold[:, 1:-1]
    fastest = lasting.flatten(2)
    return fastest.topk(max(1, round(share * fastest.shape[2])), dim=2).values.mean(2)


def _lasting(onward: Tensor, back: Tensor, ink: Tensor, window: float = 0.1) -> Tensor:
    """Return the lasting speed of each pixel along the edges nearby, (B, T, H, W)."""
    if planes.fits(onward, back, ink):
        return kernels.lasting(onward, back, ink, *squares(ink, window))
    near, ink = around(ink[:, :, None], window), ink[:, :, None]
    onward, back = (around(x * ink, window) / near.clamp(min=1e-12) for x in (onward, back))
    return (length(onward - back) - length(onward + back)).clamp(min=0) / 2
