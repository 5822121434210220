"""VBench's static filter, which lets only still clips pass on to temporal flickering."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import About, Card, Samples
from .vbench import Moving, Network

Kept = Tensor  # the state between pieces: the first frame and the last so far, (B, 2, C, H, W)


class VbenchStaticFilter(Moving):
    """VBench's static_filter: 1 if hardly anything moves, else 0.

    VBench uses this filter before temporal flickering; it is no goal of training. r of a
    pair is the mean length of the int(0.02 H W) longest flow vectors on a map padded to a
    multiple of 8. A clip is static unless more than n = round(2 T / 16) of its T - 1
    neighbouring pairs exceed h = 3 min(H, W) / 256 pixels, or the flow from the first frame
    to the last, or back, has r > 2 n h. The curve has the value at every frame.

    As published: the frame rate does not count. Halves are rounded to even, so n = 0 for T
    <= 4, where any motion at all between the first and the last frame is too much.

    Published numbers need RAFT-things with 20 iterations as `network`, see
    `vbench_dynamic_degree`.

    Source: VBench, arXiv:2311.17982; RAFT, arXiv:2003.12039.

    >>> VbenchStaticFilter(flow="dis")(Samples(torch.zeros(1, 8, 3, 64, 64), [""], 8.0)).value
    tensor([1.])
    """

    needs = ("cv2",)
    learned = True
    range = (0.0, 1.0)
    time_support = "clip"
    least_frames = 2
    card = Card(
        sees="Whether the fastest fiftieth of the picture stays within 1.2 % of the shorter "
        "side from frame to frame.",
        blind_to="Everything beyond yes or no; light that changes on a still scene.",
        hacks="Freezing, which this filter asks for: use it as a filter, never as the reward.",
        input="Any size. The same motion at more frames a second is more static.",
        cost="48 ms a frame of 192 x 341 by DIS on one thread. RAFT takes minutes a clip, on a "
        "GPU only.",
    )

    def __init__(self, flow: str = "", network: Network | None = None, chunk: int = 4) -> None:
        super().__init__(flow, network, chunk)

    @classmethod
    def tiny(cls) -> VbenchStaticFilter:
        """Return the reward with OpenCV's flow."""
        return cls(flow="dis")

    def features(self, samples: Samples) -> Tensor:
        """Return r of neighbouring frames, first to last and last to first, (B, F, 3).

        The first number is that of the pair that ends at the frame. Numbers that are not
        measured are NaN.
        """
        return self.resume(samples, None, 0)[0]

    def resume(self, samples: Samples, state: Kept | None, old: int) -> tuple[Tensor, Kept]:
        """Return the features after the `old` frames already scored, and the state.

        First to last is measured at the end of each piece, and the last measurement is that
        of the clip.
        """
        new = samples.video[:, old:]
        frames = new if state is None else torch.cat([state[:, 1:], new], 1)
        found = new.new_full((*new.shape[:2], 3), torch.nan, dtype=torch.float32)
        if frames.shape[1] > 1:
            steps = self.speed(frames[:, :-1].flatten(0, 1), frames[:, 1:].flatten(0, 1), 0.02)
            found[:, -(frames.shape[1] - 1) :, 0] = steps.unflatten(0, (len(new), -1)).to(found)
        first, last = (new if state is None else state)[:, 0], new[:, -1]
        found[:, -1, 1], found[:, -1, 2] = (
            self.speed(*ends, 0.02) for ends in ((first, last), (last, first))
        )
        return found, torch.stack([first, last], 1)

    def terms_of_clip(self, features: Tensor, about: About) -> Tensor:
        """Return the answer of each clip, repeated at every frame, (B, F)."""
        return still(features, min(about.size))[:, None].float().expand(-1, features.shape[1])


def still(speeds: Tensor, side: int) -> Tensor:
    """Return whether clips are static, bool (B,), by their speeds (B, F, 3).

    The speeds are those that `VbenchStaticFilter.features` returns.
    """
    fast, many = 3.0 * side / 256.0, round(2 * speeds.shape[1] / 16.0)
    steps = (speeds[:, :, 0] > fast).sum(1) <= many
    return steps & ~(speeds[:, -1, 1:] > fast * many * 2).any(1)
