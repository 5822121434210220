"""VBench's motion smoothness: how well a network interpolates every other frame."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import About, Card, Reward, Samples
from .vbench import Network, colour, padded_to


class VbenchMotionSmoothness(Reward):
    """VBench's motion_smoothness: 1 minus the mean error of interpolated odd frames.

    The network interpolates the frame midway between f_{2k} and f_{2k+2}. d_k is the mean
    absolute difference to f_{2k+1} in 0..255. The value is (255 - mean_k d_k) / 255, in [0,
    1]. A term reads three frames, the first of which has an even number; the terms whose
    first frame has an odd number are not measured and get the mean of the others.

    As published: the interpolated frame is cut, not rounded, to whole grey levels. If the
    number of frames is even, the last frame is not used. The published code lowers the
    working scale on small GPUs, and some ports do so depending on the memory that is free;
    here the scale is always 1. A clip of two frames is inapplicable (an error in the
    published code, 1.0 in FastVideo).

    `network` is a function from two batches (N, 3, H, W) in [0, 1], with sides divisible by
    16, to the frame midway. Published numbers need AMT-S, whose licence is non-commercial
    and which is therefore not part of this library: network=lambda a, b: amt(a, b,
    torch.full((1, 1, 1, 1), 0.5), scale_factor=1.0, eval=True)["imgt_pred"]. Float clips
    are first rounded to whole grey levels, as in a file.

    Source: VBench, arXiv:2311.17982; AMT, arXiv:2304.09790.

    >>> steady = torch.linspace(0, 1, 5).view(1, 5, 1, 1, 1).expand(1, 5, 3, 16, 16)
    >>> VbenchMotionSmoothness(network=lambda a, b: (a + b) / 2)(Samples(steady, [""], 8.0)).value
    tensor([1.])
    """

    learned = True
    range = (0.0, 1.0)
    time_support = "pair"
    lookahead = 2
    card = Card(
        sees="How far every other frame is from the frame that an interpolation network makes "
        "of its neighbours.",
        blind_to="Every even frame; whether anything moves: a frozen clip is perfect.",
        hacks="Freezing, slow motion made by blending, temporal averaging, blur, darkening.",
        input="At least 3 frames. More frames a second score higher.",
        cost="The cost of the network for every second frame; AMT-S took about a minute for a "
        "clip of 256 x 384 on a CPU.",
    )

    def __init__(self, network: Network | None = None, chunk: int = 4) -> None:
        super().__init__()
        self.network, self.chunk = network, chunk

    @classmethod
    def tiny(cls) -> VbenchMotionSmoothness:
        """Return the reward with the mean of both neighbours as the interpolated frame."""
        return cls(network=lambda first, second: (first + second) / 2)

    def features(self, samples: Samples) -> Tensor:
        """Return 1 - d / 255 of three frames from each even one on, (B, F - 2).

        Three frames from an odd one on get NaN.
        """
        return self.resume(samples, None, 0)[0]

    def resume(self, samples: Samples, state: int | None, old: int) -> tuple[Tensor, int]:
        """Return the features after the `old` scored frames, and the frame count."""
        video, begin = whole_levels(samples.video), 0 if state is None else state - old
        starts = range(
            max(0, old - self.lookahead) if state is not None else 0,
            video.shape[1] - self.lookahead,
        )
        terms = torch.full((len(video), len(starts)), torch.nan, device=video.device)
        even = [t for t in starts if (begin + t) % 2 == 0]
        for batch in (even[i : i + self.chunk] for i in range(0, len(even), self.chunk)):
            places = [t - starts.start for t in batch]
            terms[:, places] = 1 - self._error(video, batch) / 255
        return terms, begin + video.shape[1]

    def terms_of_clip(self, features: Tensor, about: About) -> Tensor:
        """Return the features with their mean in the place of NaN, (B, F - 2)."""
        return torch.where(features.isnan(), features.nanmean(1, keepdim=True), features)

    @torch.no_grad()
    def _error(self, video: Tensor, starts: list[int]) -> Tensor:
        """Return the mean absolute error of the guess in 0..255, (B, len(starts))."""
        first, middle, last = (video[:, [t + i for t in starts]] for i in range(3))
        guess = self._guess(first.flatten(0, 1), last.flatten(0, 1))
        gap = (
            guess.unflatten(0, first.shape[:2])
            - colour(middle.flatten(0, 1)).unflatten(0, first.shape[:2]).float()
        )
        return gap.abs().mean((2, 3, 4), dtype=torch.float64).to(gap)

    def _guess(self, first: Tensor, last: Tensor) -> Tensor:
        """Return the interpolated frames in whole grey levels, float (N, 3, H, W)."""
        if self.network is None:
            raise RuntimeError(
                "VbenchMotionSmoothness needs an interpolation network: AMT-S is published under a "
                "non-commercial licence and not part of vidrl; build it from its authors' code and "
                "pass network=..., as the docstring of VbenchMotionSmoothness shows"
            )
        if isinstance(self.network, torch.nn.Module):
            self.network.eval().to(first.device)
        guess = self.network(
            *(padded_to(colour(frames).float() / 255, 16) for frames in (first, last))
        )
        return (unpadded(guess, first.shape[-2], first.shape[-1]) * 255).clamp(0, 255).floor()


def unpadded(frames: Tensor, height: int, width: int) -> Tensor:
    """Cut frames that `padded_to` padded back to their first size."""
    top, left = ((big - small) // 2 for big, small in zip(frames.shape[-2:], (height, width)))
    return frames[..., top : top + height, left : left + width]


def whole_levels(video: Tensor) -> Tensor:
    """Return clips as uint8."""
    return (
        video
        if video.dtype == torch.uint8
        else (video.detach() * 255).round().clamp(0, 255).to(torch.uint8)
    )
