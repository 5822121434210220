"""The base class of rewards that read frames by a network, and helpers that choose frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..base import Reward, Samples
from .hub import weight_dtype


class LearnedReward(Reward):
    """A base class of rewards that score each frame by a network.

    `chunk` is the number of frames of one forward pass. Frames of all clips are batched
    together; `chunk` changes the memory that is needed, and no number. `dtype` is the dtype
    of the weights. With `offload` the weights are on the CPU between calls. `frames` is the
    number of frames of a clip that the network reads, 0 for all: the clip is divided into
    so many equal segments, the middle frame of each segment is read, and the curve repeats
    this frame's number for the other frames of the segment. A clip can be scored in pieces
    (`streams`) only if all frames are read.
    """

    differentiable = True
    needs = ("transformers",)
    extra = "learned"
    learned = True

    def __init__(self, chunk: int, dtype: str, offload: bool, frames: int = 0) -> None:
        super().__init__()
        weight_dtype(dtype)  # fails early, for a dtype that does not exist
        if chunk < 1 or frames < 0:
            raise ValueError(
                f"expected chunk >= 1 and frames >= 0 (0: all), got chunk={chunk}, frames={frames}"
            )
        self.chunk, self.frames = chunk, frames
        self.dtype, self.offload = dtype, offload

    @property
    def streams(self) -> bool:
        """Whether a clip can be scored in pieces: the middles of segments need its length."""
        return self.frames == 0

    def score_frames(
        self, samples: Samples, score: Callable[[Tensor, list[str]], Tensor]
    ) -> Tensor:
        """Return what `score` gives each frame, (B, F, ...).

        `score` maps frames (N, C, H, W) and their N prompts to numbers (N, ...). The chosen
        frames of all clips are passed in one call.
        """
        video = samples.frames
        chosen, segment = segment_middles(video.shape[1], self.frames)
        # Indexing copies the clips, so it is left out where all frames are read.
        read = video if len(chosen) == video.shape[1] else video[:, chosen]
        scores = score(read.flatten(0, 1), [prompt for prompt in samples.prompts for _ in chosen])
        return scores.unflatten(0, read.shape[:2])[:, segment]


def segment_middles(total: int, frames: int) -> tuple[list[int], list[int]]:
    """Return the middle frames of `frames` equal segments, and the segment of each frame.

    If `frames` is 0 or at least `total`, each frame is a segment.

    >>> segment_middles(9, 3)
    ([1, 4, 7], [0, 0, 0, 1, 1, 1, 2, 2, 2])
    """
    if not 0 < frames < total:
        return list(range(total)), list(range(total))
    return middle_frames(total, frames), [t * frames // total for t in range(total)]


def middle_frames(total: int, frames: int) -> list[int]:
    """Return the frames in the middle of `frames` equal segments of a clip.

    A frame occurs twice if the clip has fewer frames than segments.

    >>> middle_frames(16, 4), middle_frames(2, 4)
    ([2, 6, 10, 14], [0, 0, 1, 1])
    """
    return [int((i + 0.5) * total / frames) for i in range(frames)]


def encode_distinct(prompts: Sequence[str], encode: Callable[[list[str]], Tensor]) -> Tensor:
    """Return `encode` of the prompts, (B, ...); a prompt that occurs often is encoded once.

    The clips of a group have the same prompt, so most encodings would be repetitions.
    """
    distinct = sorted(set(prompts))
    row = {prompt: i for i, prompt in enumerate(distinct)}
    return encode(distinct)[torch.tensor([row[prompt] for prompt in prompts])]
