"""HPSv3: a reward that predicts, with Qwen2-VL 7B, which pictures people prefer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ._networks import qwen
from ._networks.hub import Network, load_weights, read_state, tokenizer, weights_file
from ._networks.learned import LearnedReward
from ._prompts import judge_prompts
from .base import Card, Samples

MARKS = ("<|Reward|>",)
# pixels of a frame: 256 tokens, each 28 x 28 pixels
PIXELS = 256 * 28 * 28


class HpsV3(LearnedReward):
    """How much people would prefer each frame for its prompt; HPSv3 predicts this.

    The head, linear-ReLU-linear-ReLU-linear of widths 1024, 16 and 2, reads the network's
    state at the mark at the end of the published instruction. The score is the first of its
    two numbers, the mean mu. The second number, the uncertainty, is not used, as in the
    published inference. The score has no bounds, and can be compared for equal prompts
    only.

    A frame is resized to about 200704 pixels, with sides that are multiples of 28.
    `weights` is a local file, or owner/name/file of the hub, as published
    (HPSv3.safetensors). `base` is a folder or hub id with Qwen2-VL 7B's config.json and
    tokenizer.

    Source: Ma et al. 2025, arXiv:2508.03789.

    >>> clip = torch.rand(1, 3, 3, 32, 32)
    >>> HpsV3.tiny()(Samples(clip, ["a red ball"], 8.0)).frames.shape
    torch.Size([1, 3])
    """

    differentiable = False
    card = Card(
        sees="Which of several pictures for one prompt people prefer. The training data has "
        "photographs and pictures of many generators.",
        blind_to="Motion and everything between frames.",
        hacks="Rich detail and contrast everywhere; one pretty frame, frozen.",
        input="Any frame rate and size. A frame is resized to about 448 x 448 pixels.",
        cost="Qwen2-VL 7B has 15 GB of weights in bfloat16 and reads about 900 tokens a frame. "
        "Not timed here.",
    )

    def __init__(
        self,
        weights: str = "MizzenAI/HPSv3/HPSv3.safetensors",
        base: str = "Qwen/Qwen2-VL-7B-Instruct",
        chunk: int = 4,
        dtype: str = "bfloat16",
        offload: bool = False,
        frames: int = 0,
    ) -> None:
        super().__init__(chunk, dtype, offload, frames)
        self.network = Network(lambda: judge(weights, base, dtype), offload)
        self.words: Callable[[], qwen.ChatTokenizer] = lambda: _words(tokenizer(base))
        self._words: qwen.ChatTokenizer | None = None
        self.area = PIXELS

    @classmethod
    def tiny(cls) -> HpsV3:
        """Return the reward with a small Qwen2-VL of random weights."""
        from ._networks.tiny import qwen_judge, qwen_tokenizer

        reward = cls()
        reward.network = Network(lambda: qwen_judge(layers))
        reward.words, reward.area = (
            (lambda: _words(qwen_tokenizer(), "{text_prompt}" + MARKS[0])),
            56 * 56,
        )
        return reward

    def terms(self, samples: Samples) -> Tensor:
        """Return the preference score of each frame, (B, F)."""
        return self.score_frames(samples, self._judge)

    @torch.no_grad()
    def _judge(self, frames: Tensor, prompts: list[str]) -> Tensor:
        """Return the score of frames (N, C, H, W) for their prompts, (N,)."""
        frames, words = frames.detach().float(), self._words or self.words()
        self._words = words
        scores = []
        with self.network.on(frames) as network:
            for start in range(0, len(frames), self.chunk):
                images = qwen.prepare_frames(
                    frames[start : start + self.chunk, None], self.area, self.area
                )
                asked = qwen.build_conversation(images, prompts[start : start + self.chunk], words)
                # at the only mark, the first number of the head: mu
                scores.append(network(asked, words.media_id, words.mark_ids)[:, 0, 0].float())
        return torch.cat(scores)


def judge(weights: str, base: str, dtype: str) -> qwen.Judge:
    """Return the published network with its head, which stays in float32."""
    state, head = qwen.split_state(read_state(weights_file(weights)))
    network = layers(head["0.weight"].shape[1])
    load_weights(network, head, "HPSv3's head")
    return qwen.Judge(qwen.build_body(state, qwen.read_configuration(base), dtype), network)


def layers(width: int) -> nn.Sequential:
    """Return the head; identities take the places of the published dropout layers.

    Dropout does nothing at inference; its places keep the numbers in the names of the
    weights.
    """
    return nn.Sequential(
        nn.Linear(width, 1024),
        nn.ReLU(),
        nn.Identity(),  # dropout in the published head
        nn.Linear(1024, 16),
        nn.ReLU(),
        nn.Linear(16, 2),
    )


def _words(tokens: object, template: str = judge_prompts.HPS_V3) -> qwen.ChatTokenizer:
    return qwen.ChatTokenizer(tokens, template, MARKS, "<|image_pad|>")
