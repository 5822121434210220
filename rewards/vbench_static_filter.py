"""VBench's static filter: whether a clip is still enough for its flicker to be judged."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import About, Card, Samples
from .vbench import Moving, Network

Kept = Tensor  # the first frame and the last one so far, (B, 2, C, H, W)


class VbenchStaticFilter(Moving):
    """VBench's static_filter: 1 if hardly anything moves, else 0; a filter before temporal
    flickering, not a goal.

    r of a pair is the mean of the int(0.02 H W) longest flow vectors on the map padded to a
    multiple of 8, over all neighbouring frames. Static unless more than n = round(2 T / 16)
    of them exceed h = 3 min(H, W) / 256 pixels, or the flow from the first frame to the
    last, or back, has r > 2 n h. The curve is the value.

    As published: no account of the frame rate; halves round to even, so n = 0 for T <= 4,
    where any motion at all between first and last frame is too much.

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
        sees="Whether the fastest fiftieth of the picture stays within 1.2 % of the shorter side from frame to frame.",
        blind_to="Everything beyond yes or no; light that changes on a still scene.",
        hacks="Freezing, which is what it asks for: use it as a filter, never as the reward.",
        input="Any size; the same motion at more frames a second is more static.",
        cost="48 ms a frame of 192 x 341 by DIS on one thread; with RAFT minutes a clip, on a GPU only.",
    )

    def __init__(self, flow: str = "", network: Network | None = None, chunk: int = 4) -> None:
        super().__init__(flow, network, chunk)

    @classmethod
    def tiny(cls) -> VbenchStaticFilter:
        """With OpenCV's flow."""
        return cls(flow="dis")

    def features(self, samples: Samples) -> Tensor:
        """r of the pair that ends at each frame, of first to last and of last to first, (B,
        F, 3), NaN if not known."""
        return self.resume(samples, None, 0)[0]

    def resume(self, samples: Samples, state: Kept | None, old: int) -> tuple[Tensor, Kept]:
        """The same of the frames after the `old` ones already scored; the first and the
        last frame.

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
        """The answer, at every frame."""
        return still(features, min(about.size))[:, None].float().expand(-1, features.shape[1])


def still(speeds: Tensor, side: int) -> Tensor:
    """Whether clips are static, bool (B,), by the speeds (B, F, 3) of
    `VbenchStaticFilter.features`."""
    fast, many = 3.0 * side / 256.0, round(2 * speeds.shape[1] / 16.0)
    steps = (speeds[:, :, 0] > fast).sum(1) <= many
    return steps & ~(speeds[:, -1, 1:] > fast * many * 2).any(1)
