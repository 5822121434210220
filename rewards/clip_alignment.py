"""How well each frame fits the prompt, by CLIP or SigLIP."""

from __future__ import annotations

import math

from torch import Tensor

from ._networks.learned import LearnedReward, per_prompt
from .base import About, Card, Samples
from .encoders import cosine, load_pair


class ClipAlignment(LearnedReward):
    """Agreement of each frame with the prompt: the cosine of a CLIP, or the probability
    that a SigLIP gives.

    CLIP: cos(z_t, z_text); SigLIP: sigmoid(scale cos + bias), the scale and bias trained.
    With `logits` both give scale cos + bias instead, without bounds. `model` is
    "clip:PATH_OR_HUB_ID" or "siglip:PATH_OR_HUB_ID", whose preprocessor_config.json and
    tokenizer lie beside the weights. The cosine of a CLIP is about 0.2 to 0.35 for frames
    that fit; texts are cut after 77 tokens (SigLIP 64). Hessel et al. 2021, arXiv
    2104.08718; SigLIP: arXiv 2303.15343.

    >>> import torch
    >>> ClipAlignment.tiny()(Samples(torch.rand(1, 3, 3, 32, 32), ["a red ball"], 8.0)).frames.shape
    torch.Size([1, 3])
    """

    range = (-1.0, 1.0)
    card = Card(
        sees="Whether each frame by itself shows what the prompt names.",
        blind_to="Motion, the order of frames, counts, negation, who does what to whom, and small things.",
        hacks="Written words of the prompt in the picture; its stereotype filling the frame; a frozen fitting frame.",
        input="Any frame rate and size; frames are resized to the network's, and the longer sides cut off.",
        cost="CLIP L/14: 0.16 TFLOP a frame of any size: 12 s on one busy CPU thread.",
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
        """A small CLIP of random weights."""
        from ._networks.tiny import pair

        reward = cls()
        reward.pair = pair()
        return reward

    def features(self, samples: Samples) -> Tensor:
        """The embedding of each frame, (B, F, D)."""
        return self.each(samples, lambda frames, _: self.pair(frames))

    def conclude(self, features: Tensor, about: About) -> Tensor:
        """One number a frame, (B, F)."""
        texts = per_prompt(about.prompts, lambda prompts: self.pair.texts(prompts, features))
        agreement = cosine(features, texts[:, None])
        if not (self.logits or self.pair.sigmoid):
            return agreement
        logits = self.pair.scale(features) * agreement + self.pair.bias(features)
        return logits if self.logits else logits.sigmoid()
