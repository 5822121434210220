"""VideoScore2: a reward that rates looks, fit and physics, by a Qwen2.5-VL that reasons."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ._networks import qwen, qwen25
from ._networks.hub import Network, pretrained, tokenizer, weight_dtype
from ._prompts import judge_prompts
from ._prompts.ratings import normalised_weights, score_of_ratings
from .base import Card, Reward, Samples, Score, all_unscored, refusals

PARTS = {
    "visual_quality": "visual quality",
    "text_alignment": "text-to-video alignment",
    "physical_consistency": "physical/common-sense consistency",
}
# the published pattern of an answer
ANSWER = re.compile(
    r".*?".join(rf"{label}:\s*(\d+)" for label in PARTS.values()), re.DOTALL | re.IGNORECASE
)
DIGITS = "12345"
# the seconds that two frames cover, 2 frames / 2 frames a second, as the published script passes
# them to the model
SECONDS = 1.0


class VideoScore2(Reward):
    """The weighted mean of the three scores that VideoScore2 gives a clip, in [0.2, 5].

    The model watches about 2 frames a second and reads the published instruction with the
    prompt. Then it reasons, and writes three whole scores from 1 to 5. The soft score of a
    part is s P(s) / sum_k P(k), where s is the likeliest of the digits 1 to 5, and P are
    the probabilities from which the digit after the part's name was drawn. `Score.parts`
    holds the three soft scores: visual_quality, text_alignment and physical_consistency.
    The paper gives no single number; their mean, with `weights`, is this library's choice.
    The curve is flat.

    Frames, pixels, temperature (0.7) and length (1024 tokens) are those of the published
    script vs2_inference.py. The script draws anew at each call; here `seed` makes the draw
    repeatable, and temperature 0 takes the likeliest token at each step. The script loads
    the weights in float32; the default here is bfloat16.

    The digits are found by the published pattern, as in "visual quality: 4". If an answer
    does not match this pattern, the numbered list after the reasoning is read, as in "(1)
    visual quality - clarity: 4": users report that the released model writes this form. A
    clip whose answer matches neither is unscored. `model` is a local folder or a hub id
    with safetensors, at `revision`. Raises ValueError for weights, a temperature or a
    number of tokens without meaning.

    Source: He et al. 2025, arXiv:2509.22799.

    >>> score = VideoScore2.tiny()(Samples(torch.rand(1, 9, 3, 32, 32), ["a red ball"], 8.0))
    >>> score.value.shape, sorted(score.parts)
    (torch.Size([1]), ['physical_consistency', 'text_alignment', 'visual_quality'])
    """

    needs = ("transformers",)
    extra = "learned"
    learned = True
    range = (0.2, 5.0)
    time_support = "clip"
    lookahead = 1
    card = Card(
        sees="What annotators rated in generated clips: looks, fit to the prompt, physics and "
        "common sense.",
        blind_to="Everything faster than its 2 frames a second, such as flicker, jitter and single "
        "broken frames. Where in the clip a fault is.",
        hacks="Pictures that a language model likes; text in the picture that addresses the "
        "model. Doubt lowers the soft score: a certain 3 counts more than a doubtful 4.",
        input="At least 2 frames, with the true fps.",
        cost="Qwen2.5-VL 7B has 16 GB of weights in bfloat16 and writes up to 1024 tokens a "
        "clip. Not timed here. The code is under MIT by the CITATION.cff of "
        "TIGER-AI-Lab/VideoScore2. Public lists of hub models name Apache-2.0 for the "
        "weights; the model's own page could not be read.",
    )

    def __init__(
        self,
        model: str = "TIGER-Lab/VideoScore2",
        revision: str = "main",
        weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
        temperature: float = 0.7,
        seed: int = 0,
        tokens: int = 1024,
        dtype: str = "bfloat16",
        offload: bool = False,
    ) -> None:
        super().__init__()
        weight_dtype(dtype)
        if not (temperature >= 0 and tokens >= 1):
            raise ValueError(
                f"expected temperature >= 0 and tokens >= 1, got {temperature} and {tokens}"
            )
        self.temperature, self.seed = temperature, seed
        self.tokens = tokens
        self.weights = normalised_weights(weights)
        kind = "Qwen2_5_VLForConditionalGeneration"
        self.network = Network(lambda: pretrained(kind, model, dtype, revision=revision), offload)
        self.words: Callable[[], qwen.ChatTokenizer] = lambda: _words(
            tokenizer(model, revision=revision)
        )
        self._words: qwen.ChatTokenizer | None = None
        self.least, self.most = qwen25.MIN_PIXELS, 0
        self.form = False

    @classmethod
    def tiny(cls) -> VideoScore2:
        """Return the reward with a small Qwen2.5-VL of random weights.

        The network reads frames of 56 x 56, and its answer is forced to the published form.
        """
        from ._networks.tiny import qwen25_judge, qwen_tokenizer

        reward = cls(dtype="float32")
        reward.network = Network(qwen25_judge)
        reward.words = lambda: _words(qwen_tokenizer(), "{text_prompt}")
        reward.least, reward.most = 56 * 56, 56 * 56
        reward.form = True
        return reward

    @property
    def streams(self) -> bool:
        """Return False: the places of the frames depend on the length of the clip."""
        return False

    def forward(self, samples: Samples) -> Score:
        """Return the score of whole clips with its three parts."""
        why = refusals(samples, self.needed, self.least_side)
        rows = [i for i, reason in enumerate(why) if reason is None]
        if not rows:
            return all_unscored(samples, self.time_support, why)
        ratings = self.ratings(samples.pick(rows))
        lost = "unscored: VideoScore2: the model's answer holds no three scores from 1 to 5"
        return score_of_ratings(
            ratings, list(PARTS), self.weights, samples.video.shape[1], why, rows, lost
        )

    def ratings(self, samples: Samples) -> Tensor:
        """Return the three soft scores of each clip, (B, 3).

        A row whose answer holds no scores is NaN.
        """
        frames = samples.video.shape[1]
        video = samples.frames.detach().float()[:, qwen25.frames_read(frames, samples.fps)]
        words = self._words = self._words or self.words()
        with self.network.on(video) as model:
            rows = [
                self._rated(model, words, *each)
                for each in zip(video, samples.prompts, strict=True)
            ]
        return torch.tensor(rows, device=video.device)

    def _rated(
        self, model: Any, words: qwen.ChatTokenizer, clip: Tensor, prompt: str
    ) -> list[float]:
        """Return the three soft scores of one clip."""
        most = self.most or qwen25.most_pixels(len(clip))
        asked = qwen.build_conversation(
            qwen.prepare_frames(clip[None], self.least, most), [prompt], words
        )
        form = _form(words.tokenizer) if self.form else None
        answer = qwen25.write_answer(
            model, asked, words, SECONDS, self.tokens, self.temperature, self.seed, form
        )
        return soft_scores(answer, words.tokenizer)


def soft_scores(answer: qwen25.WrittenAnswer, tokenizer: Any) -> list[float]:
    """Return the soft score of each part; all NaN if the answer does not hold all three."""
    at = places(answer.ids, tokenizer)
    if at is None:
        return [float("nan")] * len(PARTS)
    digits = [tokenizer.encode(digit, add_special_tokens=False)[0] for digit in DIGITS]
    return [soft(answer.scores[i][digits]) for i in at]


def soft(scores: Tensor) -> float:
    """Return s P(s) / sum_k P(k), where s is the likeliest of the digits 1 to 5.

    `scores` (5,) are the logits of the digits.

    >>> round(soft(torch.tensor([0.1, 0.1, 0.2, 0.4, 0.2]).log()), 4)
    1.6
    """
    probabilities = scores.double().softmax(0)
    return float((probabilities.argmax() + 1) * probabilities.max())


def places(ids: Sequence[int], tokenizer: Any) -> list[int] | None:
    """Return which written tokens are the three digits, or None if one is missing.

    The order is that of the parts.
    """
    text = tokenizer.decode(ids, skip_special_tokens=False)
    ends = (
        _published(text)
        if ANSWER.search(tokenizer.decode(ids, skip_special_tokens=True))
        else _numbered(text)
    )
    tokens = (_token(ids, end, text, tokenizer) for end in ends if end)
    found = [token for token in tokens if token is not None]
    return found if len(found) == len(PARTS) else None


def _published(text: str) -> list[int]:
    """Return where the first digit after each part's name and colon ends; 0 for none."""
    found = (
        re.search(rf"{re.escape(label)}:\D*\d", text, re.IGNORECASE) for label in PARTS.values()
    )
    return [match.end() if match else 0 for match in found]


