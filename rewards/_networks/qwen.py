"""Qwen2-VL as a judge: it reads pictures and an instruction, and a head reads its state at
marks in the text.

Shapes: N conversations, T pictures in each, L tokens, P patches, M marks.
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

PATCH, MERGE, TEMPORAL = 14, 2, 2
FACTOR = PATCH * MERGE
CHAT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n<|vision_start|>{media}<|vision_end|>{text}<|im_end|>\n<|im_start|>assistant\n"
)


@dataclass(frozen=True)
class Conversation:
    """What the judge reads: tokens (N, L) padded on the right, their mask, and the patches
    of all pictures."""

    ids: Tensor
    mask: Tensor
    patches: Tensor
    grid: Tensor


class Judge(nn.Module):
    """A Qwen2-VL without its language head, and a reward head, (N, M, out).

    Positions count all tokens one by one, pictures' too, as in the published inference,
    which hands the language model embeddings without position ids; Qwen2-VL's own
    three-dimensional positions would give other numbers.
    """

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body: Any = body
        self.head = head

    def forward(self, said: Conversation, media: int, marks: Sequence[int]) -> Tensor:
        """The head at each of `marks`; `media` is the token that pictures stand for."""
        words = self.body.get_input_embeddings()(said.ids)
        patches = said.patches.to(words.dtype)
        seen = self.body.visual(patches, grid_thw=said.grid).pooler_output
        words = words.masked_scatter((said.ids == media)[..., None], seen.to(words.dtype))
        read = self.body.language_model(
            inputs_embeds=words, attention_mask=said.mask, use_cache=False
        )
        at = torch.isin(said.ids, torch.tensor(list(marks), device=said.ids.device))
        state = read.last_hidden_state[at].unflatten(0, (len(said.ids), len(marks)))
        return self.head(state.to(next(self.head.parameters()).dtype))


class ChatTokenizer:
    """The tokenizer of a Qwen2-VL with marks added, and the instruction."""

    def __init__(self, tokenizer: Any, template: str, marks: Sequence[str], media: str) -> None:
        tokenizer.add_tokens(list(marks), special_tokens=True)
        self.tokenizer, self.template, self.media = tokenizer, template, media
        self.marks = tokenizer.convert_tokens_to_ids(list(marks))
        self.medium = tokenizer.convert_tokens_to_ids(media)

    def tokenize(self, prompts: Sequence[str], pictures: int) -> tuple[Tensor, Tensor]:
        """Tokens and mask of conversations with `pictures` merged patches each; prompts
        cannot forge a token."""
        texts = [
            self.template.format(text_prompt=prompt.replace("<|", "< |")) for prompt in prompts
        ]
        chats = [CHAT.format(media=self.media * pictures, text=text) for text in texts]
        lists = [self.tokenizer(chat, add_special_tokens=False)["input_ids"] for chat in chats]
        longest = max(map(len, lists))
        ids = torch.tensor([one + [0] * (longest - len(one)) for one in lists])
        return ids, torch.arange(longest)[None] < torch.tensor([[len(one)] for one in lists])


def smart_size(height: int, width: int, least: int, most: int) -> tuple[int, int]:
    """Height and width as multiples of 28 with `least` to `most` pixels and nearly the same
    shape.

    >>> smart_size(480, 832, 100352, 200704), smart_size(32, 32, 100352, 200704)
    ((336, 588), (336, 336))
    """
    if max(height, width) > 200 * min(height, width):
        raise ValueError(
            f"expected frames less than 200 times as long as wide, got {height} x {width}"
        )
    high, wide = (max(FACTOR, round(x / FACTOR) * FACTOR) for x in (height, width))
    if high * wide > most:
        by = math.sqrt(height * width / most)
        high, wide = (max(FACTOR, math.floor(x / by / FACTOR) * FACTOR) for x in (height, width))
    elif high * wide < least:
        by = math.sqrt(least / (height * width))
        high, wide = (math.ceil(x * by / FACTOR) * FACTOR for x in (height, width))
    return high, wide


def prepare_frames(video: Tensor, least: int, most: int) -> Tensor:
    """Clips (N, T, C, H, W) in [0, 1] as the vision tower takes them, resized and
    normalised; T becomes even."""
    size = smart_size(video.shape[-2], video.shape[-1], least, most)
    images = resize(three_channels(video.flatten(0, 1)), size)
    mean, deviation = (torch.tensor(x).to(images)[:, None, None] for x in OPENAI)
    images = ((images - mean) / deviation).unflatten(0, video.shape[:2])
    return torch.cat([images, images[:, -1:]], 1) if images.shape[1] % TEMPORAL else images


def to_patches(images: Tensor) -> tuple[Tensor, Tensor]:
    """Patches (P, 3 x 2 x 14 x 14) of clips (N, T, 3, H, W), in the order of Qwen2-VL, and
    the grid (N, 3)."""
    count, frames, _, height, width = images.shape
    high, wide = height // PATCH, width // PATCH
    cells = images.reshape(
        count,
        frames // TEMPORAL,
        TEMPORAL,
        3,
        high // MERGE,
        MERGE,
        PATCH,
        wide // MERGE,
        MERGE,
        PATCH,
    )
    grid = torch.tensor([[frames // TEMPORAL, high, wide]], device=images.device).expand(count, 3)
    return cells.permute(0, 1, 4, 7, 5, 8, 3, 2, 6, 9).reshape(
        -1, 3 * TEMPORAL * PATCH * PATCH
    ), grid.contiguous()


def build_conversation(
    images: Tensor, prompts: Sequence[str], words: ChatTokenizer
) -> Conversation:
    """Prepared clips (N, T, 3, H, W) and their prompts as the judge reads them."""
    flat, grid = to_patches(images)
    merged = int(grid[0].prod()) // MERGE**2
    ids, mask = words.tokenize(prompts, merged)
    return Conversation(ids.to(images.device), mask.to(images.device).long(), flat, grid)


def build_body(state: Mapping[str, Tensor], config: Any, dtype: str) -> Any:
    """transformers' Qwen2VLModel with the weights `state`; the vocabulary is as large as
    its embeddings."""
    config.text_config.vocab_size = len(state["language_model.embed_tokens.weight"])
    return build_model("Qwen2VLModel", config, state, dtype)


def read_configuration(source: str) -> Any:
    """The Qwen2VLConfig of a local folder or hub id."""
    with explain_load_errors(source):
        return import_package("transformers").Qwen2VLConfig.from_pretrained(source)


def split_state(
    state: Mapping[str, Tensor], scale: float = 0.0
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Body and head of a published state under today's names; adapters, times `scale`, are
    added to their layers.

    Names may begin with peft's "base_model.model.", and have the older layout, "visual.*"
    beside "model.layers.*", or the newer, "model.visual.*" beside "model.language_model.*".
    The language head is left out.
    """
    plain = merge_adapters(
        {name.removeprefix("base_model.model."): value for name, value in state.items()}, scale
    )
    head = {
        name.removeprefix("rm_head."): value
        for name, value in plain.items()
        if name.startswith("rm_head.")
    }
    rest = {_name(k): v for k, v in plain.items() if not k.startswith(("rm_head.", "lm_head."))}
    if not head:
        raise ValueError(
            "expected a reward model of Qwen2-VL, with tensors named rm_head.*: this file has none"
        )
    return rest, head


def merge_adapters(state: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """A state with low-rank adapters as one without: W + scale B A."""
    made = {
        name.replace(".base_layer.", "."): value
        for name, value in state.items()
        if ".lora_" not in name
    }
    for name, down in state.items():
        layer, found, _ = name.partition(".lora_A.")
        if found:
            up = state[name.replace(".lora_A.", ".lora_B.")]
            weight = made[f"{layer}.weight"]
            made[f"{layer}.weight"] = (weight.float() + scale * up.float() @ down.float()).to(
                weight.dtype
            )
        elif ".lora_" in name and ".lora_B." not in name:
            raise ValueError(
                f"expected adapters of linear layers alone, lora_A and lora_B, got {name!r}"
            )
    return made


def _name(name: str) -> str:
    inner = name.removeprefix("model.")
    if inner.startswith(("visual.", "language_model.")):
        return inner
    return f"language_model.{inner}"
