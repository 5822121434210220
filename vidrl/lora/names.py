"""Translate module names of Wan between its authors, diffusers, and prefixes of LoRA files.

diffusers' own converters read these names too. vidrl does not use them: they fold alpha
into the weights, which rounds files of half precision, and the converter of kohya's names
fails if a module is missing, as in an attention-only file.
"""

from __future__ import annotations

import re

_PARTS = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0"}
BLOCK = {  # within blocks.N.: the authors' name → diffusers' name
    **{f"self_attn.{old}": f"attn1.{new}" for old, new in _PARTS.items()},
    **{f"cross_attn.{old}": f"attn2.{new}" for old, new in _PARTS.items()},
    "cross_attn.k_img": "attn2.add_k_proj",
    "cross_attn.v_img": "attn2.add_v_proj",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
}
OUTSIDE_BLOCKS = {
    "patch_embedding": "patch_embedding",
    "head.head": "proj_out",
    "time_projection.1": "condition_embedder.time_proj",
    **{
        f"{kind}_embedding.{place}": f"condition_embedder.{kind}_embedder.linear_{1 + place // 2}"
        for kind in ("text", "time")
        for place in (0, 2)
    },
    "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
}
PREFIXES = (
    "base_model.model.",
    "model.diffusion_model.",
    "diffusion_model.",
    "transformer.",
    "lora_unet_",
)
KOHYA = "lora_unet_"

_TO_ORIGINAL = {new: old for old, new in (BLOCK | OUTSIDE_BLOCKS).items()}
_FROM_FLAT = {
    name.replace(".", "_"): new
    for old, new in (BLOCK | OUTSIDE_BLOCKS).items()
    for name in (old, new)
}
_IN_BLOCK = re.compile(r"(blocks[._]\d+[._])(.+)")


def to_diffusers(name: str) -> str:
    """Return a module's name in diffusers, from any of the names.

    An unknown name is returned without its prefix.

    Example:
        >>> to_diffusers("diffusion_model.blocks.3.cross_attn.o")
        'blocks.3.attn2.to_out.0'
        >>> to_diffusers("lora_unet_blocks_3_ffn_0")
        'blocks.3.ffn.net.0.proj'
        >>> to_diffusers("base_model.model.blocks.3.attn1.to_q"), to_diffusers("unet.mid")
        ('blocks.3.attn1.to_q', 'unet.mid')
    """
    plain, flat = name, name.startswith(KOHYA)
    for prefix in PREFIXES:
        plain = plain.removeprefix(prefix)
    found = _IN_BLOCK.fullmatch(plain)
    head, inner = found.groups() if found else ("", plain)
    if flat:
        return head.replace("_", ".") + _FROM_FLAT[inner] if inner in _FROM_FLAT else name
    return head + (BLOCK if head else OUTSIDE_BLOCKS).get(inner, inner)


def to_original(name: str) -> str | None:
    """Return the authors' name of a module of Wan, or None if Wan has no such module.

    Example:
        >>> to_original("blocks.3.ffn.net.2"), to_original("transformer_blocks.0.attn.to_q")
        ('blocks.3.ffn.2', None)
    """
    found = _IN_BLOCK.fullmatch(name)
    head, inner = found.groups() if found else ("", name)
    original = _TO_ORIGINAL.get(inner)
    return head + original if original and (original in BLOCK) == bool(head) else None
