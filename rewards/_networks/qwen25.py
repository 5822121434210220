"""Qwen2.5-VL as a judge that writes: it watches one clip, reads an instruction and writes
an answer, token by token.

Legend: T frames, L written tokens, V words of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .qwen import ChatTokenizer, Conversation

RATE = 2.0  # frames a second that qwen-vl-utils reads
LEAST_FRAMES, MOST_FRAMES = 4, 768
LEAST, MOST = 128 * 28 * 28, 768 * 28 * 28  # pixels of a frame
# pixels of all frames together, counted for each token of two frames
ALL = int(128000 * 28 * 28 * 0.9)


@dataclass(frozen=True)
class WrittenAnswer:
    """An answer: its L tokens, and the scores (L, V) from which each token was drawn."""

    ids: list[int]
    scores: Sequence[Tensor]


def write_answer(
    model: Any,
    said: Conversation,
    words: ChatTokenizer,
    seconds: float,
    most: int,
    temperature: float,
    seed: int,
    form: Sequence[Sequence[int]] | None = None,
) -> WrittenAnswer:
    """The answer of a Qwen2_5_VLForConditionalGeneration to one conversation, at most
    `most` tokens.

    `seconds` is the time that two frames span, which sets their position in time. With
    `temperature` 0 the likeliest token is taken at each step; else tokens are drawn, and
    `seed` makes the draws repeat. The scores are those that transformers' `generate` draws
    from: after the temperature and whatever else the model's own generation_config.json
    asks for. `form` lists the tokens that are allowed at each step.
    """
    start = said.ids.shape[1]
    allowed = None if form is None else (lambda _, ids: list(form[len(ids) - start]))
    drawn = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    devices = [said.ids.device] if said.ids.is_cuda else []
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.manual_seed(seed)
        made = model.generate(
            input_ids=said.ids,
            attention_mask=said.mask,
            pixel_values_videos=said.patches.to(model.dtype),
            video_grid_thw=said.grid,
            second_per_grid_ts=torch.tensor([seconds], device=said.ids.device),
            mm_token_type_ids=2 * (said.ids == words.medium).int(),
            max_new_tokens=most,
            output_scores=True,
            return_dict_in_generate=True,
            prefix_allowed_tokens_fn=allowed,
            **drawn,
        )
    return WrittenAnswer(made.sequences[0, start:].tolist(), [scores[0] for scores in made.scores])


def frames_read(frames: int, fps: float) -> list[int]:
    """The frames that qwen-vl-utils reads: about 2 a second, an even number from 4 to 768,
    ends included.

    >>> frames_read(81, 16.0), frames_read(9, 8.0), frames_read(3, 8.0)
    ([0, 9, 18, 27, 36, 44, 53, 62, 71, 80], [0, 3, 5, 8], [0, 2])
    """
    most = min(MOST_FRAMES, frames) // 2 * 2
    count = int(min(max(frames / fps * RATE, LEAST_FRAMES), most)) // 2 * 2
    return torch.linspace(0, frames - 1, count).round().long().tolist()


def most_pixels(frames: int) -> int:
    """How many pixels a frame may have where a clip has `frames` of them.

    >>> most_pixels(10), most_pixels(768)
    (602112, 235200)
    """
    return int(max(min(MOST, ALL / frames * 2), int(LEAST * 1.05)))
