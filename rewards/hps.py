"""HPSv2: what people prefer among pictures made for one prompt."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ._networks.hub import Network, published, read_state, tokenizer
from ._networks.learned import LearnedReward, per_prompt
from ._networks.openclip import cleaned, clip_model
from ._networks.pixels import OPENAI, Pixels
from .base import About, Card, Samples
from .encoders import TextImage, cosine


class Hps(LearnedReward):
    """Human Preference Score v2 or v2.1, frame by frame, by an open_clip ViT-H/14 trained
    on people's rankings.

    factor x cos(z_t, z_text); the published score is the cosine, about 0.2 to 0.35, and
    papers often print 100 times it: `factor`. Compare equal prompts only. As published, a
    frame's longer side becomes 224 pixels and black fills the rest. `weights` is a file, or
    owner/name/file of the hub, in open_clip's layout (HPS_v2_compressed.pt,
    HPS_v2.1_compressed.pt); `words` has CLIP's tokenizer. Prompts are cleaned as open_clip
    does it (ftfy, HTML entities, white space, small letters). Wu et al. 2023, arXiv
    2306.09341.

    >>> import torch
    >>> Hps.tiny()(Samples(torch.rand(1, 3, 3, 32, 32), ["a red ball"], 8.0)).frames.shape
    torch.Size([1, 3])
    """

    version = "2"  # 2: prompts are cleaned
    card = Card(
        sees="Which of several pictures for a prompt people prefer: looks first, the prompt second.",
        blind_to="Motion and everything between frames.",
        hacks="Saturation and contrast, which policies raise until pictures look fried; one pretty frame held still.",
        input="Any frame rate and size; the longer side becomes 224 pixels.",
        cost="CLIP H/14: 0.33 TFLOP a frame of any size, 4 GB of weights in float32; not timed here.",
    )

    def __init__(
        self,
        weights: str = "xswu/HPSv2/HPS_v2.1_compressed.pt",
        words: str = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
        factor: float = 1.0,
        chunk: int = 16,
        dtype: str = "float32",
        offload: bool = False,
        frames: int = 0,
    ) -> None:
        super().__init__(chunk, dtype, offload, frames)
        network = Network(lambda: clip_model(read_state(published(weights)), dtype=dtype), offload)
        self.pair, self.factor = TextImage(network, whole, lambda: tokenizer(words), chunk), factor

    @classmethod
    def tiny(cls) -> Hps:
        """A small CLIP of random weights."""
        from ._networks.tiny import pair

        reward = cls()
        reward.pair = pair()
        reward.pair.find = whole
        return reward

    def features(self, samples: Samples) -> Tensor:
        """The embedding of each frame, (B, F, D)."""
        return self.each(samples, lambda frames, _: self.pair(frames))

    def conclude(self, features: Tensor, about: About) -> Tensor:
        """One number a frame, (B, F)."""
        prompts = [cleaned(prompt) for prompt in about.prompts]
        texts = per_prompt(prompts, lambda different: self.pair.texts(different, features))
        return self.factor * cosine(features, texts[:, None])


def whole(model: Any) -> Pixels:
    """The longer side as long as the model's pictures, black around."""
    return Pixels(model.config.vision_config.image_size, None, OPENAI, pad=True)
