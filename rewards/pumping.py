"""Sharpness that pumps: frames that are crisp and soft by turns."""

from __future__ import annotations

from torch import Tensor

from .base import Card, Reward, Samples
from .flow import energy, shrink


class Pumping(Reward):
    """How much sharpness jumps about its own trend from frame to frame, at the clip's own
    rate; 0 is none.

    -ln(1 + |ln D_n + ln D_p - 2 ln D_c| / floor), D the mean squared slope of a frame over
    two pixels: c is the middle of three frames, p and n those before and after. `floor` is
    a jump that nobody sees: a twelfth of D, 4 % of the contrast of edges, about what codecs
    and grain move it by. Blended frames between crisp ones, as slow motion and rate
    conversion make them, and decoders that serve some frames of a group better show so.
    Needs no flow: what moves keeps its edges. Measured on frames whose shorter side is at
    most 192. A term is three frames, credited to the middle one.

    >>> import torch
    >>> Pumping()(Samples(torch.full((1, 5, 3, 32, 32), 0.5), [""], 8.0)).value.abs()
    tensor([0.])
    """

    differentiable = True
    version = "2"  # 2: jumps below a twelfth are hardly seen
    lowered_by = ("slow", "flicker")
    range = (-8.0, 0.0)
    time_support = "pair"
    lookahead = 2
    shrinks = True
    card = Card(
        sees="Crisp and soft frames by turns: blended slow motion, converted frame rates, decoders that pump.",
        blind_to="Anything but sharpness; a blur that stays or comes slowly; where in the picture it is.",
        hacks="Freezing; blurring every frame alike. Pair it with dynamic_degree and frame_quality.",
        input="At least 3 frames of 8 pixels, at the rate they were made at.",
        cost="0.4 ms a frame of 192 x 341 pixels.",
    )

    def __init__(self, floor: float = 0.08) -> None:
        super().__init__()
        self.floor = floor

    def terms(self, samples: Samples) -> Tensor:
        """One number for three frames in a row, (B, F - 2)."""
        jump = (
            energy(shrink(samples.small(self.working_size), self.working_size))
            .log()
            .diff(n=2, dim=1)
            .abs()
        )
        return -(1 + jump / self.floor).log()
