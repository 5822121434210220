"""The temporal warping error of Lai et al., computed exactly as published."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .base import Card, Samples
from .flow import warp
from .vbench import Moving, Network, colour, trusted, unit


class LaiWarpingError(Moving):
    """The temporal warping error that Lai et al. measure, negated; 0 is perfect.

    The value is -mean_t E_t. E_t is the sum over channels and pixels of ((I_t(x + f) -
    I_{t-1}(x)) n(x))^2, divided by 3 sum n. Pictures have values in [0, 1]. f is the flow
    from frame t-1 to t, and w is the flow back at x + f(x), sampled bilinearly with
    repeated edges. n is 0 where the flow cannot be trusted, |w + f|^2 > 0.01 (|w|^2 +
    |f|^2) + 0.5 (occlusion) or |grad f|^2 > 0.01 |f|^2 + 0.002 (a moving edge; forward
    differences), and 1 elsewhere. A term compares two neighbouring frames. The range is
    [-1, 0]; the published number is minus the value. A frozen clip gets 0.

    As published, a pair where n is 0 everywhere counts 0, as if it were perfect. Published
    numbers use the flow of FlowNet2: `network` gets (N, 3, H, W) with values from 0 to 255,
    enlarged to multiples of 64, and its flow is resized back. The default is OpenCV's DIS
    flow at the size of the clip; numbers of different flows cannot be compared.

    Source: Lai et al. 2018, arXiv:1808.00449.

    >>> still = torch.rand(1, 1, 3, 32, 32).expand(1, 5, 3, 32, 32)
    >>> bool(LaiWarpingError()(Samples(still, [""], 8.0)).value.abs() < 1e-6)
    True
    """

    needs = ("cv2",)
    lowered_by = ("noise", "flicker", "cut", "dissolve", "shuffle", "shake")
    range = (-1.0, 0.0)
    time_support = "pair"
    lookahead = 1
    card = Card(
        sees="What differs between each frame and the next after the next is warped onto it, "
        "where the flow can be trusted.",
        blind_to="Stillness, blur and dimming, which raise the score; pairs without a trusted "
        "pixel, which count as perfect.",
        hacks="Freezing, blurring, dimming, slow motion, and chaos that leaves no pixel to trust.",
        input="At least 2 frames. More frames a second score higher.",
        cost="40 ms a frame of 192 x 341 on one thread. Frames are not shrunk, so the cost "
        "grows with their size.",
    )

    def __init__(self, flow: str = "auto", network: Network | None = None, chunk: int = 4) -> None:
        super().__init__(flow, network, chunk)

    @torch.no_grad()
    def terms(self, samples: Samples) -> Tensor:
        """Return -E of each pair of frames, (B, F - 1)."""
        video = samples.video
        first, second = (
            video[:, :-1].flatten(0, 1).split(self.chunk),
            video[:, 1:].flatten(0, 1).split(self.chunk),
        )
        pieces = [self._errors(colour(unit(a)), colour(unit(b))) for a, b in zip(first, second)]
        return -torch.cat(pieces).unflatten(0, (len(video), -1))

    def _errors(self, first: Tensor, second: Tensor) -> Tensor:
        """Return E of pairs of frames, (N,)."""
        if self.classical:
            return lai(first, second, *self.both(first * 255, second * 255))
        # FlowNet2 halves its input six times, so the sides must be multiples of 64
        size = torch.Size(side + -side % 64 for side in first.shape[-2:])
        flows = self.both(*(resized(frames * 255, size) for frames in (first, second)))
        # a flow (x, y) in pixels of the enlarged frames shrinks by width and by height
        scale = torch.tensor([small / big for small, big in zip(first.shape[-2:], size)][::-1]).to(
            first
        )
        return lai(
            first,
            second,
            *(resized(flow, first.shape[-2:]) * scale[:, None, None] for flow in flows),
        )


def resized(image: Tensor, size: torch.Size) -> Tensor:
    """Resize an image bilinearly, without antialiasing."""
    return (
        image
        if image.shape[-2:] == size
        else interpolate(image, size=size, mode="bilinear", align_corners=False)
    )


def lai(first: Tensor, second: Tensor, forward: Tensor, backward: Tensor) -> Tensor:
    """Return E of pairs (N, 3, H, W) by the flows in both directions (N, 2, H, W), (N,).

    E is 0 where no pixel is trusted.
    """
    clear = trusted(forward, backward)
    squares = (warp(second, forward, "bilinear") - first).square().mean(1)
    return (squares * clear).sum((1, 2)) / clear.sum((1, 2)).clamp(min=1)
