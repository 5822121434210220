"""EvalCrafter's warping error, exactly as published, which is three times that of Lai."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .base import Card, Samples
from .flow import warp
from .vbench import Moving, Network, colour, padded_to, trusted, unit


class EvalcrafterWarpingError(Moving):
    """EvalCrafter's warping_error, negated so that higher is better; 0 is perfect.

    The value is -mean_t E_t. E_t is the sum over channels and pixels of ((I_{t+1}(x + f) -
    I_t(x)) n(x))^2, divided by the sum of n. f is the flow from frame t to t+1, and n is 1
    where the flow can be trusted, as in `lai_warping_error`. Pictures have values in [0,
    1], half the size, and are padded to multiples of 8. A term compares two neighbouring
    frames. The range is [-3, 0]; the published number is minus the value. A frozen clip
    gets 0.

    As published:

    - The sum has three channels and the divisor counts pixels, so E is three times that of
      Lai et al.
    - The padding counts as picture.
    - A pair where n is 0 everywhere counts 0, as if it were perfect.
    - RAFT divides its input by 255 but is given pictures in [0, 1], so that its flow is
      that of a nearly constant picture. `as_fed` = 255 gives RAFT what it expects, as other
      ports do; the numbers of the two cannot be compared.

    `network` is as in `vbench_dynamic_degree`; flow="raft:PATH" is torchvision's RAFT. The
    default is OpenCV's DIS flow, which always gets 0 to 255; numbers of different flows
    cannot be compared.

    Source: EvalCrafter, arXiv:2310.11440.

    >>> still = torch.rand(1, 1, 3, 32, 32).expand(1, 5, 3, 32, 32)
    >>> bool(EvalcrafterWarpingError()(Samples(still, [""], 8.0)).value.abs() < 1e-6)
    True
    """

    needs = ("cv2",)
    lowered_by = ("noise", "flicker", "cut", "dissolve", "shuffle", "shake")
    range = (-3.0, 0.0)
    time_support = "pair"
    lookahead = 1
    least_side = 16
    card = Card(
        sees="What differs between each frame and the next after the next is warped onto it, "
        "where the flow can be trusted.",
        blind_to="Stillness, blur and dimming, which raise the score; pairs without a trusted "
        "pixel, which count as perfect.",
        hacks="Freezing, blurring, dimming, slow motion, and chaos that leaves no pixel to trust.",
        input="At least 2 frames of 16 pixels. More frames a second score higher.",
        cost="11 ms a frame of 192 x 341 on one thread; the cost grows with the picture.",
    )

    def __init__(
        self,
        flow: str = "auto",
        network: Network | None = None,
        as_fed: float = 1.0,
        chunk: int = 4,
    ) -> None:
        super().__init__(flow, network, chunk)
        self.as_fed = as_fed

    @torch.no_grad()
    def terms(self, samples: Samples) -> Tensor:
        """Return -E of each pair of frames, (B, F - 1)."""
        video = samples.video
        first, second = (
            video[:, :-1].flatten(0, 1).split(self.chunk),
            video[:, 1:].flatten(0, 1).split(self.chunk),
        )
        pieces = [self._errors(halved(a), halved(b)) for a, b in zip(first, second)]
        return -torch.cat(pieces).unflatten(0, (len(video), -1))

    def _errors(self, first: Tensor, second: Tensor) -> Tensor:
        """Return E of pairs of frames, (N,)."""
        scale = 255.0 if self.classical else self.as_fed
        return evalcrafter(first, second, *self.both(first * scale, second * scale))


def halved(frames: Tensor) -> Tensor:
    """Return frames in [0, 1] at half size, padded to multiples of 8."""
    small = interpolate(
        colour(unit(frames)), scale_factor=0.5, mode="bilinear", align_corners=False
    )
    return padded_to(small, 8)


def evalcrafter(first: Tensor, second: Tensor, forward: Tensor, backward: Tensor) -> Tensor:
    """Return E of pairs (N, 3, H, W) by the flows in both directions (N, 2, H, W), (N,).

    E is 0 where no pixel is trusted.
    """
    clear = trusted(forward, backward)
    squares = (warp(second, forward, "bilinear") - first).square().sum(1)
    return (squares * clear).sum((1, 2)) / clear.sum((1, 2)).clamp(min=1)
