"""ImageReward: a reward that predicts how people would rate a picture for its prompt."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from ._networks.blip import build_judge
from ._networks.hub import Network, chunked, read_state, tokenizer, weights_file
from ._networks.learned import LearnedReward
from ._networks.pixels import OPENAI, Pixels
from .base import Card, Samples

# the published mean and deviation of the raw output, which scale the score to mean 0, deviation 1
MEAN, DEVIATION = 0.16717362830052426, 1.0333394966054072
LONGEST = 35  # tokens


class ImageReward(LearnedReward):
    """How highly people would score each frame for its prompt; ImageReward predicts this.

    BLIP's text encoder attends to the picture. The score is (head(first token of the text)
    - 0.16717) / 1.03334, as published, so that it has about mean 0 and deviation 1 over the
    training data; it has no bounds. A prompt is cut after 35 tokens.

    `weights` is a local file, or owner/name/file of the hub, in ImageReward's layout
    (blip.visual_encoder.*, blip.text_encoder.*, mlp.layers.*). `words` is a folder or hub
    id with BERT's tokenizer.

    Source: Xu et al. 2023, arXiv:2304.05977.

    >>> import torch
    >>> clip = torch.rand(1, 3, 3, 32, 32)
    >>> ImageReward.tiny()(Samples(clip, ["a red ball"], 8.0)).frames.shape
    torch.Size([1, 3])
    """

    version = "2"  # 2: the central square is cropped where torchvision crops it
    card = Card(
        sees="Whether each frame fits the prompt and looks good, as raters of single pictures "
        "judged it.",
        blind_to="Motion and everything between frames; the words of the prompt after 35 tokens.",
        hacks="Over-sharp, over-saturated pictures that are crowded with the prompt's nouns.",
        input="Any frame rate and size. A frame is resized to a shorter side of 224 pixels, and "
        "its central square is used.",
        cost="BLIP-L takes 0.13 TFLOP a frame of any size: 8 s on one busy CPU thread. Its "
        "weights take 1.8 GB in float32.",
    )

    def __init__(
        self,
        weights: str = "THUDM/ImageReward/ImageReward.pt",
        words: str = "google-bert/bert-base-uncased",
        chunk: int = 16,
        dtype: str = "float32",
        offload: bool = False,
        frames: int = 0,
    ) -> None:
        super().__init__(chunk, dtype, offload, frames)
        self.network = Network(
            lambda: build_judge(read_state(weights_file(weights)), dtype), offload
        )
        self.words: Callable[[], Any] = lambda: tokenizer(words)
        self._tokenizer: Any = None

    @classmethod
    def tiny(cls) -> ImageReward:
        """Return the reward with a small BLIP of random weights."""
        from ._networks.tiny import bert_tokenizer, blip_judge

        reward = cls()
        reward.network, reward.words = Network(blip_judge), bert_tokenizer
        return reward

    def terms(self, samples: Samples) -> Tensor:
        """Return the rating of each frame, (B, F)."""
        return self.score_frames(samples, self._judge)

    def _judge(self, frames: Tensor, prompts: list[str]) -> Tensor:
        """Return the ratings of frames (N, C, H, W) for their prompts, (N,)."""
        self._tokenizer = self._tokenizer or self.words()
        tokens = self._tokenizer(
            prompts, padding="max_length", truncation=True, max_length=LONGEST, return_tensors="pt"
        ).to(frames.device)
        with self.network.on(frames) as network:
            run = partial(self._pass, network)
            raw = chunked(run, self.chunk, frames, tokens.input_ids, tokens.attention_mask)
        return (raw - MEAN) / DEVIATION

    def _pass(self, network: Any, frames: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the raw output of the network for a batch of frames and tokens, (N,)."""
        side = network.vision.config.image_size
        # `rounded`: the crop's offset is rounded, as in torchvision
        pixels = Pixels(side, (side, side), OPENAI, rounded=True)(frames)
        return network(pixels.to(network.vision.dtype), ids, mask).to(pixels.dtype)
