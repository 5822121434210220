"""Store the frozen weights of a network in 8 or 4 bits; a LoRA in float32 is trained on top.

diffusers, torchao and bitsandbytes quantise and compute; this module chooses the layers.
Every kind stores weights alone: activations keep their precision, so that a row of a batch
is computed as if it were alone. Kinds that quantise activations too, such as LLM.int8, are
not offered: there a row changes its neighbours, and the ratio of a policy to itself is not
1.
"""

from __future__ import annotations

import importlib
from typing import Any, Literal

import torch
from torch import nn

from vidrl.lookup.extras import install

Kind = Literal["none", "fp8", "int8", "nf4"]
# The package that a kind needs; fp8 needs diffusers alone.
PACKAGES = {"int8": "torchao", "nf4": "bitsandbytes"}


def check(kind: str) -> None:
    """Raise ImportError if the package of a kind is not installed, before a model is loaded."""
    package = PACKAGES.get(kind)
    if package is None:
        return
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f'backbone.options.quantization = "{kind}" needs {package} ({error}): '
            f'{install("quantization")}, or take quantization = "fp8", which needs no package'
        ) from error


def quantize(network: nn.Module, kind: Kind) -> None:
    """Quantise the weights of the linear layers in a network's blocks, in place.

    The bytes of a weight are 1 (fp8, int8), or 1/2 and 4/64 for a float32 scale of each 64
    weights (nf4, QLoRA, arXiv 2305.14314). Raises ValueError for a network without such
    layers.
    """
    names = layers(network)
    if not names:
        raise ValueError(
            f"expected linear layers in blocks of {type(network).__name__}, got none: set "
            'backbone.options.quantization = "none"'
        )
    {"fp8": _float8, "int8": _int8, "nf4": _nf4}[kind](network, names)


def layers(network: nn.Module) -> list[str]:
    """Return the names of the linear layers that lie in a network's lists of blocks.

    Layers outside the blocks, such as the embeddings of time and text, and layers that the
    family keeps in float32, hold few weights, and every block depends on them.

    Example:
        >>> class Net(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.time_embedder = nn.Linear(2, 2)
        ...         self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))])
        >>> layers(Net())
        ['blocks.0.0']
    """
    lists = tuple(
        f"{name}." for name, part in network.named_modules() if isinstance(part, nn.ModuleList)
    )
    kept = getattr(network, "_keep_in_fp32_modules", None) or ()
    return [
        name
        for name, part in network.named_modules()
        if isinstance(part, nn.Linear)
        and name.startswith(lists)
        and not any(keep in name.split(".") for keep in kept)
    ]


def _float8(network: nn.Module, names: list[str]) -> None:
    """Store weights as float8 (e4m3), and cast a layer to the network's dtype while it works."""
    from diffusers.hooks import apply_layerwise_casting

    dtype = network.dtype
    for name in names:
        # no patterns and no classes: the casting applies to the layer itself
        apply_layerwise_casting(
            network.get_submodule(name),
            storage_dtype=torch.float8_e4m3fn,
            compute_dtype=dtype,  # type: ignore[arg-type]
            skip_modules_pattern=None,  # type: ignore[arg-type]
        )


def _int8(network: nn.Module, names: list[str]) -> None:
    """Store weights as int8 with a scale for each output."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    chosen = set(names)
    quantize_(network, Int8WeightOnlyConfig(), lambda _, name: name in chosen)


def _nf4(network: nn.Module, names: list[str]) -> None:
    """Store weights as 4-bit normal floats, each block of 64 with a scale."""
    import bitsandbytes

    dtype = network.dtype
    # a GPU quantises in seconds what takes a CPU about a minute for each billion weights
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for name in names:
        layer: Any = network.get_submodule(name)
        created = bitsandbytes.nn.Linear4bit(
            layer.in_features,
            layer.out_features,
            layer.bias is not None,
            compute_dtype=dtype,
            quant_type="nf4",
            compress_statistics=False,
            device="meta",
        )
        weight = bitsandbytes.nn.Params4bit(
            layer.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=False
        )
        # bitsandbytes quantises the weight when it is moved
        created.weight, created.bias = weight.to(device), layer.bias
        network.set_submodule(name, created.eval())
    network.is_loaded_in_4bit = True  # type: ignore[assignment]  # peft then takes its layer for it
