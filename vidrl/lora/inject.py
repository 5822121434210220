"""Put a new LoRA, or one of a file, into a network by peft, or merge it into the weights."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vidrl.lookup.extras import install

from .targets import resolve


def begin(
    network: nn.Module, rank: int, alpha: float, targets: Sequence[str], seed: int
) -> dict[str, Any]:
    """Put a new LoRA into the network; return the arguments of its peft.LoraConfig.

    The matrix B is zero, so the network's output does not change. A is drawn from `seed`.
    """
    config = {"r": rank, "lora_alpha": alpha, "target_modules": resolve(network, targets)}
    _inject(network, config, seed)
    return config


def put(network: nn.Module, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Put a LoRA's weights, by peft's names, into the network.

    The LoRA is float32 even in a network of half precision, since optimisers need the
    precision.
    """
    _inject(network, config, 0, weights)
    for name, parameter in network.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.float()
    _peft().set_peft_model_state_dict(network, dict(weights))


def merge(network: nn.Module) -> None:
    """Add the network's LoRA to its weights and remove the LoRA, as peft's `merge_and_unload`.

    This function adds the matrices itself, because peft's method fails for a 3D convolution
    with a 1 x 1 x 1 kernel.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers: list[tuple[str, Any]] = [
        (n, m) for n, m in network.named_modules() if isinstance(m, BaseTunerLayer)
    ]
    for name, layer in layers:
        base = layer.get_base_layer()
        up = layer.lora_B["default"]
        scale = layer.scaling["default"]
        delta = up.weight.flatten(1) @ layer.lora_A["default"].weight.flatten(1)
        base.weight.data += scale * delta.data.view_as(base.weight)
        if up.bias is not None:
            base.bias.data += scale * up.bias.data
        network.set_submodule(name, base)
    del network.peft_config


def _inject(
    network: nn.Module,
    config: Mapping[str, Any],
    seed: int,
    only: Mapping[str, Tensor] | None = None,
) -> None:
    """Put adapters on the targets of the configuration, or on the modules named in `only`."""
    peft = _peft()
    with (
        torch.random.fork_rng(devices=[]),
        warnings.catch_warnings(),
        _hidden_float8(network),
    ):
        torch.manual_seed(seed)
        # peft warns if `target_modules` match modules that `only` does not name
        warnings.filterwarnings("ignore", "While injecting the PEFT adapters")
        # a LoRA is merged into the weights by `merge` alone, and never into quantised ones
        warnings.filterwarnings("ignore", "TorchaoLoraLinear was instantiated without")
        peft.inject_adapter_in_model(
            peft.LoraConfig(**config), network, state_dict=dict(only) if only else None
        )


@contextmanager
def _hidden_float8(network: nn.Module) -> Iterator[None]:
    """Let weights that are stored as float8 look like float32 within this context.

    peft casts a new LoRA to the precision of the layer that the LoRA belongs to. Rounded to
    float8, the LoRA's small random numbers would lose most of their digits.
    """
    hidden = [(p, p.data) for p in network.parameters() if p.dtype == torch.float8_e4m3fn]
    for parameter, data in hidden:
        parameter.data = data.new_empty(0, dtype=torch.float32)
    try:
        yield
    finally:
        for parameter, data in hidden:
            parameter.data = data


def _peft() -> Any:
    """Return the library; raise ImportError with the command that installs it."""
    try:
        import peft
    except ImportError as error:
        raise ImportError(
            f"expected peft for a LoRA, found none: {install('train')}, or policy.full"
        ) from error
    return peft
