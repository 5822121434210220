"""A reward for clips that continue as V-JEPA 2 predicts, after WMReward."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ._networks import tiny, vjepa2
from ._networks.hub import Network, chunked, pretrained
from ._networks.learned import LearnedReward
from .base import Card, Samples, Score, all_unscored, refusals, score_of_curves


class WmReward(LearnedReward):
    """How well V-JEPA 2 predicts a clip's later frames from its earlier ones, in [-1, 1].

    The value is 1 - surprise. `most` frames, evenly spaced from the first to the last, are
    resized to the model's square without keeping the aspect. Windows of `window` frames
    begin at every `stride`-th of these frames. In each window the predictor sees the
    features of the first `past` frames and predicts the features of the other frames. A
    window gets the cosine of prediction and truth, taken over the tokens and averaged over
    the features, see `_networks/vjepa2.py`. The value is the mean over the windows. In the
    curve, each window's difference from that mean is given to the frames that the
    window predicts. A clip with fewer frames than a window is unscored.

    The defaults are those of the published script compute_wmreward.py; its README names a
    stride of 2, which costs four times as much. As published, frames are counted and not
    seconds: compare clips of one length and one frame rate. `model` is a local folder or a
    hub id of transformers' VJEPA2Model with safetensors, at `revision`; its preprocessor is
    not read. A token is two frames; raises ValueError for windows that are not whole
    tokens.

    Source: Yuan et al. 2026, arXiv:2601.10553; Assran et al. 2025, arXiv:2506.09985.

    >>> score = WmReward.tiny()(Samples(torch.rand(1, 9, 3, 32, 32), [""], 8.0))
    >>> score.value.shape, score.frames.shape
    (torch.Size([1]), torch.Size([1, 9]))
    """

    range = (-1.0, 1.0)
    time_support = "clip"
    lookahead = 1
    card = Card(
        sees="Motion that continues in another way than in natural videos: things that vanish, "
        "appear, pass through others, jump, or change as no camera films it.",
        blind_to="Whether the prompt is followed; small things (a token is 16 x 16 of 256 x 256 "
        "pixels); in long clips, everything that happens between the frames used; physics "
        "that natural videos seldom show.",
        hacks="Stillness and slow motion are predicted best. Add a reward of motion and a gate.",
        input="At least 16 frames. Compare clips of one length and frame rate.",
        cost="V-JEPA 2 ViT-g has 1 billion weights, under Apache-2.0 by its page on the hub. A "
        "window of 16 frames is 2048 tokens, and 49 frames are 5 windows. Not timed here. "
        "WMReward's own code, under CC BY-NC 4.0 by its README, is not used.",
    )

    def __init__(
        self,
        model: str = "facebook/vjepa2-vitg-fpc64-256",
        revision: str = "main",
        window: int = 16,
        past: int = 8,
        stride: int = 8,
        most: int = 49,
        chunk: int = 1,
        dtype: str = "float32",
        offload: bool = False,
    ) -> None:
        super().__init__(chunk, dtype, offload)
        if not (0 < past < window <= most and stride > 0) or past % 2 or window % 2:
            raise ValueError(
                "expected even numbers 0 < past < window <= most, as a token is two frames, "
                f"and stride > 0, got past={past}, window={window}, most={most}, stride={stride}"
            )
        self.window, self.past = window, past
        self.step, self.most = stride, most
        self.network = Network(
            lambda: pretrained("VJEPA2Model", model, dtype, revision=revision), offload
        )

    @classmethod
    def tiny(cls) -> WmReward:
        """Return the reward with a small V-JEPA 2 of random weights.

        Its windows have 4 frames.
        """
        reward = cls(window=4, past=2, stride=2)
        reward.network = Network(tiny.vjepa2_model)
        return reward

    @property
    def needed(self) -> int:
        """Return the frames of a window: a shorter clip cannot be scored."""
        return self.window

    @property
    def streams(self) -> bool:
        """Return False: the places of the frames depend on the length of the clip."""
        return False

    def forward(self, samples: Samples) -> Score:
        """Return the score of whole clips."""
        frames = samples.video.shape[1]
        why = refusals(samples, self.needed, self.least_side)
        rows = [i for i, reason in enumerate(why) if reason is None]
        if not rows:
            return all_unscored(samples, self.time_support, why)
        chosen = evenly(frames, self.most)
        seen = samples.pick(rows).frames[:, chosen].expand(-1, -1, 3, -1, -1)
        found = self._windows(seen)
        predicted = [
            range(i * self.step + self.past, i * self.step + self.window)
            for i in range(found.shape[1])
        ]
        return score_of_curves(
            curve(found, predicted, chosen, frames), self.time_support, why, rows
        )

    def _windows(self, video: Tensor) -> Tensor:
        """Return the cosine of each window, (B, W)."""
        with self.network.on(video) as model:
            ready = vjepa2.prepared(video, model.config.crop_size)
            windows = ready.unfold(1, self.window, self.step).movedim(-1, 2)
            found = chunked(
                partial(vjepa2.prediction_similarity, model, context=self.past),
                self.chunk,
                windows.flatten(0, 1),
            )
        return found.unflatten(0, windows.shape[:2])


def evenly(frames: int, most: int) -> list[int]:
    """Return at most `most` of the frames, evenly spaced with both ends, rounded down.

    >>> evenly(9, 49), evenly(100, 4)
    ([0, 1, 2, 3, 4, 5, 6, 7, 8], [0, 33, 66, 99])
    """
    return np.linspace(0, frames - 1, min(frames, most), dtype=int).tolist()


def curve(found: Tensor, predicted: Sequence[range], chosen: Sequence[int], frames: int) -> Tensor:
    """Return a curve (B, F) whose mean is that of the windows' numbers (B, W).

    Each window's difference from the mean goes to the frames that the window predicts,
    divided by the largest number of windows that predict one frame. `predicted` counts
    these frames among the `chosen`. A frame that is not used shows the value of the nearest
    chosen one.

    >>> curve(torch.tensor([[0.2, 0.6]]), [range(2, 4), range(4, 6)], [0, 1, 2, 3, 4, 5], 6)
    tensor([[0.4000, 0.4000, 0.2000, 0.2000, 0.6000, 0.6000]])
    """
    mean = found.mean(1, keepdim=True)
    covers = torch.tensor(
        [[float(t in window) for t in range(len(chosen))] for window in predicted]
    ).to(found)
    departure = (found - mean) @ covers / covers.sum(0).max()
    distance = (torch.arange(frames)[:, None] - torch.tensor(chosen)).abs()
    filled = departure[:, distance.argmin(1).to(found.device)]
    # a chosen frame fills a varying number of frames, which moves the mean: it is put back here
    return mean + filled - filled.mean(1, keepdim=True)
