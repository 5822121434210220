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

from . import families

PARTS = ("transformer", "vae", "text_encoder", "scheduler")
NEEDED = (
    "transformer/config.json, vae/config.json, text_encoder/config.json and "
    "scheduler/scheduler_config.json"
)

# Options of memory, which the trace itself applies (`choices`), and which a skeleton lacks.
TRACED = (
    "quantization",
    "gradient_checkpointing",
    "activation_offload",
    "group_offload",
    "vae_tiling",
    "vae_slicing",
    "compile",
    "text_encoder",
)


def _known() -> dict[str, dict[str, Any]]:
    """Return the transformers of the known models that the backbone `wan` drives."""
    entries = {name: families.find(name) for name in families.names()}
    return {
        name: entry["network"]
        for name, entry in entries.items()
        if entry["family"] == "wan" and "decoder" not in entry
    }


# what to do where clips have several chunks
ONE_CHUNK = (
    "estimate the backbone of one chunk, with its own options, or measure a round of the recipe"
)
NETWORK = "WanTransformer3DModel"  # the network of the backbone "wan" whose calls are traced


@dataclass(frozen=True)
class Blueprint:
    """A blueprint builds a backbone from its recipe section and each part's configuration.

    Without parts (`parts` empty), the plug-in itself is built.
    """

    section: Backbone
    parts: dict[str, dict[str, Any]]
    local: bool  # the weights lie on this machine
    family: str = ""  # the hub id of a known family that the backbone `pipeline` drives

    @property
    def blocks(self) -> int:
        """The number of the network's blocks; 0 where they are not all alike."""
        if self.family:
            network = families.find(self.family)["network"]
            return 0 if "dual_attention_layers" in network else int(network["num_layers"])
        return int(self.parts["transformer"]["num_layers"]) if self.parts else 0

    @property
    def causal(self) -> bool:
        """Return whether the decoder is known to cost more, linearly, for each latent frame."""
        if self.family:
            return str(families.find(self.family)["family"]) == "wan"
        return bool(self.parts)  # those of Wan; a decoder of another plug-in is traced whole

    @property
    def text_blocks(self) -> int:
        """The number of the text encoder's blocks."""
        return int(self.parts["text_encoder"]["num_layers"]) if self.parts else 0

    def build(self, blocks: int = 0, text_blocks: int = 0) -> Denoiser:
        """Build the backbone on the meta device, with fewer blocks if a number is given."""
        if self.family:
            return _family(self.section, self.family, blocks)
        if not self.parts:
            return plugin.load("backbones", self.section.name, **self.section.options)
        return _wan(self, blocks or self.blocks, text_blocks or self.text_blocks)

    def outline(self) -> Denoiser:
        """Build a backbone with the model's shapes; without weights it has one block."""
        return self.build(1, 1) if self.parts or self.family else self.build()


def read(section: Backbone) -> Blueprint:
    """Return the blueprint of a recipe's backbone, from a folder or a known model card.

    Raises ValueError for a model that is neither a folder of configurations nor a known hub
    id, and for clips of several chunks, before their model is read.
    """
    _check_chunks(section)
    model = section.options.get("model")
    if section.name == "pipeline" and families.known(model) and not here(str(model)):
        return Blueprint(section, {}, local=False, family=str(model))
    if section.name != "wan":
        return Blueprint(section, {}, local=True)
    known = _known()
    folder = Path(str(model))
    if not folder.is_dir():
        if str(model) not in known:
            raise ValueError(
                f"expected backbone.options.model to be a folder, or {' or '.join(known)}, got "
                f"{model!r}: give a folder that holds {NEEDED}; no weights are needed"
            )
        parts_known = {
            "transformer": known[str(model)],
            "vae": {},
            "text_encoder": families.text_config("umt5_xxl"),
            "scheduler": {"shift": 3.0},
        }
        return Blueprint(section, parts_known, local=False)
    parts = {name: _config(folder, name) for name in PARTS}
    weights = (folder / "transformer").glob("*.safetensors")
    return Blueprint(section, parts, local=any(weights))


def _check_chunks(section: Backbone) -> None:
    """Raise ValueError for a recipe of the backbone long with several chunks."""
    chunks = section.options.get("chunks", 4) if section.name == "long" else 1
    if chunks != 1:
        raise ValueError(
            "expected a backbone that makes clips in one piece for an estimate of cost, got long "
            f"with {chunks} chunks: {ONE_CHUNK}"
        )


def here(model: str) -> bool:
    """Return whether a model is a folder, or in the cache of huggingface_hub."""
    from huggingface_hub import try_to_load_from_cache

    if Path(model).exists():
        return True
    try:
        return isinstance(try_to_load_from_cache(model, "model_index.json"), str)
    except ValueError:  # no hub id has such a form
        return False


def _family(section: Backbone, model: str, blocks: int) -> Denoiser:
    """Build the skeleton of a known family with the options of a recipe's section."""
    options = section.options
    return families.Skeleton(
        model,
        options.get("call"),
        blocks,
        getattr(torch, options.get("dtype", "float32")),
        options.get("fps"),
        int(options.get("decode_chunk", 1)),
    )


def _config(folder: Path, part: str) -> dict[str, Any]:
    """Return the configuration of one part of a model's folder."""
    file = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    if not file.is_file():
        raise ValueError(
            f"expected a diffusers folder of a Wan text-to-video pipeline, got {folder}, which "
            f"has no {file.relative_to(folder)}: it must hold {NEEDED}"
        )
    found = json.loads(file.read_text())
    if part == "transformer" and found.get("_class_name", NETWORK) != NETWORK:
        raise ValueError(
            f"expected a network of the class {NETWORK} for an estimate of cost, got "
            f"{found['_class_name']} in {file}: measure a round of the recipe instead"
        )
    return {key: value for key, value in found.items() if not key.startswith("_")}


def _wan(blueprint: Blueprint, blocks: int, text_blocks: int) -> Denoiser:
    """Build the Wan backbone of a blueprint."""
    from vidrl.backbones._wan_pipelines import SIZES, WAN
    from vidrl.backbones.wan import Wan, _size

    options = {k: v for k, v in blueprint.section.options.items() if k not in TRACED}
    model, dtype = options.pop("model"), options.pop("dtype", "float32")
    asked = {key: options.get(key) for key in ("height", "width", "frames", "fps")}
    size = _size(model, SIZES[WAN], **asked)
    wan = Wan(
        _pipe(blueprint.parts, blocks, text_blocks, getattr(torch, dtype)),
        **options | {"attention": "sdpa", "rollout_attention": ""} | _integers(size),
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

    from vidrl.backbones import _wan_pipelines

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
    pipe: Any = diffusers.WanPipeline(None, text, vae, scheduler, network)
    pipe.scheduler = _wan_pipelines.scheduler(pipe, None)
    return pipe
