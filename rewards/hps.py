"""HPSv2: a reward that predicts which pictures people prefer for one prompt."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ._networks.hub import Network, read_state, tokenizer, weights_file
from ._networks.learned import LearnedReward, encode_distinct
from ._networks.openclip import clean_prompt, clip_model
from ._networks.pixels import OPENAI, Pixels
from .base import About, Card, Samples
from .encoders import TextImage, cosine


class Hps(LearnedReward):
    """How much people would prefer each frame for its prompt; HPSv2 or v2.1 predicts this.

    The score is factor x cos(z_t, z_text), where z are embeddings of open_clip's ViT-H/14,
    trained on people's rankings. The published score is the cosine, about 0.2 to 0.35;
    papers often print 100 times the cosine, which `factor` = 100 gives. Scores can be
    compared for equal prompts only.

    As published, the longer side of a frame is resized to 224 pixels and the rest filled
    with black, and prompts are cleaned as open_clip cleans them (ftfy, HTML entities, white
    space, lower case). `weights` is a local file, or owner/name/file of the hub, in
    open_clip's layout (HPS_v2_compressed.pt, HPS_v2.1_compressed.pt). `words` is a folder
    or hub id with CLIP's tokenizer.

    Source: Wu et al. 2023, arXiv:2306.09341.

    >>> import torch
    >>> clip = torch.rand(1, 3, 3, 32, 32)
    >>> Hps.tiny()(Samples(clip, ["a red ball"], 8.0)).frames.shape
    torch.Size([1, 3])
    """

    version = "2"  # 2: prompts are cleaned
    card = Card(
        sees="Which of several pictures for one prompt people prefer: mostly how good the "
        "picture looks, less how well it fits the prompt.",
        blind_to="Motion and everything between frames.",
        hacks="Saturation and contrast, which policies raise until pictures look overcooked; "
        "one pretty frame, frozen.",
        input="Any frame rate and size. The longer side is resized to 224 pixels.",
        cost="CLIP H/14 takes 0.33 TFLOP a frame of any size, and 4 GB of weights in float32. "
        "Not timed here.",
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
        network = Network(
            lambda: clip_model(read_state(weights_file(weights)), dtype=dtype), offload
        )
        self.pair, self.factor = (
            TextImage(network, whole_frame, lambda: tokenizer(words), chunk),
            factor,
        )

    @classmethod
    def tiny(cls) -> Hps:
        """Return the reward with a small CLIP of random weights."""
        from ._networks.tiny import pair

        reward = cls()
        reward.pair = pair()
        reward.pair.find = whole_frame
        return reward

    def features(self, samples: Samples) -> Tensor:
        """Return the embedding of each frame, (B, F, D)."""
        return self.score_frames(samples, lambda frames, _: self.pair(frames))

    def terms_of_clip(self, features: Tensor, about: About) -> Tensor:
        """Return the preference score of each frame, (B, F)."""
        prompts = [clean_prompt(prompt) for prompt in about.prompts]
        texts = encode_distinct(prompts, lambda different: self.pair.texts(different, features))
        return self.factor * cosine(features, texts[:, None])


def whole_frame(model: Any) -> Pixels:
    """Return the preparation that shows the whole frame: resized, with black around it."""
    return Pixels(model.config.vision_config.image_size, None, OPENAI, pad=True)
