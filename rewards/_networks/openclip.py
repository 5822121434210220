"""A CLIP checkpoint in the layout of open_clip, loaded as transformers' CLIPModel.

open_clip and transformers build the same network under different names. This module renames
the tensors and cleans prompts as open_clip's tokenizer does.

Source: Radford et al. 2021 (CLIP), arXiv:2103.00020; github.com/mlfoundations/open_clip.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .hub import build_model, import_package

# Names within a layer: in open_clip, in transformers.
BLOCK = {
    "ln_1.": "layer_norm1.",
    "ln_2.": "layer_norm2.",
    "attn.out_proj.": "self_attn.out_proj.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
}
# Names of the other tensors: in open_clip, in transformers ("pre_layrnorm" is spelt so there).
OUTSIDE_LAYERS = {
    "logit_scale": "logit_scale",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}
# open_clip computes x @ W with these matrices, nn.Linear computes x @ W.T: they are transposed.
TRANSPOSED = {
    "text_projection": "text_projection.weight",
    "visual.proj": "visual_projection.weight",
}
LAYER = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.*)")
TEXT_HEAD = 64  # width of an attention head of the text tower, in all of LAION's models


def clip_model(state: Mapping[str, Tensor], head: int = 80, dtype: str = "float32") -> Any:
    """Return the CLIPModel with the tensors of an open_clip `state`.

    Sizes are read from `state`, except for `head`, the width of an attention head of the
    vision tower, which no tensor's shape shows: 80 in ViT-H/14. Text heads are 64 wide and
    the activation is GELU, as in all of LAION's models (OpenAI's use quick GELU). Raises
    ValueError if names or sizes of the tensors do not fit.
    """
    return build_model("CLIPModel", configuration(state, head), rename_tensors(state), dtype)


def clean_prompt(text: str) -> str:
    """Return a prompt as open_clip's tokenizer cleans it ("lower") before it looks up tokens.

    ftfy repairs wrongly decoded text and curly quotes, HTML entities are resolved twice, runs
    of white space become one space, and letters become lower case. Raises ImportError with
    the cure if ftfy is missing.

    >>> clean_prompt("A \u201ccat\u201d &amp;amp; a\\n dog")
    'a "cat" & a dog'
    """
    # twice, because web captions are often escaped twice: "&amp;amp;" means "&"
    resolved = html.unescape(html.unescape(import_package("ftfy").fix_text(text)))
    return re.sub(r"\s+", " ", resolved.strip()).strip().lower()


def configuration(state: Mapping[str, Tensor], head: int) -> Any:
    """Return the CLIPConfig whose sizes are those of an open_clip `state`."""
    vocabulary, text_width = state["token_embedding.weight"].shape
    vision_width, _, patch, _ = state["visual.conv1.weight"].shape
    # One position belongs to the class token, the others form a square.
    side = round((len(state["visual.positional_embedding"]) - 1) ** 0.5) * patch
    # The start and end tokens are the last two of CLIP's vocabulary. transformers reads the
    # text's feature at the first end token, so the end token can serve as padding, too.
    text = _tower(state, "", text_width, TEXT_HEAD) | {
        "vocab_size": vocabulary,
        "max_position_embeddings": len(state["positional_embedding"]),
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": vocabulary - 1,
    }
    vision = _tower(state, "visual.", vision_width, head) | {
        "image_size": side,
        "patch_size": patch,
    }
    projection = state["text_projection"].shape[1]
    return import_package("transformers").CLIPConfig(
        text_config=text, vision_config=vision, projection_dim=projection
    )


def rename_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of an open_clip `state` under transformers' names.

    Raises ValueError for a tensor whose name is not one of open_clip's.
    """
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        layer = LAYER.fullmatch(name)
        if layer:
            tower = "vision_model" if layer[1] else "text_model"
            renamed |= _layer_tensors(f"{tower}.encoder.layers.{layer[2]}.", layer[3], value)
        elif name in TRANSPOSED:
            renamed[TRANSPOSED[name]] = value.T.contiguous()
        elif name in OUTSIDE_LAYERS:
            renamed[OUTSIDE_LAYERS[name]] = value
        elif name != "attn_mask":  # the causal mask is a buffer that transformers creates itself
            raise ValueError(f"expected open_clip's names, got {name!r}")
    return renamed


def _layer_tensors(start: str, name: str, value: Tensor) -> dict[str, Tensor]:
    """Return one tensor of a layer, or its three parts, under names that begin with `start`.

    open_clip stacks the weights of query, key and value as rows of one tensor; transformers
    has three tensors.
    """
    if name.startswith("attn.in_proj_"):
        kind = name.removeprefix("attn.in_proj_")
        return {
            # clone: the chunks share the memory of one tensor
            f"{start}self_attn.{letter}_proj.{kind}": part.clone()
            for letter, part in zip("qkv", value.chunk(3), strict=True)
        }
    for old, new in BLOCK.items():
        if name.startswith(old):
            return {start + new + name.removeprefix(old): value}
    raise ValueError(f"expected open_clip's names, got {name!r} in a layer")


def _tower(state: Mapping[str, Tensor], start: str, width: int, head: int) -> dict[str, Any]:
    """Return the configuration of the tower whose layers' names begin with `start`."""
    layers = [int(m[2]) for m in map(LAYER.fullmatch, state) if m and (m[1] or "") == start]
    return {
        "hidden_size": width,
        "intermediate_size": len(state[f"{start}transformer.resblocks.0.mlp.c_fc.bias"]),
        "num_hidden_layers": max(layers) + 1,
        "num_attention_heads": width // head,
        "hidden_act": "gelu",
    }
