"""Lai's warping error, to the letter."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .base import Card, Samples
from .flow import warp
from .vbench import Moving, Network, colour, trusted, unit


class LaiWarpingError(Moving):
    """Lai et al.'s temporal warping error, negated: 0 is perfect, and a frozen clip is
    perfect too.

    -mean_t E_t; E_t = sum over channels and pixels of ((I_t(x + f) - I_{t-1}(x)) n(x))^2 /
    (3 sum n), pictures in [0, 1], f the flow t-1 -> t and w the flow back at x + f(x),
    bilinear, edges repeated; n = 0 where
    |w + f|^2 > 0.01 (|w|^2 + |f|^2) + 0.5 or |grad f|^2 > 0.01 |f|^2 + 0.002 (forward differences). The published
    number is -value. A term is a pair of frames.

    As published: where n is 0 everywhere the pair counts 0, as if perfect. Published
    numbers take FlowNet2's flow: `network` sees (N, 3, H, W) of 0..255 resized up to
    multiples of 64, and its flow is resized back. By default OpenCV's DIS flow stands in,
    without resizing, and numbers compare only among themselves.

    Source: Lai et al. 2018, arXiv:1808.00449.

    >>> still = torch.rand(1, 1, 3, 32, 32).expand(1, 5, 3, 32, 32)
    >>> bool(LaiWarpingError()(Samples(still, [""], 8.0)).value.abs() < 1e-6)
    True
    """

    needs = ("cv2",)
    lowered_by = ("noise", "flicker", "cut", "dissolve", "shuffle", "shake")
    range = (-1.0, 0.0)
    support = "pair"
    reach = 1
    card = Card(
        sees="What is left of each frame once the next is moved onto it, where the flow can be trusted.",
        blind_to="Stillness, blur and dimming, which please it; pairs with no trusted pixel, which count as perfect.",
        hacks="Freezing, blurring, dimming, slow motion, and chaos that leaves no pixel to trust.",
        input="At least 2 frames; more frames a second score higher.",
        cost="40 ms a frame of 192 x 341 on one thread; it grows with the picture, which is not shrunk.",
    )

    def __init__(self, flow: str = "dis", network: Network | None = None, chunk: int = 4) -> None:
        super().__init__(flow, network, chunk)

    @torch.no_grad()
    def terms(self, samples: Samples) -> Tensor:
        """-E of each pair, (B, F - 1)."""
        video = samples.video
        first, second = (
            video[:, :-1].flatten(0, 1).split(self.chunk),
            video[:, 1:].flatten(0, 1).split(self.chunk),
        )
        pieces = [self._errors(colour(unit(a)), colour(unit(b))) for a, b in zip(first, second)]
        return -torch.cat(pieces).unflatten(0, (len(video), -1))

    def _errors(self, first: Tensor, second: Tensor) -> Tensor:
        if self.classical:
            return lai(first, second, *self.both(first * 255, second * 255))
        size = torch.Size(side + -side % 64 for side in first.shape[-2:])
        flows = self.both(*(resized(frames * 255, size) for frames in (first, second)))
        scale = torch.tensor([small / big for small, big in zip(first.shape[-2:], size)][::-1]).to(
            first
        )
        return lai(
            first,
            second,
            *(resized(flow, first.shape[-2:]) * scale[:, None, None] for flow in flows),
        )


def resized(image: Tensor, size: torch.Size) -> Tensor:
    """Bilinear, without antialiasing."""
    return (
        image
        if image.shape[-2:] == size
        else interpolate(image, size=size, mode="bilinear", align_corners=False)
    )


def lai(first: Tensor, second: Tensor, forward: Tensor, backward: Tensor) -> Tensor:
    """E of pairs (N, 3, H, W), (N,), by the flows both ways (N, 2, H, W); 0 where no pixel
    is trusted."""
    clear = trusted(forward, backward)
    squares = (warp(second, forward, "bilinear") - first).square().mean(1)
    return (squares * clear).sum((1, 2)) / clear.sum((1, 2)).clamp(min=1)
