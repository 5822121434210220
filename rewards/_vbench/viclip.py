"""Share the base of VBench's two dimensions that compare a clip with its prompt by ViCLIP."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from .._networks import viclip
from .._networks.hub import chunked
from ..base import Reward, Samples, Score, all_unscored, refusals, score_of_curves
from .semantic import frames_for_viclip, middle_frames

FRAMES = 8  # frames of a clip that ViCLIP reads
Made = TypeVar("Made", bound="FitsPrompt")


class FitsPrompt(Reward):
    """A reward that is cos(v, t) of ViCLIP: v of 8 frames, t of the whole prompt.

    `middle_frames` chooses the frames. `weights` is ViCLIP's file, `words` a folder or hub
    id with CLIP's tokenizer. Clips without a prompt are unscored.
    """

    def __init__(
        self,
        weights: str = viclip.WEIGHTS,
        words: str = viclip.WORDS,
        chunk: int = 2,
        offload: bool = False,
    ) -> None:
        super().__init__()
        if chunk < 1:
            raise ValueError(f"expected chunk, clips at a time, to be 1 or more, got {chunk}")
        self.chunk, self.pair = chunk, viclip.load(weights, words, offload=offload)

    @classmethod
    def tiny(cls: type[Made]) -> Made:
        """Return the reward with a ViCLIP of one layer a tower and random weights."""
        reward = cls()
        reward.pair = viclip.tiny(patch=112)
        return reward

    def forward(self, samples: Samples) -> Score:
        """Return the score of whole clips."""
        silent = "inapplicable: needs the prompt that the clip was made from, and got none"
        why = [
            reason or (None if prompt.strip() else silent)
            for reason, prompt in zip(
                refusals(samples, self.needed, self.least_side), samples.prompts
            )
        ]
        rows = [i for i, reason in enumerate(why) if reason is None]
        if not rows:
            return all_unscored(samples, self.time_support, why)
        fits = self.agreement(samples.pick(rows))
        return score_of_curves(
            fits[:, None].expand(-1, samples.video.shape[1]), self.time_support, why, rows
        )

    def agreement(self, samples: Samples) -> Tensor:
        """Return the cosine of each clip with its prompt, (B,)."""
        video = samples.video[:, middle_frames(samples.video.shape[1], FRAMES)]
        seen = chunked(self._clips, self.chunk, video)
        return torch.einsum("bd,bd->b", seen, self.pair.texts(samples.prompts, seen))

    def _clips(self, video: Tensor) -> Tensor:
        """Return the features of the chosen frames of each clip."""
        return self.pair.clips(frames_for_viclip(video.flatten(0, 1)).unflatten(0, video.shape[:2]))
