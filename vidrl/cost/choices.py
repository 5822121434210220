"""Read the options of a recipe that decide what is in memory at once."""

from __future__ import annotations

from dataclasses import dataclass

from vidrl.attention import AUTO, find
from vidrl.config import Recipe

# The names under which backbones keep the text encoder in host memory, before `text_encoder`.
FORMER_OFFLOAD = ("offload", "offload_text")
# Bytes of a weight of a linear layer by quantization. nf4 has 4 bits and a float32 scale for
# each 64 weights (QLoRA, arXiv 2305.14314, without its second quantization of the scales).
BYTES = {"fp8": 1.0, "int8": 1.0, "nf4": 0.5 + 4 / 64}


@dataclass(frozen=True)
class Choices:
    """The options of memory, by the names that the recipe's sections give them."""

    dtype: str = "float32"
    """The precision of the network and the text encoder."""
    quantization: str = "none"
    """How the frozen weights of linear layers are stored: a key of `BYTES`, or "none"."""
    gradient_checkpointing: bool = False
    """Whether the backward pass computes the activations of a block again."""
    activation_offload: bool = False
    """Whether the tensors that the backward pass needs wait in host memory."""
    group_offload: bool = False
    """Whether the linear layers of blocks wait in host memory, and come one by one."""
    vae_tiling: bool = False
    """Whether the decoder works on tiles of the picture."""
    decode_chunk: int = 1
    """How many clips are decoded at once."""
    text_encoder: str = "keep"
    """"keep" on the device, "offload" to host memory between uses, or "drop" after all
    prompts are encoded."""
    rollouts_on_cpu: bool = False
    """Whether the trajectories and the conditions of a round wait in host memory."""


def read(recipe: Recipe) -> Choices:
    """Return the choices of a recipe, with the defaults of its backbone for absent options.

    Raises `AttentionError` for a kernel of an unknown name; the machine need not have it.

    Example:
        >>> from vidrl import config
        >>> options = {"model": "m", "offload_text": True, "dtype": "bfloat16"}
        >>> table = {"run": "r", "backbone": {"name": "wan", "options": options}}
        >>> chosen = read(config.build(table, files=False))
        >>> chosen.text_encoder, chosen.dtype, chosen.decode_chunk
        ('offload', 'bfloat16', 4)
    """
    options = recipe.backbone.options
    for kernel in (options.get("attention", AUTO), options.get("rollout_attention") or AUTO):
        if kernel != AUTO:
            find(kernel)
    offloads = any(options.get(name) for name in FORMER_OFFLOAD)
    chunk = 1 if options.get("vae_slicing") else options.get("decode_chunk")
    return Choices(
        dtype=options.get("dtype", "float32"),
        quantization=options.get("quantization", "none"),
        gradient_checkpointing=bool(options.get("gradient_checkpointing")),
        activation_offload=bool(options.get("activation_offload")),
        group_offload=bool(options.get("group_offload")),
        vae_tiling=bool(options.get("vae_tiling")),
        decode_chunk=int(chunk or (4 if recipe.backbone.name == "wan" else 1)),
        text_encoder=options.get("text_encoder", "offload" if offloads else "keep"),
        rollouts_on_cpu=bool(getattr(recipe.train, "rollouts_on_cpu", False)),
    )
