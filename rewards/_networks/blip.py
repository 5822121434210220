"""A BLIP with a reward head in the layout of ImageReward, as transformers' BLIP classes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from .hub import build_model, import_package, load_weights

WIDTHS = (1024, 128, 64, 16, 1)
HEAD = 64  # width of one attention head, in the picture's tower and the text's
UNUSED = ("blip.vision_proj.", "blip.text_proj.", "blip.text_encoder.embeddings.position_ids")
BLOCK = {
    "norm1.": "layer_norm1.",
    "norm2.": "layer_norm2.",
    "attn.qkv.": "self_attn.qkv.",
    "attn.proj.": "self_attn.projection.",
    "mlp.fc1.": "mlp.fc1.",
    "mlp.fc2.": "mlp.fc2.",
}
WHOLE = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj.weight": "embeddings.patch_embedding.weight",
    "patch_embed.proj.bias": "embeddings.patch_embedding.bias",
    "norm.weight": "post_layernorm.weight",
    "norm.bias": "post_layernorm.bias",
}


class Judge(nn.Module):
    """Pictures and tokens to one number each, (N,)."""

    def __init__(self, sight: nn.Module, text: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.sight, self.text, self.head = sight, text, head

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """The head of the text's first token, once the text has looked at the picture."""
        seen = self.sight(pixel_values=pixels).last_hidden_state
        read = self.text(
            input_ids=ids, attention_mask=mask, encoder_hidden_states=seen, is_decoder=False
        )
        first = read.last_hidden_state[:, 0]
        return self.head(first.to(next(self.head.parameters()).dtype))[:, 0]


def build_judge(state: Mapping[str, Tensor], dtype: str = "float32") -> Judge:
    """The Judge of a published state; sizes are read from it."""
    sight, text, head = split_state(state)
    made = reward_head(head["0.weight"].shape[1])
    load_weights(made, head, "ImageReward's head")
    return Judge(
        build_model("BlipVisionModel", vision_configuration(sight), sight, dtype),
        build_model(
            "BlipTextModel", text_configuration(text), text, dtype, add_pooling_layer=False
        ),
        made,
    )


def split_state(
    state: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Picture's tower, text's and head under transformers' names; ValueError for a name
    that belongs to none."""
    sight: dict[str, Tensor] = {}
    text: dict[str, Tensor] = {}
    head: dict[str, Tensor] = {}
    for name, value in state.items():
        if name.startswith("blip.visual_encoder."):
            sight[_sight(name.removeprefix("blip.visual_encoder."))] = value
        elif name.startswith("mlp.layers."):
            head[name.removeprefix("mlp.layers.")] = value
        elif name.startswith("blip.text_encoder.") and not name.startswith(UNUSED):
            text[name.removeprefix("blip.text_encoder.")] = value
        elif not name.startswith(UNUSED):
            raise ValueError(
                f"expected ImageReward's names, blip.visual_encoder.* and so on, got {name!r}"
            )
    return sight, text, head


def vision_configuration(state: Mapping[str, Tensor]) -> Any:
    """The BlipVisionConfig with the sizes of a state; LayerNorm's epsilon is the original's
    1e-6."""
    width, _, patch, _ = state["embeddings.patch_embedding.weight"].shape
    side = round((state["embeddings.position_embedding"].shape[1] - 1) ** 0.5) * patch
    return import_package("transformers").BlipVisionConfig(
        hidden_size=width,
        intermediate_size=len(state["encoder.layers.0.mlp.fc1.bias"]),
        image_size=side,
        patch_size=patch,
        num_hidden_layers=_depth(state, "encoder.layers."),
        num_attention_heads=width // HEAD,
        layer_norm_eps=1e-6,
    )


def text_configuration(state: Mapping[str, Tensor]) -> Any:
    """The BlipTextConfig with the sizes of a state."""
    words, width = state["embeddings.word_embeddings.weight"].shape
    layer = "encoder.layer.0."
    return import_package("transformers").BlipTextConfig(
        vocab_size=words,
        hidden_size=width,
        num_attention_heads=width // HEAD,
        num_hidden_layers=_depth(state, "encoder.layer."),
        intermediate_size=len(state[layer + "intermediate.dense.bias"]),
        max_position_embeddings=len(state["embeddings.position_embeddings.weight"]),
        encoder_hidden_size=state[layer + "crossattention.self.key.weight"].shape[1],
        is_decoder=True,
    )


def reward_head(width: int) -> nn.Sequential:
    """The reward head: five linear layers without activations; the dropouts, 1, 3 and 5,
    only keep the numbering."""
    sizes: list[nn.Module] = [
        nn.Linear(i, o) for i, o in zip((width, *WIDTHS[:-1]), WIDTHS, strict=True)
    ]
    for place in (1, 3, 5):
        sizes.insert(place, nn.Identity())
    return nn.Sequential(*sizes)


def _sight(name: str) -> str:
    if name in WHOLE:
        return WHOLE[name]
    block = re.fullmatch(r"blocks\.(\d+)\.(.*)", name)
    for old, new in BLOCK.items():
        if block and block[2].startswith(old):
            return f"encoder.layers.{block[1]}.{new}{block[2].removeprefix(old)}"
    raise ValueError(f"expected the names of BLIP's vision transformer, got {name!r}")


def _depth(state: Mapping[str, Tensor], start: str) -> int:
    return 1 + max(
        int(name.removeprefix(start).split(".")[0]) for name in state if name.startswith(start)
    )
