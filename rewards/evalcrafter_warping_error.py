"""EvalCrafter's warping error, to the letter, three times Lai's."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .base import Card, Samples
from .flow import warp
from .vbench import Moving, Network, colour, padded_to, trusted, unit


class EvalcrafterWarpingError(Moving):
    """EvalCrafter's warping_error, negated: 0 is perfect, and a frozen clip is perfect too.

    -mean_t E_t; E_t = sum over channels and pixels of ((I_{t+1}(x + f) - I_t(x)) n(x))^2 /
    sum n, pictures in [0, 1] at half size, padded to multiples of 8; n as in
    `lai_warping_error`. The published number is -value. A term is a pair of frames.

    As published: the sum has three channels and its divisor counts pixels, so it is three
    times Lai's; the padding counts; where n is 0 everywhere the pair counts 0, as if
    perfect; and RAFT, which divides by 255, is given [0, 1], so that its flow is that of a
    nearly constant picture. `as_fed` = 255 gives the flow that was meant, as other ports
    do: numbers of the two do not compare.

    `network` is as in `vbench_dynamic_degree`; flow="raft:PATH" is torchvision's. By
    default OpenCV's DIS flow, which always sees 0..255, stands in, and numbers compare only
    among themselves.

    Source: EvalCrafter, arXiv:2310.11440.

    >>> still = torch.rand(1, 1, 3, 32, 32).expand(1, 5, 3, 32, 32)
    >>> bool(EvalcrafterWarpingError()(Samples(still, [""], 8.0)).value.abs() < 1e-6)
    True
    """

    needs = ("cv2",)
    lowered_by = ("noise", "flicker", "cut", "dissolve", "shuffle", "shake")
    range = (-3.0, 0.0)
    support = "pair"
    reach = 1
    least_side = 16
    card = Card(
        sees="What is left of each frame once the next is moved onto it, where the flow can be trusted.",
        blind_to="Stillness, blur and dimming, which please it; pairs with no trusted pixel, which count as perfect.",
        hacks="Freezing, blurring, dimming, slow motion, and chaos that leaves no pixel to trust.",
        input="At least 2 frames of 16 pixels; more frames a second score higher.",
        cost="11 ms a frame of 192 x 341 on one thread; it grows with the picture.",
    )

    def __init__(
        self, flow: str = "dis", network: Network | None = None, as_fed: float = 1.0, chunk: int = 4
    ) -> None:
        super().__init__(flow, network, chunk)
        self.as_fed = as_fed

    @torch.no_grad()
    def terms(self, samples: Samples) -> Tensor:
        """-E of each pair, (B, F - 1)."""
        video = samples.video
        first, second = (
            video[:, :-1].flatten(0, 1).split(self.chunk),
            video[:, 1:].flatten(0, 1).split(self.chunk),
        )
        pieces = [self._errors(halved(a), halved(b)) for a, b in zip(first, second)]
        return -torch.cat(pieces).unflatten(0, (len(video), -1))

    def _errors(self, first: Tensor, second: Tensor) -> Tensor:
        scale = 255.0 if self.classical else self.as_fed
        return evalcrafter(first, second, *self.both(first * scale, second * scale))


def halved(frames: Tensor) -> Tensor:
    """Frames in [0, 1] at half size, padded to multiples of 8."""
    small = interpolate(
        colour(unit(frames)), scale_factor=0.5, mode="bilinear", align_corners=False
    )
    return padded_to(small, 8)


def evalcrafter(first: Tensor, second: Tensor, forward: Tensor, backward: Tensor) -> Tensor:
    """E of pairs (N, 3, H, W), (N,), by the flows both ways (N, 2, H, W); 0 where no pixel
    is trusted."""
    clear = trusted(forward, backward)
    squares = (warp(second, forward, "bilinear") - first).square().sum(1)
    return (squares * clear).sum((1, 2)) / clear.sum((1, 2)).clamp(min=1)
