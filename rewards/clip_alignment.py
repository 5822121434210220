"""A reward that measures how well each frame fits the prompt, by CLIP or SigLIP."""

from __future__ import annotations

import math

from torch import Tensor

from ._networks.learned import LearnedReward, encode_distinct
from .base import About, Card, Samples
from .encoders import cosine, load_pair


class ClipAlignment(LearnedReward):
    """How well each frame fits the prompt, which CLIP or SigLIP measures.

    CLIP gives cos(z_t, z_text), where z_t is the embedding of frame t and z_text that of
    the prompt: in [-1, 1], and about 0.2 to 0.35 for frames that fit. SigLIP gives the
    probability sigmoid(scale cos + bias) with its trained scale and bias. With `logits`,
    both give scale cos + bias instead, which has no bounds.

    `model` is "clip:PATH_OR_HUB_ID" or "siglip:PATH_OR_HUB_ID"; the folder also holds
    preprocessor_config.json and the tokenizer. A prompt is cut after 77 tokens (SigLIP:
    64).

    Source: CLIPScore, arXiv:2104.08718; SigLIP, arXiv:2303.15343.

    >>> import torch
    >>> clip = torch.rand(1, 3, 3, 32, 32)
    >>> ClipAlignment.tiny()(Samples(clip, ["a red ball"], 8.0)).frames.shape
    torch.Size([1, 3])
    """

    range = (-1.0, 1.0)
    card = Card(
        sees="Whether each frame alone shows what the prompt names.",
        blind_to="Motion, the order of frames, counts, negation, who does what to whom, and small "
        "things.",
        hacks="The words of the prompt written in the picture; a stereotype of the prompt that "
        "fills the frame; one fitting frame, frozen.",
        input="Any frame rate and size. A frame is resized to the network's size, and its "
        "central square is used.",
        cost="CLIP L/14 takes 0.16 TFLOP a frame of any size: 12 s on one busy CPU thread.",
    )

    def __init__(
        self,
        model: str = "clip:openai/clip-vit-large-patch14",
        logits: bool = False,
        chunk: int = 16,
        dtype: str = "float32",
        offload: bool = False,
        frames: int = 0,
    ) -> None:
        super().__init__(chunk, dtype, offload, frames)
        self.pair, self.logits = load_pair(model, chunk, dtype, offload), logits
        if logits:
            self.range = (-math.inf, math.inf)  # type: ignore[misc]

    @classmethod
    def tiny(cls) -> ClipAlignment:
        """Return the reward with a small CLIP of random weights."""
        from ._networks.tiny import pair

        reward = cls()
        reward.pair = pair()
        return reward

    def features(self, samples: Samples) -> Tensor:
        """Return the embedding of each frame, (B, F, D)."""
        return self.score_frames(samples, lambda frames, _: self.pair(frames))

    def terms_of_clip(self, features: Tensor, about: About) -> Tensor:
        """Return the agreement of each frame with the prompt, (B, F)."""
        texts = encode_distinct(about.prompts, lambda prompts: self.pair.texts(prompts, features))
        agreement = cosine(features, texts[:, None])
        if not (self.logits or self.pair.sigmoid):
            return agreement
        logits = self.pair.scale(features) * agreement + self.pair.bias(features)
        return logits if self.logits else logits.sigmoid()
