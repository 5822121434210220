"""PickScore: what people picked among pictures made for one prompt."""

from __future__ import annotations

from torch import Tensor

from ._networks.learned import LearnedReward, per_prompt
from .base import About, Card, Samples
from .encoders import cosine, load_pair


class PickScore(LearnedReward):
    """Human preference among pictures of one prompt, frame by frame, by a CLIP ViT-H/14
    trained on such choices.

    exp(logit_scale) cos(z_t, z_text), as published: about 17 to 24 for real pictures;
    compare equal prompts only. `model` is a local folder or hub id of a transformers
    CLIPModel, `processor` one of its tokenizer and preprocessor_config.json. Kirstain et
    al. 2023, arXiv 2305.01569.

    >>> import torch
    >>> PickScore.tiny()(Samples(torch.rand(1, 3, 3, 32, 32), ["a red ball"], 8.0)).frames.shape
    torch.Size([1, 3])
    """

    card = Card(
        sees="Which of several pictures for a prompt people would pick: looks more than truth to the prompt.",
        blind_to="Motion and everything between frames.",
        hacks="Over-saturated, centred, glossy pictures; one pretty frame held still.",
        input="Any frame rate and size; frames are resized to 224 pixels, and the longer sides cut off.",
        cost="CLIP H/14: 0.33 TFLOP a frame of any size, 4 GB of weights in float32; not timed here.",
    )

    def __init__(
        self,
        model: str = "yuvalkirstain/PickScore_v1",
        processor: str = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        chunk: int = 16,
        dtype: str = "float32",
        offload: bool = False,
        frames: int = 0,
    ) -> None:
        super().__init__(chunk, dtype, offload, frames)
        self.pair = load_pair(f"clip:{model}", chunk, dtype, offload, processor)

    @classmethod
    def tiny(cls) -> PickScore:
        """A small CLIP of random weights."""
        from ._networks.tiny import pair

        reward = cls()
        reward.pair = pair()
        return reward

    def features(self, samples: Samples) -> Tensor:
        """The embedding of each frame, (B, F, D)."""
        return self.each(samples, lambda frames, _: self.pair(frames))

    def terms_of_clip(self, features: Tensor, about: About) -> Tensor:
        """One number a frame, (B, F)."""
        texts = per_prompt(about.prompts, lambda prompts: self.pair.texts(prompts, features))
        return self.pair.scale(features) * cosine(features, texts[:, None])
