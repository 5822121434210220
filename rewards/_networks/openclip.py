"""A CLIP checkpoint of open_clip's layout as transformers' CLIPModel."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .hub import build_model, import_package

BLOCK = {
    "ln_1.": "layer_norm1.",
    "ln_2.": "layer_norm2.",
    "attn.out_proj.": "self_attn.out_proj.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
}
WHOLE = {
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
TURNED = {"text_projection": "text_projection.weight", "visual.proj": "visual_projection.weight"}
LAYER = re.compile(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.*)")


def clip_model(state: Mapping[str, Tensor], head: int = 80, dtype: str = "float32") -> Any:
    """The CLIPModel of an open_clip state; sizes are read from it, but for the `head` width
    of the vision tower.

    `head` is 80 in ViT-H/14; text heads are 64 wide, and the activation is GELU, as in all
    of LAION's.
    """
    return build_model("CLIPModel", configuration(state, head), rename_tensors(state), dtype)


def clean_prompt(text: str) -> str:
    """A prompt as open_clip's tokenizer cleans it ("lower"), before it looks up tokens.

    ftfy mends wrongly decoded text and curly quotes, HTML entities are resolved twice, runs
    of white space become one space, and letters small ones. Raises ImportError with the
    cure where ftfy is missing.

    >>> clean_prompt("A \u201ccat\u201d &amp;amp; a\\n dog")
    'a "cat" & a dog'
    """
    mended = html.unescape(html.unescape(import_package("ftfy").fix_text(text)))
    return re.sub(r"\s+", " ", mended.strip()).strip().lower()


def configuration(state: Mapping[str, Tensor], head: int) -> Any:
    """The CLIPConfig with the sizes of an open_clip state."""
    words, width = state["token_embedding.weight"].shape
    sight, _, patch, _ = state["visual.conv1.weight"].shape
    side = round((len(state["visual.positional_embedding"]) - 1) ** 0.5) * patch
    text = _tower(state, "", width, 64) | {
        "vocab_size": words,
        "max_position_embeddings": len(state["positional_embedding"]),
        "bos_token_id": words - 2,
        "eos_token_id": words - 1,
        "pad_token_id": words - 1,
    }
    vision = _tower(state, "visual.", sight, head) | {"image_size": side, "patch_size": patch}
    projection = state["text_projection"].shape[1]
    return import_package("transformers").CLIPConfig(
        text_config=text, vision_config=vision, projection_dim=projection
    )


def rename_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an open_clip state under transformers' names; ValueError for one that
    has none."""
    made: dict[str, Tensor] = {}
    for name, value in state.items():
        layer = LAYER.fullmatch(name)
        if layer:
            tower = "vision_model" if layer[1] else "text_model"
            made |= _block(f"{tower}.encoder.layers.{layer[2]}.", layer[3], value)
        elif name in TURNED:
            made[TURNED[name]] = value.T.contiguous()
        elif name in WHOLE:
            made[WHOLE[name]] = value
        elif name != "attn_mask":
            raise ValueError(f"expected open_clip's names, got {name!r}")
    return made


def _block(start: str, rest: str, value: Tensor) -> dict[str, Tensor]:
    """One tensor of a layer; query, key and value lie in one of three times the rows."""
    if rest.startswith("attn.in_proj_"):
        kind = rest.removeprefix("attn.in_proj_")
        return {
            f"{start}self_attn.{x}_proj.{kind}": y.clone()
            for x, y in zip("qkv", value.chunk(3), strict=True)
        }
    for old, new in BLOCK.items():
        if rest.startswith(old):
            return {start + new + rest.removeprefix(old): value}
    raise ValueError(f"expected open_clip's names, got {rest!r} in a layer")


def _tower(state: Mapping[str, Tensor], start: str, width: int, head: int) -> dict[str, Any]:
    found = [int(m[2]) for m in map(LAYER.fullmatch, state) if m and (m[1] or "") == start]
    inner = len(state[f"{start}transformer.resblocks.0.mlp.c_fc.bias"])
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": max(found) + 1,
        "num_attention_heads": width // head,
        "hidden_act": "gelu",
    }
