"""ImageReward: how well people would rate a picture for its prompt."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from ._networks.blip import judge
from ._networks.hub import Network, chunked, published, read_state, tokenizer
from ._networks.learned import LearnedReward
from ._networks.pixels import OPENAI, Pixels
from .base import Card, Samples

MEAN, DEVIATION = 0.16717362830052426, 1.0333394966054072
LONGEST = 35  # tokens


class ImageReward(LearnedReward):
    """Human rating of each frame for its prompt, by a BLIP whose text looks at the picture;
    mean 0, deviation 1.

    (head(text's first token) - 0.16717) / 1.03334, as published. `weights` is a file, or
    owner/name/file of the hub, in ImageReward's layout (blip.visual_encoder.*,
    blip.text_encoder.*, mlp.layers.*); `words` has BERT's tokenizer. Prompts are cut after
    35 tokens. Xu et al. 2023, arXiv 2304.05977.

    >>> import torch
    >>> ImageReward.tiny()(Samples(torch.rand(1, 3, 3, 32, 32), ["a red ball"], 8.0)).frames.shape
    torch.Size([1, 3])
    """

    version = "2"  # 2: the middle is cut out where torchvision does
    card = Card(
        sees="Whether each frame fits the prompt and looks good, as raters of single pictures judged it.",
        blind_to="Motion and everything between frames; what the prompt says after 35 tokens.",
        hacks="Over-sharp, over-saturated pictures crowded with the prompt's nouns.",
        input="Any frame rate and size; frames are resized to 224 pixels, and the longer sides cut off.",
        cost="BLIP-L: 0.13 TFLOP a frame of any size, 8 s on one busy CPU thread; 1.8 GB of weights in float32.",
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
        self.network = Network(lambda: judge(read_state(published(weights)), dtype), offload)
        self.words: Callable[[], Any] = lambda: tokenizer(words)
        self._tokenizer: Any = None

    @classmethod
    def tiny(cls) -> ImageReward:
        """A small BLIP of random weights."""
        from ._networks.tiny import bert_tokenizer, blip_judge

        reward = cls()
        reward.network, reward.words = Network(blip_judge), bert_tokenizer
        return reward

    def terms(self, samples: Samples) -> Tensor:
        """One number a frame, (B, F)."""
        return self.each(samples, self._judge)

    def _judge(self, frames: Tensor, prompts: list[str]) -> Tensor:
        self._tokenizer = self._tokenizer or self.words()
        tokens = self._tokenizer(
            prompts, padding="max_length", truncation=True, max_length=LONGEST, return_tensors="pt"
        ).to(frames.device)
        with self.network.on(frames) as network:
            run = partial(self._pass, network)
            raw = chunked(run, self.chunk, frames, tokens.input_ids, tokens.attention_mask)
        return (raw - MEAN) / DEVIATION

    def _pass(self, network: Any, frames: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        side = network.sight.config.image_size
        pixels = Pixels(side, (side, side), OPENAI, rounded=True)(frames)  # torchvision's crop
        return network(pixels.to(network.sight.dtype), ids, mask).to(pixels.dtype)
