"""Enough motion and not too much, of things rather than of the camera."""

from __future__ import annotations

import torch
from torch import Tensor

from ._prompts.motion_words import camera, pace, rests
from .base import Card, Reward, Samples
from .flow import Motion, around, length


class DynamicDegree(Reward):
    """Whether things move as fast as is wanted: 1 inside a wide band of speeds, less on
    both sides, 0 for a still.

    Speed is that of lasting motion, (|f - b| - |f + b|) / 2 with f and b the flows from the
    middle of three frames to the next and to the one before, each averaged along the edges
    nearby, so that what shakes on the spot counts as still; of the fastest 5 % of pixels
    near edges, less the camera's own motion, in diagonals a second. `low` and `high` bound
    the band; a pace in the prompt moves it ("slowly" halves both, "quickly" doubles them);
    the camera counts where the prompt speaks of it, and else for `camera` of what a thing
    as fast would be worth. Where the prompt asks for rest, all that is wanted is less speed
    than `low`.

    With u = speed / low: 1.5 u^2 / (u^2 + 0.5), cut at 1, times high / speed above `high`;
    all of it times exp(-(a - 0.005) / 0.02) where the camera jerks by more than a = 0.005
    diagonals from one frame to the next. A term is three frames, credited to the middle
    one.

    >>> DynamicDegree()(Samples(torch.rand(1, 1, 3, 32, 32).expand(1, 5, 3, 32, 32), [""], 8.0)).value
    tensor([0.])
    """

    needs = ("cv2",)
    lowered_by = ("freeze", "duplicate", "grey")
    range = (0.0, 1.0)
    support = "pair"
    reach = 2
    shrinks = True
    rate = 8.0
    card = Card(
        sees="How fast things move, less the camera, against a wide band moved by the words of the prompt.",
        blind_to="Everything inside its band, on purpose: it neither hurries slow motion nor slows quick motion.",
        hacks="Any lasting motion fast enough, whatever moves. On slow footage of few frames a second, repeating "
        "frames doubles the speed between the others.",
        input="At least 3 frames of 8 pixels.",
    )

    def __init__(
        self,
        low: float = 0.03,
        high: float = 1.0,
        camera: float = 0.2,
        flow: str = "dis",
        flow_size: int = 192,
    ) -> None:
        super().__init__()
        if not 0 < low < high:
            raise ValueError(
                f"expected 0 < low < high, speeds in diagonals a second, got low={low}, high={high}"
            )
        self.low, self.high, self.camera, self.flow, self.flow_size = (
            low,
            high,
            camera,
            flow,
            flow_size,
        )

    def terms(self, samples: Samples) -> Tensor:
        """One number for three frames in a row, (B, F - 2)."""
        motion = self.motion(samples)
        with_camera = torch.tensor(
            [camera(prompt) for prompt in samples.prompts], device=motion.forward.device
        )
        unit = samples.fps / motion.diagonal
        found = zip(
            speeds(motion, with_camera) * unit, panned(motion) * unit, samples.prompts, strict=True
        )
        return torch.stack([self._wanted(*row) for row in found]) * calm(motion)

    def _wanted(self, speed: Tensor, pan: Tensor, prompt: str) -> Tensor:
        if rests(prompt):
            return (self.low / speed.clamp(min=1e-6)).clamp(max=1)
        low, high = self.low * pace(prompt), self.high * pace(prompt)
        return torch.maximum(band(speed, low, high), self.camera * band(pan, low, high))


def band(speed: Tensor, low: float, high: float) -> Tensor:
    """1 in [low, high], falling to 0 on both sides.

    >>> band(torch.tensor([0.0, 1.0, 2.0, 4.0, 8.0]), 1.0, 4.0)
    tensor([0.0000, 1.0000, 1.0000, 1.0000, 0.5000])
    """
    square = (speed / low) ** 2
    return (1.5 * square / (square + 0.5)).clamp(max=1) * (high / speed.clamp(min=high))


def calm(motion: Motion, slack: float = 0.005, scale: float = 0.02) -> Tensor:
    """1 for a camera that rests or glides, less for one that jumps, (B, F - 2)."""
    jump = (
        length(motion.camera_forward[:, 1:] + motion.camera_backward[:, :-1]).mean((-2, -1))
        / motion.diagonal
    )
    return torch.exp(-(jump - slack).clamp(min=0) / scale)


def panned(motion: Motion) -> Tensor:
    """Mean lasting speed of the camera, pixels a frame, (B, F - 2)."""
    onward, back = motion.camera_forward[:, 1:], motion.camera_backward[:, :-1]
    return (length(onward - back) - length(onward + back)).clamp(min=0).mean((-2, -1)) / 2


def speeds(motion: Motion, with_camera: Tensor, share: float = 0.05) -> Tensor:
    """Lasting speed of the fastest `share` of pixels, pixels a frame, (B, F - 2);
    `with_camera` (B,) bool."""
    ink = motion.ink[:, 1:-1, None]
    keep = with_camera[:, None, None, None, None]
    onward = motion.forward[:, 1:] - motion.camera_forward[:, 1:].masked_fill(keep, 0)
    back = motion.backward[:, :-1] - motion.camera_backward[:, :-1].masked_fill(keep, 0)
    near = around(ink, 0.1)
    onward, back = (around(x * ink, 0.1) / near.clamp(min=1e-12) for x in (onward, back))
    lasting = (length(onward - back) - length(onward + back)).clamp(min=0) / 2
    moving = (lasting * motion.hold[:, 1:-1]).flatten(2)
    return moving.topk(max(1, round(share * moving.shape[2])), dim=2).values.mean(2)
