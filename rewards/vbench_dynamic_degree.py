"""VBench's dynamic degree: a yes or no to the question whether a clip moves."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import About, Card, Samples
from .vbench import Moving, Network


class VbenchDynamicDegree(Moving):
    """VBench's dynamic_degree: 1 if enough pairs of frames move fast enough, else 0.

    One of every max(1, round(fps / 8)) frames is taken, N frames in all. r of a pair is the
    mean length of the int(0.05 H W) longest flow vectors on a map padded to a multiple of
    8. The value is 1 if r > 6 min(H, W) / 256 pixels in at least round(4 N / 16) pairs. The
    curve has the value at every frame, because the answer has no place in time.

    As published: `round` is Python's, which rounds halves to even, so 20 frames a second
    are sampled at 10, 12 at 6, and the same motion changes its class with the frame rate. N
    = 2 needs round(0.5) = 0 pairs, so a static clip of two samples counts as dynamic. N = 1
    gives 0.

    Published numbers need RAFT-things with 20 iterations as `network`: lambda a, b: raft(a,
    b, iters=20, test_mode=True)[1]. flow="raft:PATH" is torchvision's raft_large, with
    other weights, 12 iterations and other numbers.

    Source: VBench, arXiv:2311.17982; RAFT, arXiv:2003.12039.

    >>> reward = VbenchDynamicDegree(flow="dis")
    >>> two, eight = (Samples(torch.zeros(1, n, 3, 64, 64), [""], 8.0) for n in (2, 8))
    >>> reward(two).value.item(), reward(eight).value.item()
    (1.0, 0.0)
    """

    needs = ("cv2",)
    learned = True
    range = (0.0, 1.0)
    time_support = "clip"
    least_frames = 2
    card = Card(
        sees="Whether the fastest twentieth of the picture moves more than 2.3 % of the "
        "shorter side from sample to sample, about 19 % a second, in a quarter of the "
        "samples.",
        blind_to="Everything beyond yes or no; whether things or the camera move; smoothness.",
        hacks="A synthetic pan of 8 pixels a frame, jitter, or noise on 5 % of the picture; a "
        "clip of two samples.",
        input="Any size. Frames at 8, 16 or 24 a second are sampled at 8 a second.",
        cost="44 ms a sampled frame of 192 x 341 by DIS on one thread. RAFT takes minutes a "
        "clip, on a GPU only.",
    )

    def __init__(self, flow: str = "", network: Network | None = None, chunk: int = 4) -> None:
        super().__init__(flow, network, chunk)

    @classmethod
    def tiny(cls) -> VbenchDynamicDegree:
        """Return the reward with OpenCV's flow."""
        return cls(flow="dis")

    def features(self, samples: Samples) -> Tensor:
        """Return r of the pair that ends at each sampled frame, NaN elsewhere, (B, F)."""
        return self.resume(samples, None, 0)[0]

    def resume(
        self, samples: Samples, state: tuple[int, Tensor] | None, old: int
    ) -> tuple[Tensor, tuple[int, Tensor]]:
        """Return the features after the `old` frames already scored, and the state.

        The state is how many frames were seen, and the last sampled frame.
        """
        new, seen = samples.video[:, old:], 0 if state is None else state[0]
        at = [t for t in range(new.shape[1]) if (seen + t) % interval(samples.fps) == 0]
        taken = new[:, at] if state is None else torch.cat([state[1], new[:, at]], 1)
        speeds = new.new_full(new.shape[:2], torch.nan, dtype=torch.float32)
        if taken.shape[1] > 1:
            found = self.speed(taken[:, :-1].flatten(0, 1), taken[:, 1:].flatten(0, 1), 0.05)
            ends = at[1:] if state is None else at
            speeds[:, ends] = found.unflatten(0, (len(new), -1)).to(speeds)
        return speeds, (seen + new.shape[1], taken[:, -1:].clone())

    def terms_of_clip(self, features: Tensor, about: About) -> Tensor:
        """Return the answer of each clip, repeated at every frame, (B, F)."""
        sampled = len(range(0, features.shape[1], interval(about.fps)))
        return (
            moves(features, sampled, min(about.size))[:, None].float().expand(-1, features.shape[1])
        )


def interval(fps: float) -> int:
    """Return of how many frames one is sampled; Python rounds halves to even.

    >>> [interval(fps) for fps in (8, 12, 16, 20, 24, 30)]
    [1, 2, 2, 2, 3, 4]
    """
    return max(1, round(fps / 8))


def moves(speeds: Tensor, sampled: int, side: int) -> Tensor:
    """Return whether clips are dynamic, bool (B,), from the r of their pairs.

    `speeds` has a row for each clip, with NaN for frames without a pair.
    """
    moving = (speeds > 6.0 * side / 256.0).sum(1)
    return (moving >= round(4 * sampled / 16.0)) & (sampled > 1)
