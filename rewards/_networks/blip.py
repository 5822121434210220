"""ImageReward's network: a BLIP with a reward head, built from transformers' BLIP classes.

The published file holds tensors under the names of the original BLIP code. `split_state`
renames the tensors, so that transformers' BlipVisionModel and BlipTextModel can load them.

Source: Xu et al. 2023 (ImageReward), arXiv:2304.05977, github.com/THUDM/ImageReward; Li et
al. 2022 (BLIP), arXiv:2201.12086, github.com/salesforce/BLIP.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from .hub import build_model, import_package, load_weights

# Outputs of the five linear layers of ImageReward's head.
WIDTHS = (1024, 128, 64, 16, 1)
HEAD = 64  # width of an attention head in both towers; no tensor's shape shows this number
# Tensors of the file without a part in the score: BLIP's projections for retrieval, and a
# buffer with the numbers 0, 1, 2, ... that transformers creates by itself.
UNUSED = ("blip.vision_proj.", "blip.text_proj.", "blip.text_encoder.embeddings.position_ids")
# Names within a block of the vision tower: in the published file, in transformers.
BLOCK = {
    "norm1.": "layer_norm1.",
    "norm2.": "layer_norm2.",
    "attn.qkv.": "self_attn.qkv.",
    "attn.proj.": "self_attn.projection.",
    "mlp.fc1.": "mlp.fc1.",
    "mlp.fc2.": "mlp.fc2.",
}
# Names of the vision tower's other tensors: in the published file, in transformers.
OUTSIDE_BLOCKS = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj.weight": "embeddings.patch_embedding.weight",
    "patch_embed.proj.bias": "embeddings.patch_embedding.bias",
    "norm.weight": "post_layernorm.weight",
    "norm.bias": "post_layernorm.bias",
}


class Judge(nn.Module):
    """ImageReward's network, which gives each pair of an image and a prompt one number.

    A vision transformer encodes the image. BLIP's text encoder reads the prompt and attends
    to the image's tokens. The head maps the state of the prompt's first token to a number.
    """

    def __init__(self, vision: nn.Module, text: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.vision, self.text = vision, text
        self.head = head

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the rewards (N,) of images (N, 3, H, W) and tokens `ids` (N, L).

        `mask` (N, L) is 1 at tokens and 0 at padding. The rewards are not normalised.
        """
        image_states = self.vision(pixel_values=pixels).last_hidden_state
        # The text model is configured as a decoder, because only then transformers builds
        # the cross-attention; is_decoder=False makes its self-attention bidirectional.
        text_states = self.text(
            input_ids=ids, attention_mask=mask, encoder_hidden_states=image_states, is_decoder=False
        ).last_hidden_state
        first = text_states[:, 0]
        # The head stays in float32 when the towers are in half precision.
        return self.head(first.to(next(self.head.parameters()).dtype))[:, 0]


def build_judge(state: Mapping[str, Tensor], dtype: str = "float32") -> Judge:
    """Return the Judge with the published tensors `state`; all sizes are read from `state`.

    The towers get the dtype called `dtype`, the head stays in float32. Raises ValueError if
    names or sizes of the tensors do not fit.
    """
    vision_state, text_state, head_state = split_state(state)
    head = reward_head(head_state["0.weight"].shape[1])
    load_weights(head, head_state, "ImageReward's head")
    vision = build_model("BlipVisionModel", vision_configuration(vision_state), vision_state, dtype)
    # The score uses the state of the first token, without BERT's pooling layer.
    text_options = {"add_pooling_layer": False}
    text = build_model(
        "BlipTextModel", text_configuration(text_state), text_state, dtype, **text_options
    )
    return Judge(vision, text, head)


def split_state(
    state: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Return the tensors of the vision tower, of the text tower and of the head.

    Names of the towers become those of transformers, names of the head those of
    `reward_head`. Raises ValueError for a name that belongs to none of the three.
    """
    vision: dict[str, Tensor] = {}
    text: dict[str, Tensor] = {}
    head: dict[str, Tensor] = {}
    for name, value in state.items():
        if name.startswith("blip.visual_encoder."):
            vision[_vision_name(name.removeprefix("blip.visual_encoder."))] = value
        elif name.startswith("mlp.layers."):
            head[name.removeprefix("mlp.layers.")] = value
        elif name.startswith("blip.text_encoder.") and not name.startswith(UNUSED):
            # BLIP's text encoder has the same names in both codes.
            text[name.removeprefix("blip.text_encoder.")] = value
        elif not name.startswith(UNUSED):
            raise ValueError(
                f"expected ImageReward's names, blip.visual_encoder.* and so on, got {name!r}"
            )
    return vision, text, head


def vision_configuration(state: Mapping[str, Tensor]) -> Any:
    """Return the BlipVisionConfig whose sizes are those of the vision tower `state`."""
    width, _, patch, _ = state["embeddings.patch_embedding.weight"].shape
    # One position belongs to the class token, the others form a square.
    side = round((state["embeddings.position_embedding"].shape[1] - 1) ** 0.5) * patch
    return import_package("transformers").BlipVisionConfig(
        hidden_size=width,
        intermediate_size=len(state["encoder.layers.0.mlp.fc1.bias"]),
        image_size=side,
        patch_size=patch,
        num_hidden_layers=_depth(state, "encoder.layers."),
        num_attention_heads=width // HEAD,
        layer_norm_eps=1e-6,  # as in BLIP's own code; transformers' default is 1e-5
    )


def text_configuration(state: Mapping[str, Tensor]) -> Any:
    """Return the BlipTextConfig whose sizes are those of the text tower `state`."""
    vocabulary, width = state["embeddings.word_embeddings.weight"].shape
    layer = "encoder.layer.0."
    return import_package("transformers").BlipTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        num_attention_heads=width // HEAD,
        num_hidden_layers=_depth(state, "encoder.layer."),
        intermediate_size=len(state[layer + "intermediate.dense.bias"]),
        max_position_embeddings=len(state["embeddings.position_embeddings.weight"]),
        # The keys of the cross-attention read the vision tower's states.
        encoder_hidden_size=state[layer + "crossattention.self.key.weight"].shape[1],
        is_decoder=True,  # builds the cross-attention, see Judge.forward
    )


def reward_head(width: int) -> nn.Sequential:
    """Return ImageReward's head for states of `width` numbers.

    The head has five linear layers without activations between them. The published head
    has dropout layers at the places 1, 3 and 5. Identities stand there, so that the linear
    layers keep their numbers, which are part of the tensors' names.
    """
    layers: list[nn.Module] = [
        nn.Linear(i, o) for i, o in zip((width, *WIDTHS[:-1]), WIDTHS, strict=True)
    ]
    for place in (1, 3, 5):
        layers.insert(place, nn.Identity())
    return nn.Sequential(*layers)


def _vision_name(name: str) -> str:
    """Return transformers' name of a tensor of BLIP's vision tower."""
    if name in OUTSIDE_BLOCKS:
        return OUTSIDE_BLOCKS[name]
    block = re.fullmatch(r"blocks\.(\d+)\.(.*)", name)
    for old, new in BLOCK.items():
        if block and block[2].startswith(old):
            return f"encoder.layers.{block[1]}.{new}{block[2].removeprefix(old)}"
    raise ValueError(f"expected the names of BLIP's vision transformer, got {name!r}")


def _depth(state: Mapping[str, Tensor], start: str) -> int:
    """Return the number of layers whose tensors' names begin with `start` and a number."""
    return 1 + max(
        int(name.removeprefix(start).split(".")[0]) for name in state if name.startswith(start)
    )
