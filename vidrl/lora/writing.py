"""Write a LoRA as a file that other programs read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidrl.rewards._files import atomic_file

from .file import BIAS, A, B, Lora
from .names import KOHYA, to_original

FILES = {"diffusers": "pytorch_lora_weights.safetensors", "peft": "adapter_model.safetensors"}


def write(lora: Lora, form: str, out: Path) -> Path:
    """Write one of `FORMATS`, with alpha; return the file.

    `out`: for "diffusers" and "peft" a folder; for "comfyui" and "kohya" a file that ends
    in .safetensors.

    - "diffusers": `pipe.load_lora_weights(folder)` reads it; alpha is in the file's
      metadata.
    - "peft": `PeftModel.from_pretrained(network, folder)` reads it; alpha is in
      adapter_config.json.
    - "comfyui": the names of Wan's authors after "diffusion_model.", alpha as tensors.
    - "kohya": the names that kohya's musubi-tuner writes, "lora_unet_...lora_down", alpha
      as tensors.

    For the last two, raises ValueError for a module that Wan does not have, since the
    original names of other families are not known.
    """
    if form in FILES:
        return folder(lora.weights, lora.config(), form, out)
    tensors = _comfyui(lora) if form == "comfyui" else _kohya(lora)
    out.parent.mkdir(parents=True, exist_ok=True)
    return save(tensors, out)


def folder(weights: Mapping[str, Tensor], config: Mapping[str, Any], form: str, out: Path) -> Path:
    """Write diffusers' or peft's format from peft's tensors and its LoraConfig arguments."""
    out.mkdir(parents=True, exist_ok=True)
    file = out / FILES[form]
    if form == "diffusers":
        # One writer serves all families: each writes the prefix "transformer." and the metadata
        from diffusers import WanPipeline

        plain = {
            key: sorted(v) if isinstance(v, (set, frozenset)) else v for key, v in config.items()
        }
        with atomic_file.new_files(out) as private:
            WanPipeline.save_lora_weights(
                private, _contiguous(weights), transformer_lora_adapter_metadata=plain
            )
        return file
    from peft import LoraConfig

    with atomic_file.new_files(out) as private:
        LoraConfig(**config).save_pretrained(str(private))
    return save({f"base_model.model.{key}": value for key, value in weights.items()}, file)


def save(tensors: Mapping[str, Tensor], file: Path) -> Path:
    """Write tensors as safetensors, completely or not at all, with the mode of any new file.

    safetensors itself writes files that only their owner may read (mode 0600).
    """
    from safetensors.torch import save_file

    with atomic_file.new_path(file) as private:
        save_file(_contiguous(tensors), private, {"format": "pt"})
    return file


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors as safetensors needs them: on the CPU and contiguous."""
    return {key: value.detach().cpu().contiguous() for key, value in tensors.items()}


def _original_names(lora: Lora, form: str) -> dict[str, str]:
    """Return the names of Wan's authors by diffusers' names."""
    original_names = {name: to_original(name) for name in lora.pairs}
    unknown = [name for name, original in original_names.items() if original is None]
    if unknown:
        raise ValueError(
            f"--format {form}: expected modules of Wan, the one family whose original names are "
            f"known, got {len(unknown)} others, as {unknown[0]}, in {lora.source}: take --format "
            "diffusers or peft"
        )
    return {name: original for name, original in original_names.items() if original}


def _comfyui(lora: Lora) -> dict[str, Tensor]:
    """Return the tensors under ComfyUI's names."""
    tensors: dict[str, Tensor] = {}
    for name, original in _original_names(lora, "comfyui").items():
        pair, key = lora.pairs[name], f"diffusion_model.{original}"
        tensors |= {
            f"{key}.{A}": pair[A],
            f"{key}.{B}": pair[B],
            f"{key}.alpha": torch.tensor(lora.alphas[name]),
        }
        if BIAS in pair:
            tensors[f"{key}.diff_b"] = pair[BIAS] * lora.scale(name)
    return tensors


def _kohya(lora: Lora) -> dict[str, Tensor]:
    """Return the tensors under kohya's names; raise ValueError for biases."""
    if lora.biased:
        raise ValueError(
            f"--format kohya has no place for the biases in {lora.source}: take comfyui, "
            "diffusers or peft"
        )
    tensors: dict[str, Tensor] = {}
    for name, original in _original_names(lora, "kohya").items():
        pair, key = lora.pairs[name], KOHYA + original.replace(".", "_")
        tensors |= {f"{key}.lora_down.weight": pair[A], f"{key}.lora_up.weight": pair[B]}
        tensors[f"{key}.alpha"] = torch.tensor(lora.alphas[name])
    return tensors
