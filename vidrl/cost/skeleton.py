"""Build a recipe's backbone without weights: the real architecture on the device "meta".

Configurations suffice; nothing is downloaded. All blocks of a transformer cost the same,
and so do all latent frames of the causal decoder after the first two. So a model of n
blocks is traced with 2 and with 3 blocks, and a long clip's decode with 3 and 4 latent
frames: the line through both points is exact.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vidrl import plugin
from vidrl.backbones.base import Denoiser
from vidrl.config import Backbone

PARTS = ("transformer", "vae", "text_encoder", "scheduler")
NEEDED = (
    "transformer/config.json, vae/config.json, text_encoder/config.json and "
    "scheduler/scheduler_config.json"
)

_WAN: dict[str, Any] = {
    "patch_size": (1, 2, 2),
    "attention_head_dim": 128,
    "in_channels": 16,
    "out_channels": 16,
    "text_dim": 4096,
    "freq_dim": 256,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "rope_max_seq_len": 1024,
}
_UMT5_XXL: dict[str, Any] = {
    "vocab_size": 256384,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
    "dropout_rate": 0.0,
}
# From the public model cards; the autoencoder has diffusers' default configuration.
KNOWN: dict[str, dict[str, Any]] = {
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": _WAN
    | {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30},
    "Wan-AI/Wan2.1-T2V-14B-Diffusers": _WAN
    | {"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40},
}


@dataclass(frozen=True)
class Blueprint:
    """A blueprint builds a backbone from its recipe section and each part's configuration.

    Without parts (`parts` empty), the plug-in itself is built.
    """

    section: Backbone
    parts: dict[str, dict[str, Any]]
    local: bool  # the weights lie on this machine

    @property
    def blocks(self) -> int:
        """The number of the network's blocks."""
        return int(self.parts["transformer"]["num_layers"]) if self.parts else 0

    @property
    def text_blocks(self) -> int:
        """The number of the text encoder's blocks."""
        return int(self.parts["text_encoder"]["num_layers"]) if self.parts else 0

    def build(self, blocks: int = 0, text_blocks: int = 0) -> Denoiser:
        """Build the backbone on the meta device, with fewer blocks if a number is given."""
        if not self.parts:
            return plugin.load("backbones", self.section.name, **self.section.options)
        return _wan(self, blocks or self.blocks, text_blocks or self.text_blocks)


def read(section: Backbone) -> Blueprint:
    """Return the blueprint of a recipe's backbone, from a folder or a known model card.

    Raises ValueError for a model that is neither a folder of configurations nor a known hub
    id.
    """
    if section.name != "wan":
        return Blueprint(section, {}, local=True)
    model = section.options.get("model")
    folder = Path(str(model))
    if not folder.is_dir():
        if str(model) not in KNOWN:
            raise ValueError(
                f"expected backbone.options.model to be a folder, or {' or '.join(KNOWN)}, got "
                f"{model!r}: give a folder that holds {NEEDED}; no weights are needed"
            )
        parts_known = {
            "transformer": KNOWN[str(model)],
            "vae": {},
            "text_encoder": _UMT5_XXL,
            "scheduler": {"shift": 3.0},
        }
        return Blueprint(section, parts_known, local=False)
    parts = {name: _config(folder, name) for name in PARTS}
    weights = (folder / "transformer").glob("*.safetensors")
    return Blueprint(section, parts, local=any(weights))


def _config(folder: Path, part: str) -> dict[str, Any]:
    """Return the configuration of one part of a model's folder."""
    file = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    if not file.is_file():
        raise ValueError(
            f"expected a diffusers folder of a Wan text-to-video pipeline, got {folder}, which "
            f"has no {file.relative_to(folder)}: it must hold {NEEDED}"
        )
    return {
        key: value for key, value in json.loads(file.read_text()).items() if not key.startswith("_")
    }


def _wan(blueprint: Blueprint, blocks: int, text_blocks: int) -> Denoiser:
    """Build the Wan backbone of a blueprint."""
    from vidrl.backbones.wan import Wan, _size

    options = dict(blueprint.section.options)
    model, dtype = options.pop("model"), options.pop("dtype", "float32")
    size = _size(model, **{key: options.get(key) for key in ("height", "width", "frames", "fps")})
    wan = Wan(
        _pipe(blueprint.parts, blocks, text_blocks, getattr(torch, dtype)),
        **options | {"attention": "native"} | _integers(size),
    )
    wan.folder = Path(str(model)) if Path(str(model)).is_dir() else None
    return wan


def _integers(size: dict[str, float]) -> dict[str, Any]:
    """Return the sizes as integers, but fps as it is."""
    return {key: value if key == "fps" else int(value) for key, value in size.items()}


def _pipe(
    parts: dict[str, dict[str, Any]], blocks: int, text_blocks: int, dtype: torch.dtype
) -> Any:
    """Build a pipeline on the meta device, without a tokenizer."""
    import diffusers
    from transformers import UMT5Config, UMT5EncoderModel

    from vidrl.backbones.wan import _flow_euler

    kind = parts["scheduler"].get("prediction_type")  # UniPC's; the flow Euler scheduler has none
    scheduler = (
        diffusers.UniPCMultistepScheduler if kind else diffusers.FlowMatchEulerDiscreteScheduler
    ).from_config(parts["scheduler"])
    with torch.device("meta"):
        network = diffusers.WanTransformer3DModel(**parts["transformer"] | {"num_layers": blocks})
        vae = diffusers.AutoencoderKLWan(**parts["vae"])
        text = UMT5EncoderModel(UMT5Config(**parts["text_encoder"] | {"num_layers": text_blocks}))
    parts_of_dtype: list[Any] = [network, text]
    for part in parts_of_dtype:
        nn.Module.to(part, dtype)  # the class's own `to` warns of the few weights that stay float32
    return diffusers.WanPipeline(None, text, vae, _flow_euler(scheduler, None), network)
