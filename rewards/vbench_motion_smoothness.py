"""VBench's motion smoothness: how well a network guesses every other frame."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import About, Card, Reward, Samples
from .vbench import Network, colour, padded_to


class VbenchMotionSmoothness(Reward):
    """VBench's motion_smoothness: 1 less the mean error of interpolated odd frames, in [0,
    1].

    The network guesses the frame midway between f_{2k} and f_{2k+2}; d_k is the mean
    absolute difference to f_{2k+1} in 0..255; the value is (255 - mean_k d_k) / 255. A term
    is three frames from an even one on; those from an odd one stand for the mean.

    As published: the guess is cut, not rounded, to whole grey levels; with an even number
    of frames the last is never looked at. Published code lowers the working scale on small
    GPUs, some ports even with the memory free at the time; here the scale is always 1. Two
    frames are inapplicable (published: an error; FastVideo: 1.0).

    `network` takes two batches (N, 3, H, W) in [0, 1], sides divisible by 16, and gives the
    frame midway. Published numbers need AMT-S, whose licence is non-commercial and which is
    therefore not part of this library: network=lambda a, b: amt(a, b, torch.full((1, 1, 1,
    1), 0.5), scale_factor=1.0, eval=True)["imgt_pred"]. Float clips are rounded to whole
    grey levels first, as a file would be.

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
        sees="How far every other frame is from what an interpolation network makes of its neighbours.",
        blind_to="Every even frame; whether anything moves: a frozen clip is perfect.",
        hacks="Freezing, slow motion made by blending, temporal averaging, blur, darkening.",
        input="At least 3 frames; more frames a second score higher.",
        cost="That of the network, once every second frame; AMT-S took about a minute a clip of 256 x 384 on a CPU.",
    )

    def __init__(self, network: Network | None = None, chunk: int = 4) -> None:
        super().__init__()
        self.network, self.chunk = network, chunk

    @classmethod
    def tiny(cls) -> VbenchMotionSmoothness:
        """With the mean of both neighbours for a network."""
        return cls(network=lambda first, second: (first + second) / 2)

    def features(self, samples: Samples) -> Tensor:
        """1 - d / 255 of three frames from each even one on, NaN from an odd one on, (B, F
        - 2)."""
        return self.resume(samples, None, 0)[0]

    def resume(self, samples: Samples, state: int | None, old: int) -> tuple[Tensor, int]:
        """The same after the `old` frames already scored, and how many frames were seen."""
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
        """The terms, the mean in the place of those that are not measured."""
        return torch.where(features.isnan(), features.nanmean(1, keepdim=True), features)

    @torch.no_grad()
    def _error(self, video: Tensor, starts: list[int]) -> Tensor:
        """Mean absolute difference of the guess to the frame, 0..255, (B, len(starts))."""
        first, middle, last = (video[:, [t + i for t in starts]] for i in range(3))
        guess = self._guess(first.flatten(0, 1), last.flatten(0, 1))
        gap = (
            guess.unflatten(0, first.shape[:2])
            - colour(middle.flatten(0, 1)).unflatten(0, first.shape[:2]).float()
        )
        return gap.abs().mean((2, 3, 4), dtype=torch.float64).to(gap)

    def _guess(self, first: Tensor, last: Tensor) -> Tensor:
        """Frames midway, whole grey levels as float (N, 3, H, W)."""
        if self.network is None:
            raise RuntimeError(
                "VbenchMotionSmoothness needs an interpolation network: AMT-S is published under a non-commercial "
                "licence and not part of vidrl; build it from its authors' code and pass network=..., see the example"
            )
        if isinstance(self.network, torch.nn.Module):
            self.network.eval().to(first.device)
        guess = self.network(
            *(padded_to(colour(frames).float() / 255, 16) for frames in (first, last))
        )
        return (unpadded(guess, first.shape[-2], first.shape[-1]) * 255).clamp(0, 255).floor()


def unpadded(frames: Tensor, height: int, width: int) -> Tensor:
    """What `padded_to` padded, at its first size."""
    top, left = ((big - small) // 2 for big, small in zip(frames.shape[-2:], (height, width)))
    return frames[..., top : top + height, left : left + width]


def whole_levels(video: Tensor) -> Tensor:
    """Clips as uint8."""
    return (
        video
        if video.dtype == torch.uint8
        else (video.detach() * 255).round().clamp(0, 255).to(torch.uint8)
    )
