"""What rewards of learned frame networks share: batching over frames and clips, and frames
that are not looked at."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..base import Reward, Samples
from .hub import weight_dtype


class LearnedReward(Reward):
    """Base of rewards that read each frame by a network.

    `chunk` frames are read a forward pass, over frames and clips alike; it sets the memory
    and no number. `dtype` is that of the weights, `offload` puts them on the CPU between
    calls. `frames` is how many frames of a clip are looked at, the middles of equal
    segments, 0 for all; the curve shows for each other frame the number of its segment's. A
    clip can be scored in pieces where all frames are looked at.
    """

    differentiable = True
    needs = ("transformers",)
    extra = "learned"
    learned = True

    def __init__(self, chunk: int, dtype: str, offload: bool, frames: int = 0) -> None:
        super().__init__()
        weight_dtype(dtype)
        if chunk < 1 or frames < 0:
            raise ValueError(
                f"expected chunk >= 1 and frames >= 0 (0: all), got chunk={chunk}, frames={frames}"
            )
        self.chunk, self.dtype, self.offload, self.frames = chunk, dtype, offload, frames

    @property
    def streams(self) -> bool:
        """Whether a clip can be scored in pieces."""
        return self.frames == 0

    def score_frames(
        self, samples: Samples, score: Callable[[Tensor, list[str]], Tensor]
    ) -> Tensor:
        """`score` of every frame looked at and its prompt, (N, C, H, W) and N strings to (N,
        ...), as (B, F, ...)."""
        video = samples.frames
        chosen, owner = segment_middles(video.shape[1], self.frames)
        seen = video if len(chosen) == video.shape[1] else video[:, chosen]
        found = score(seen.flatten(0, 1), [prompt for prompt in samples.prompts for _ in chosen])
        return found.unflatten(0, seen.shape[:2])[:, owner]


def segment_middles(total: int, frames: int) -> tuple[list[int], list[int]]:
    """The middles of `frames` equal segments of `total` frames, and the segment of each
    frame; all if `frames` is 0.

    >>> segment_middles(9, 3)
    ([1, 4, 7], [0, 0, 0, 1, 1, 1, 2, 2, 2])
    """
    if not 0 < frames < total:
        return list(range(total)), list(range(total))
    return middle_frames(total, frames), [t * frames // total for t in range(total)]


def middle_frames(total: int, frames: int) -> list[int]:
    """The frames in the middle of `frames` equal segments; some twice where there are fewer
    frames than segments.

    >>> middle_frames(16, 4), middle_frames(2, 4)
    ([2, 6, 10, 14], [0, 0, 1, 1])
    """
    return [int((i + 0.5) * total / frames) for i in range(frames)]


def encode_distinct(prompts: Sequence[str], encode: Callable[[list[str]], Tensor]) -> Tensor:
    """`encode` of the prompts, each different one once, (B, ...)."""
    different = sorted(set(prompts))
    place = {prompt: i for i, prompt in enumerate(different)}
    return encode(different)[torch.tensor([place[prompt] for prompt in prompts])]
