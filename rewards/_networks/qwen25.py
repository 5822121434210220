"""Qwen2.5-VL as a judge that reads a clip and an instruction, and writes an answer.

The frames are chosen and sized as the package qwen-vl-utils does. VideoScore2 is such a
judge.

Shapes: T frames, L written tokens, V words of the vocabulary.

Source: Bai et al. 2025 (Qwen2.5-VL), arXiv:2502.13923; He et al. 2025 (VideoScore2),
arXiv:2509.22799, github.com/TIGER-AI-Lab/VideoScore2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .qwen import ChatTokenizer, Conversation

# Constants of qwen-vl-utils; 28 x 28 pixels of two frames become one token.
READ_FPS = 2.0  # frames that are read of a second
MIN_FRAMES, MAX_FRAMES = 4, 768
MIN_PIXELS, MAX_PIXELS = 128 * 28 * 28, 768 * 28 * 28  # pixels of a frame
# pixels of all frames together: 90 % of 128,000 tokens, the length of the context
TOTAL_PIXELS = int(128000 * 28 * 28 * 0.9)


@dataclass(frozen=True)
class WrittenAnswer:
    """An answer with its L tokens, and the scores (L, V) from which each token was drawn."""

    ids: list[int]
    scores: Sequence[Tensor]


def write_answer(
    model: Any,
    asked: Conversation,
    words: ChatTokenizer,
    seconds: float,
    most: int,
    temperature: float,
    seed: int,
    form: Sequence[Sequence[int]] | None = None,
) -> WrittenAnswer:
    """Return the answer of a Qwen2_5_VLForConditionalGeneration to one conversation.

    The answer has at most `most` tokens. `seconds` is the time that two frames span, which
    sets their position in time. With `temperature` 0 the likeliest token is taken at each
    step; otherwise tokens are drawn, and `seed` makes the draws repeatable. The scores are
    those from which transformers' `generate` draws: after the temperature and everything
    else that the model's generation_config.json asks for. `form` lists the tokens that are
    allowed at each step.
    """
    start = asked.ids.shape[1]
    allowed = None if form is None else (lambda _, ids: list(form[len(ids) - start]))
    sampling = (
        {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    )
    devices = [asked.ids.device] if asked.ids.is_cuda else []
    # fork_rng: the caller's random state is the same after the answer
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.manual_seed(seed)
        output = model.generate(
            input_ids=asked.ids,
            attention_mask=asked.mask,
            pixel_values_videos=asked.patches.to(model.dtype),
            video_grid_thw=asked.grid,
            second_per_grid_ts=torch.tensor([seconds], device=asked.ids.device),
            # 2 marks tokens of a video, 0 those of text
            mm_token_type_ids=2 * (asked.ids == words.media_id).int(),
            max_new_tokens=most,
            output_scores=True,
            return_dict_in_generate=True,
            prefix_allowed_tokens_fn=allowed,
            **sampling,
        )
    written = output.sequences[0, start:].tolist()
    return WrittenAnswer(written, [scores[0] for scores in output.scores])


def frames_read(frames: int, fps: float) -> list[int]:
    """Return the frames that qwen-vl-utils reads of a clip of `frames` frames.

    About 2 frames a second are read, an even number from 4 to 768, at equal distances and
    with the first and the last frame.

    >>> frames_read(81, 16.0), frames_read(9, 8.0), frames_read(3, 8.0)
    ([0, 9, 18, 27, 36, 44, 53, 62, 71, 80], [0, 3, 5, 8], [0, 2])
    """
    most = min(MAX_FRAMES, frames) // 2 * 2
    count = int(min(max(frames / fps * READ_FPS, MIN_FRAMES), most)) // 2 * 2
    return torch.linspace(0, frames - 1, count).round().long().tolist()


def most_pixels(frames: int) -> int:
    """Return how many pixels a frame may have if `frames` frames of a clip are read.

    >>> most_pixels(10), most_pixels(768)
    (602112, 235200)
    """
    # times 2, because two frames share a token; 1.05 keeps the limit above MIN_PIXELS
    return int(max(min(MAX_PIXELS, TOTAL_PIXELS / frames * 2), int(MIN_PIXELS * 1.05)))
