"""A LoRA in a network, by peft: new, from a file, or added to the weights for good."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vidrl.extras import install

from .targets import resolve


def begin(network: nn.Module, rank: int, alpha: float, targets: Sequence[str], seed: int) -> dict[str, Any]:
    """Put a new LoRA into the network, whose output is 0; return the arguments of its peft.LoraConfig."""
    config = {"r": rank, "lora_alpha": alpha, "target_modules": resolve(network, targets)}
    _inject(network, config, seed)
    return config


def put(network: nn.Module, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Put a LoRA's weights, by peft's names, into the network, in float32 whatever the network's precision is."""
    _inject(network, config, 0, weights)
    for name, parameter in network.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.float()
    _peft().set_peft_model_state_dict(network, dict(weights))


def merge(network: nn.Module) -> None:
    """Add the network's LoRA to its weights and take it out, as peft's `merge_and_unload`.

    The sum is formed here, because peft's own fails for a 3D convolution of one pixel.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, layer in list(network.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            base, up, scale = layer.get_base_layer(), layer.lora_B["default"], layer.scaling["default"]
            delta = up.weight.flatten(1) @ layer.lora_A["default"].weight.flatten(1)
            base.weight.data += scale * delta.data.view_as(base.weight)
            if up.bias is not None:
                base.bias.data += scale * up.bias.data
            network.set_submodule(name, base)
    del network.peft_config


def _inject(network: nn.Module, config: Mapping[str, Any], seed: int, only: Mapping[str, Tensor] | None = None) -> None:
    """New adapters on the config's targets, or on exactly the modules that the tensors `only` name."""
    peft = _peft()
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(seed)
        warnings.filterwarnings("ignore", "While injecting the PEFT adapters")  # of other modules that targets match
        peft.inject_adapter_in_model(peft.LoraConfig(**config), network, state_dict=dict(only) if only else None)


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ImportError(f"expected peft for a LoRA, found none: {install('train')}, or policy.full") from error
    return peft
