"""A reward that finds sharpness that pumps: frames that are sharp and soft in turn."""

from __future__ import annotations

from torch import Tensor

from .base import Card, Reward, Samples


class Pumping(Reward):
    """Minus how much sharpness goes up and down from frame to frame; 0 means not at all.

    The term is -ln(1 + |ln D_n + ln D_p - 2 ln D_c| / floor). D is the mean squared slope
    of a frame over two pixels; c is the middle of three frames, p the previous and n the
    next, at the clip's own rate. The range is [-8, 0].

    `floor` is a jump that people do not see: a twelfth of D, which is 4 % of the contrast
    of edges, about as much as codecs and grain cause. The reward finds blended frames
    between sharp ones, as in slow motion and after rate conversion, and decoders that
    render some frames of a group better than others. It needs no flow, because moving
    things keep their edges. Frames are measured at a shorter side of at most 192. A term
    reads three frames and is credited to the middle frame.

    >>> import torch
    >>> Pumping()(Samples(torch.full((1, 5, 3, 32, 32), 0.5), [""], 8.0)).value.abs()
    tensor([0.])
    """

    differentiable = True
    version = "2"  # 2: jumps below a twelfth hardly count, because people hardly see them
    lowered_by = ("slow", "flicker")
    range = (-8.0, 0.0)
    time_support = "pair"
    lookahead = 2
    shrinks = True
    card = Card(
        sees="Sharp and soft frames in turn: blended slow motion, converted frame rates, "
        "decoders that pump.",
        blind_to="Everything except sharpness; a blur that stays or comes slowly; where in the "
        "picture the blur is.",
        hacks="Freezing; blurring every frame alike. Add dynamic_degree and frame_quality.",
        input="At least 3 frames of 8 pixels, at the original frame rate.",
        cost="0.4 ms a frame of 192 x 341 pixels.",
    )

    def __init__(self, floor: float = 0.08) -> None:
        super().__init__()
        self.floor = floor

    def terms(self, samples: Samples) -> Tensor:
        """Return one number for three frames in a row, (B, F - 2)."""
        # 1e-5: a plain picture has a finite logarithm
        jump = (self.energy(samples) + 1e-5).log().diff(n=2, dim=1).abs()
        return -(1 + jump / self.floor).log()
