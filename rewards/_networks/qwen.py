"""Qwen2-VL as a judge that reads pictures and an instruction, and gives numbers by a head.

The instruction contains special tokens, called marks. The head reads the state of the
language model at each mark. HPSv3 and VideoReward are such judges.

Shapes: N conversations, T pictures in each, L tokens, P patches, M marks.

Source: Wang et al. 2024 (Qwen2-VL), arXiv:2409.12191; Ma et al. 2025 (HPSv3),
arXiv:2508.03789, github.com/MizzenAI/HPSv3; Liu et al. 2025 (VideoReward),
arXiv:2501.13918, github.com/KwaiVGI/VideoAlign.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .hub import build_model, explain_load_errors, import_package
from .pixels import OPENAI, resize, three_channels

PATCH = 14  # height and width of a patch in pixels
MERGE = 2  # MERGE x MERGE patches become one token of the language model
TEMPORAL = 2  # a patch covers two pictures
FACTOR = PATCH * MERGE  # height and width of a token in pixels
# The chat template of Qwen2-VL for one question, with places for the media and the text.
CHAT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n<|vision_start|>{media}<|vision_end|>{text}<|im_end|>\n"
    "<|im_start|>assistant\n"
)


@dataclass(frozen=True)
class Conversation:
    """The input of the judge: the tokens and the pictures of N conversations.

    `ids` (N, L) are the tokens, padded on the right; `mask` (N, L) is 1 at tokens and 0 at
    padding. `patches` (P, 3 x 2 x 14 x 14) are the patches of all pictures, and `grid` (N,
    3) is the number of patches in time, height and width of each conversation.
    """

    ids: Tensor
    mask: Tensor
    patches: Tensor
    grid: Tensor


class Judge(nn.Module):
    """A Qwen2-VL whose language head is replaced by a reward head, (N, M, outputs).

    Positions count all tokens one after the other, those of pictures too. The published
    inference does so, because it passes embeddings without position ids to the language
    model. Qwen2-VL's own three-dimensional positions would give other numbers.
    """

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body: Any = body
        self.head = head

    def forward(self, asked: Conversation, media: int, marks: Sequence[int]) -> Tensor:
        """Return the head's outputs at each of the tokens `marks`, (N, M, outputs).

        `media` is the number of the placeholder token that pictures replace. Each
        conversation must contain each of the marks once.
        """
        embeddings = self.body.get_input_embeddings()(asked.ids)
        patches = asked.patches.to(embeddings.dtype)
        pictures = self.body.visual(patches, grid_thw=asked.grid).pooler_output
        # masked_scatter fills the placeholders in order, so both must be in the same order
        placeholders = (asked.ids == media)[..., None]
        embeddings = embeddings.masked_scatter(placeholders, pictures.to(embeddings.dtype))
        states = self.body.language_model(
            inputs_embeds=embeddings, attention_mask=asked.mask, use_cache=False
        ).last_hidden_state
        at = torch.isin(asked.ids, torch.tensor(list(marks), device=asked.ids.device))
        at_marks = states[at].unflatten(0, (len(asked.ids), len(marks)))
        # The head stays in float32 when the body is in half precision.
        return self.head(at_marks.to(next(self.head.parameters()).dtype))


class ChatTokenizer:
    """A tokenizer of Qwen2-VL to which marks are added, with the template of the instruction.

    `mark_ids` are the numbers of the marks, and `media_id` is the number of the token `media`,
    the placeholder of pictures.
    """

    def __init__(self, tokenizer: Any, template: str, marks: Sequence[str], media: str) -> None:
        tokenizer.add_tokens(list(marks), special_tokens=True)
        self.tokenizer, self.template = tokenizer, template
        self.media = media
        self.mark_ids = tokenizer.convert_tokens_to_ids(list(marks))
        self.media_id = tokenizer.convert_tokens_to_ids(media)

    def tokenize(self, prompts: Sequence[str], pictures: int) -> tuple[Tensor, Tensor]:
        """Return tokens and mask (N, L) of conversations with `pictures` placeholders each."""
        # A prompt cannot contain a special token, such as a mark: "<|" is broken up.
        texts = [
            self.template.format(text_prompt=prompt.replace("<|", "< |")) for prompt in prompts
        ]
        chats = [CHAT.format(media=self.media * pictures, text=text) for text in texts]
        rows = [self.tokenizer(chat, add_special_tokens=False)["input_ids"] for chat in chats]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        return ids, torch.arange(longest)[None] < torch.tensor([[len(row)] for row in rows])


def smart_size(height: int, width: int, least: int, most: int) -> tuple[int, int]:
    """Return height and width as multiples of 28, with `least` to `most` pixels in all.

    The shape stays nearly the same. This is `smart_resize` of Qwen2-VL's image processor.
    Raises ValueError if one side is more than 200 times the other.

    >>> smart_size(480, 832, 100352, 200704), smart_size(32, 32, 100352, 200704)
    ((336, 588), (336, 336))
    """
    if max(height, width) > 200 * min(height, width):
        raise ValueError(
            f"expected frames less than 200 times as long as wide, got {height} x {width}"
        )
    high, wide = (max(FACTOR, round(x / FACTOR) * FACTOR) for x in (height, width))
    if high * wide > most:
        shrink = math.sqrt(height * width / most)
        high, wide = (
            max(FACTOR, math.floor(x / shrink / FACTOR) * FACTOR) for x in (height, width)
        )
    elif high * wide < least:
        grow = math.sqrt(least / (height * width))
        high, wide = (math.ceil(x * grow / FACTOR) * FACTOR for x in (height, width))
    return high, wide


def prepare_frames(video: Tensor, least: int, most: int) -> Tensor:
    """Return clips (N, T, C, H, W) in [0, 1] resized and normalised for the vision tower.

    `least` and `most` limit the pixels of a frame, see `smart_size`. If T is odd, the last
    frame is repeated, because a patch covers two frames.
    """
    size = smart_size(video.shape[-2], video.shape[-1], least, most)
    images = resize(three_channels(video.flatten(0, 1)), size)
    mean, deviation = (torch.tensor(x).to(images)[:, None, None] for x in OPENAI)
    images = ((images - mean) / deviation).unflatten(0, video.shape[:2])
    return torch.cat([images, images[:, -1:]], 1) if images.shape[1] % TEMPORAL else images


def to_patches(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the patches (P, 3 x 2 x 14 x 14) of clips (N, T, 3, H, W), and the grid (N, 3).

    Patches are in the order of Qwen2-VL: the 2 x 2 patches that become one token follow
    each other. The grid is the number of patches in time, height and width.
    """
    count, frames, _, height, width = images.shape
    high, wide = height // PATCH, width // PATCH
    times = (count, frames // TEMPORAL, TEMPORAL, 3)
    rows, columns = (high // MERGE, MERGE, PATCH), (wide // MERGE, MERGE, PATCH)
    cells = images.reshape(*times, *rows, *columns)
    grid = torch.tensor([[frames // TEMPORAL, high, wide]], device=images.device).expand(count, 3)
    # to (clip, time, row and column of the token, row and column of the patch in the token),
    # then, within a patch, (channel, frame, row and column of the pixel)
    ordered = cells.permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9)
    return ordered.reshape(-1, 3 * TEMPORAL * PATCH * PATCH), grid.contiguous()


def build_conversation(
    images: Tensor, prompts: Sequence[str], words: ChatTokenizer
) -> Conversation:
    """Return the judge's input for prepared clips (N, T, 3, H, W) and their N prompts."""
    patches, grid = to_patches(images)
    placeholders = int(grid[0].prod()) // MERGE**2  # one for each token of a clip
    ids, mask = words.tokenize(prompts, placeholders)
    return Conversation(ids.to(images.device), mask.to(images.device).long(), patches, grid)


def build_body(state: Mapping[str, Tensor], config: Any, dtype: str) -> Any:
    """Return transformers' Qwen2VLModel with the tensors `state`.

    The vocabulary's size in `config` is changed to that of the embeddings in `state`, which
    have rows for the marks that were added to the tokenizer.
    """
    config.text_config.vocab_size = len(state["language_model.embed_tokens.weight"])
    return build_model("Qwen2VLModel", config, state, dtype)


def read_configuration(source: str) -> Any:
    """Return the Qwen2VLConfig of a local folder or hub id."""
    with explain_load_errors(source):
        return import_package("transformers").Qwen2VLConfig.from_pretrained(source)


def split_state(
    state: Mapping[str, Tensor], scale: float = 0.0
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the tensors of the body and of the reward head of a published `state`.

    Low-rank adapters in `state` are merged with the factor `scale`. Names are converted to
    those of today's transformers: they may begin with peft's "base_model.model.", and may
    have the older layout ("visual.*" and "model.layers.*") or the newer one
    ("model.visual.*" and "model.language_model.*"). The language head is left out. Raises
    ValueError if there is no reward head.
    """
    plain = merge_adapters(
        {name.removeprefix("base_model.model."): value for name, value in state.items()}, scale
    )
    head = {
        name.removeprefix("rm_head."): value
        for name, value in plain.items()
        if name.startswith("rm_head.")
    }
    body = {
        _body_name(name): value
        for name, value in plain.items()
        if not name.startswith(("rm_head.", "lm_head."))
    }
    if not head:
        raise ValueError(
            "expected a reward model of Qwen2-VL, with tensors named rm_head.*: this file has none"
        )
    return body, head


def merge_adapters(state: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Return `state` with its low-rank adapters merged into the weights: W + scale B A."""
    merged = {
        name.replace(".base_layer.", "."): value
        for name, value in state.items()
        if ".lora_" not in name
    }
    for name, down in state.items():
        layer, separator, _ = name.partition(".lora_A.")
        if separator:
            up = state[name.replace(".lora_A.", ".lora_B.")]
            weight = merged[f"{layer}.weight"]
            # The sum is computed in float32 and rounded once, to the dtype of the weight.
            total = weight.float() + scale * up.float() @ down.float()
            merged[f"{layer}.weight"] = total.to(weight.dtype)
        elif ".lora_" in name and ".lora_B." not in name:
            raise ValueError(
                f"expected adapters of linear layers alone, lora_A and lora_B, got {name!r}"
            )
    return merged


def _body_name(name: str) -> str:
    """Return the name of a tensor in transformers' Qwen2VLModel."""
    inner = name.removeprefix("model.")
    if inner.startswith(("visual.", "language_model.")):
        return inner
    return f"language_model.{inner}"  # the older layout, without "language_model"
