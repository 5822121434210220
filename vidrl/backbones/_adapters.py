"""Read and write the LoRA files of a driven pipeline: one file for each network.

A file has the pipeline's own format if the pipeline has one.
`pipe.load_lora_weights(folder)` reads the first network's file. A second network's file is
read by its name, with the pipeline's own switch: `pipe.load_lora_weights(folder,
weight_name="transformer_2_lora_weights.safetensors", load_into_transformer_2=True)`. If a
pipeline reads no LoRA, `network.load_lora_adapter(folder, prefix="transformer",
use_safetensors=True)` reads it, if the network's class has that method; without the last
argument diffusers looks for a pickled file. vidrl reads all of these files.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vidrl import lora
from vidrl.rewards._files import atomic_file

FIRST = "pytorch_lora_weights.safetensors"


def save(
    pipe: Any,
    trained: Mapping[str, nn.Module],
    folder: Path,
    weights: Mapping[str, Tensor],
    config: Mapping[str, object],
) -> None:
    """Write the adapter of each trained network; all files appear together or not at all."""
    plain = {key: sorted(v) if isinstance(v, (set, frozenset)) else v for key, v in config.items()}
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file.new_files(folder) as private:
        for name in trained:
            prefix = f"{name}." if len(trained) > 1 else ""
            own_weights = {
                key.removeprefix(prefix): value.detach().cpu().contiguous()
                for key, value in weights.items()
                if key.startswith(prefix)
            }
            _write(pipe, Path(private), name, own_weights, _of_network(plain, prefix))


def _of_network(config: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return a configuration whose module names have no network's name before them."""
    targets = config.get("target_modules")
    if not prefix or not isinstance(targets, list):
        return dict(config)
    return {**config, "target_modules": [target.removeprefix(prefix) for target in targets]}


def _write(
    pipe: Any, folder: Path, name: str, weights: dict[str, Tensor], config: dict[str, Any]
) -> None:
    """Write one network's file: by the pipeline's own writer if it has one, else directly."""
    written, name_in_pipeline = _written_networks(pipe), _name_in_pipeline(pipe, name)
    file = FIRST if name == name_in_pipeline or name in written or not written else _file(name)
    if name_in_pipeline in written:
        given = {
            f"{name_in_pipeline}_lora_layers": weights,
            f"{name_in_pipeline}_lora_adapter_metadata": config,
        }
        pipe.save_lora_weights(folder, weight_name=file, **given)
        return
    from safetensors.torch import save_file

    meta = json.dumps({f"{name}.{key}": value for key, value in config.items()}, sort_keys=True)
    file = FIRST if not (folder / FIRST).exists() else _file(name)
    save_file(
        {f"{name}.{key}": value for key, value in weights.items()},
        folder / file,
        {"format": "pt", "lora_adapter_metadata": meta},
    )


def _file(name: str) -> str:
    """Return the file name of a network that is not the pipeline's first."""
    return f"{name}_lora_weights.safetensors"


def _written_networks(pipe: Any) -> list[str]:
    """Return the networks whose LoRA the pipeline's own writer can write."""
    writer = getattr(pipe, "save_lora_weights", None)
    taken = inspect.signature(writer).parameters if writer else ()
    return [key.removesuffix("_lora_layers") for key in taken if key.endswith("_lora_layers")]


def _name_in_pipeline(pipe: Any, name: str) -> str:
    """Return the name under which a pipeline writes a network.

    A second expert's LoRA is written under the name of the first: "transformer" for
    "transformer_2".
    """
    return name if name in _written_networks(pipe) else name.rpartition("_")[0] or name


def load(
    trained: Mapping[str, nn.Module], folder: Path, partial: bool
) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Return weights and LoraConfig arguments of a LoRA that `save` wrote, or of any LoRA file.

    A file of another program is read as the first network's. Raises ValueError for parts
    that do not fit; with `partial` these are left out with a warning.
    """
    (first, network), *others = trained.items()
    found = _fitted(
        folder / FIRST if others and (folder / FIRST).exists() else folder, first, network, partial
    )
    if not others:
        return found.weights, found.config()
    parts = {first: found}
    for name, other in others:
        if (folder / _file(name)).exists():
            parts[name] = _fitted(folder / _file(name), name, other, partial)
    return _combined(parts)


def _fitted(path: Path, name: str, network: nn.Module, partial: bool) -> lora.Lora:
    """Return the LoRA in a file, checked against the network."""
    return lora.fitted(lora.read(path, prefix=f"{name}."), network, partial)


def _combined(parts: Mapping[str, lora.Lora]) -> tuple[dict[str, Tensor], dict[str, object]]:
    """Combine the adapters of several networks, with the network's name before each module's."""
    pairs = {
        f"{name}.{key}": pair for name, part in parts.items() for key, pair in part.pairs.items()
    }
    alphas = {
        f"{name}.{key}": alpha for name, part in parts.items() for key, alpha in part.alphas.items()
    }
    combined = lora.Lora(pairs, alphas)
    return combined.weights, combined.config()


def notes(pipe: Any, trained: Mapping[str, nn.Module]) -> list[str]:
    """Return messages to show before training about programs that cannot read the adapter."""
    messages = []
    for name, network in trained.items():
        reader = hasattr(network, "load_lora_adapter")  # which the pipeline's own loader calls
        if reader and _name_in_pipeline(pipe, name) in _written_networks(pipe):
            continue
        way_to_read = (
            f"pipe.{name}.load_lora_adapter(folder, prefix={name!r}, use_safetensors=True) reads "
            "the LoRA that is written"
            if reader
            else f"its {type(network).__name__} has no load_lora_adapter, so that only vidrl reads "
            "the LoRA that is written: train with policy.full = true for a network that "
            "diffusers loads"
        )
        messages.append(f"{type(pipe).__name__} cannot load a LoRA into its {name}: {way_to_read}")
    return messages