def _numbered(text: str) -> list[int]:
    """Return where the digit of each line of the numbered list ends; 0 for none.

    The list follows the reasoning, which ends with "</think>".
    """
    start = text.rfind("</think>") + 1
    lines = (
        re.compile(rf"{re.escape(label)}[^\n:]*:\s*[1-5](?!\d)", re.IGNORECASE)
        for label in PARTS.values()
    )
    found = (line.search(text, start) for line in lines)
    return [match.end() if match else 0 for match in found]


def _token(ids: Sequence[int], end: int, text: str, tokenizer: Any) -> int | None:
    """Return the token that completes the text up to `end`.

    The result is None if a token reaches beyond `end`.
    """

    def so_far(count: int) -> str:
        return str(tokenizer.decode(ids[:count], skip_special_tokens=False))

    # the text grows with the number of tokens, so a binary search finds the token
    count = bisect_left(range(len(ids) + 1), end, key=lambda count: len(so_far(count)))
    return count - 1 if so_far(count) == text[:end] else None


def _words(tokens: Any, template: str = judge_prompts.VIDEO_SCORE_2) -> qwen.ChatTokenizer:
    return qwen.ChatTokenizer(tokens, template, (), "<|video_pad|>")


def _form(tokens: Any) -> list[list[int]]:
    """Return the tokens allowed at each step of an answer in the published form.

    The three digits are free; every other step allows one token.
    """

    def ids(text: str) -> list[list[int]]:
        return [[token] for token in tokens.encode(text, add_special_tokens=False)]

    digit = [[tokens.encode(digit, add_special_tokens=False)[0] for digit in DIGITS]]
    parts = [ids(f"{label}: ") + digit + ids("\n") for label in PARTS.values()]
    return [
        *(step for part in parts for step in part),
        [tokens.convert_tokens_to_ids("<|im_end|>")],
    ]
