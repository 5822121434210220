"""HPSv3: what people prefer among pictures and photographs for one prompt, by Qwen2-VL
7B."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ._networks import qwen
from ._networks.hub import Network, fill, published, read_state, tokenizer
from ._networks.learned import LearnedReward
from ._prompts import judge_prompts
from .base import Card, Samples

MARKS = ("<|Reward|>",)
PIXELS = 256 * 28 * 28  # a frame


class HpsV3(LearnedReward):
    """Human Preference Score v3, frame by frame: the mean mu of the two numbers that its
    head gives.

    The head, linear-ReLU-linear-ReLU-linear of widths 1024, 16 and 2, reads the state at
    the mark at the end of the published instruction; the second number, the uncertainty, is
    not used, as in the published inference. A frame is resized to about 200704 pixels in
    multiples of 28. The scale has no bounds; compare equal prompts. `weights` is a file, or
    owner/name/file of the hub, as published (HPSv3.safetensors); `base` has Qwen2-VL 7B's
    config.json and tokenizer. Ma et al. 2025, arXiv 2508.03789.

    >>> HpsV3.tiny()(Samples(torch.rand(1, 3, 3, 32, 32), ["a red ball"], 8.0)).frames.shape
    torch.Size([1, 3])
    """

    differentiable = False
    card = Card(
        sees="Which of several pictures for a prompt people prefer; knows photographs and many generators.",
        blind_to="Motion and everything between frames.",
        hacks="Rich detail and contrast everywhere; one pretty frame held still.",
        input="Any frame rate and size; frames are resized to about 448 x 448 pixels.",
        cost="Qwen2-VL 7B, 15 GB of weights in bfloat16, about 900 tokens a frame; not timed here.",
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
        self.words: Callable[[], qwen.Words] = lambda: _words(tokenizer(base))
        self._words: qwen.Words | None = None
        self.area = PIXELS

    @classmethod
    def tiny(cls) -> HpsV3:
        """A small Qwen2-VL of random weights, which reads frames of 56 x 56."""
        from ._networks.tiny import qwen_judge, qwen_tokenizer

        reward = cls()
        reward.network = Network(lambda: qwen_judge(layers))
        reward.words, reward.area = (
            (lambda: _words(qwen_tokenizer(), "{text_prompt}" + MARKS[0])),
            56 * 56,
        )
        return reward

    def terms(self, samples: Samples) -> Tensor:
        """One number a frame, (B, F)."""
        return self.each(samples, self._judge)

    @torch.no_grad()
    def _judge(self, frames: Tensor, prompts: list[str]) -> Tensor:
        frames, words = frames.detach().float(), self._words or self.words()
        self._words = words
        found = []
        with self.network.on(frames) as network:
            for start in range(0, len(frames), self.chunk):
                some = qwen.prepared(frames[start : start + self.chunk, None], self.area, self.area)
                said = qwen.conversation(some, prompts[start : start + self.chunk], words)
                found.append(network(said, words.medium, words.marks)[:, 0, 0].float())
        return torch.cat(found)


def judge(weights: str, base: str, dtype: str) -> qwen.Judge:
    """The published judge; its head stays in float32."""
    state, head = qwen.split(read_state(published(weights)))
    made = layers(head["0.weight"].shape[1])
    fill(made, head, "HPSv3's head")
    return qwen.Judge(qwen.body(state, qwen.configuration(base), dtype), made)


def layers(width: int) -> nn.Sequential:
    """The head; the dropout of the published one only keeps the numbering."""
    return nn.Sequential(
        nn.Linear(width, 1024),
        nn.ReLU(),
        nn.Identity(),
        nn.Linear(1024, 16),
        nn.ReLU(),
        nn.Linear(16, 2),
    )


def _words(tokens: object, template: str = judge_prompts.HPS_V3) -> qwen.Words:
    return qwen.Words(tokens, template, MARKS, "<|image_pad|>")
