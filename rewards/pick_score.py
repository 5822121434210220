"""PickScore: a reward that predicts which of several pictures people pick for a prompt."""

from __future__ import annotations

from torch import Tensor

from ._networks.learned import LearnedReward, encode_distinct
from .base import About, Card, Samples
from .encoders import cosine, load_pair


class PickScore(LearnedReward):
    """How likely people are to pick each frame for its prompt, predicted by PickScore.

    The score is exp(logit_scale) cos(z_t, z_text), as published, where z are the embeddings
    of a CLIP that was trained on people's choices. It is about 17 to 24 for real pictures.
    Scores can be compared for equal prompts only. `model` is a local folder or hub id of a
    transformers CLIPModel; `processor` is one with its tokenizer and
    preprocessor_config.json.

    Source: Kirstain et al. 2023, arXiv:2305.01569.

    >>> import torch
    >>> clip = torch.rand(1, 3, 3, 32, 32)
    >>> PickScore.tiny()(Samples(clip, ["a red ball"], 8.0)).frames.shape
    torch.Size([1, 3])
    """

    card = Card(
        sees="Which of several pictures for one prompt people would pick: how good the picture "
        "looks more than how well it fits the prompt.",
        blind_to="Motion and everything between frames.",
        hacks="Over-saturated, centred, glossy pictures; one pretty frame, frozen.",
        input="Any frame rate and size. A frame is resized to a shorter side of 224 pixels, and "
        "its central square is used.",
        cost="CLIP H/14 takes 0.33 TFLOP a frame of any size, and 4 GB of weights in float32. "
        "Not timed here.",
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
        """Return the reward with a small CLIP of random weights."""
        from ._networks.tiny import pair

        reward = cls()
        reward.pair = pair()
        return reward

    def features(self, samples: Samples) -> Tensor:
        """Return the embedding of each frame, (B, F, D)."""
        return self.score_frames(samples, lambda frames, _: self.pair(frames))

    def terms_of_clip(self, features: Tensor, about: About) -> Tensor:
        """Return the preference score of each frame, (B, F)."""
        texts = encode_distinct(about.prompts, lambda prompts: self.pair.texts(prompts, features))
        return self.pair.scale(features) * cosine(features, texts[:, None])
