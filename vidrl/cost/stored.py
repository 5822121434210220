"""Store a network's frozen weights and saved activations as the memory options do, on shapes.

The trace needs no quantization library: a packed layer has as many bytes as the library's,
and makes the full weight anew in each pass, as bitsandbytes and diffusers' layerwise
casting do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from vidrl.backbones import _quantization

from .choices import BYTES


class _Unpacked(torch.autograd.Function):
    """A product with a weight that exists in full only while it is used."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """Return x Wᵀ, and keep nothing for the backward pass."""
        ctx.shape, ctx.dtype = shape, dtype
        weight = torch.empty(shape, dtype=dtype)
        return x.to(dtype) @ weight.T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient of x; the weight is made once more."""
        weight = torch.empty(ctx.shape, dtype=ctx.dtype)
        return grads[0] @ weight, None, None


def _forward(layer: nn.Linear, shape: torch.Size, dtype: torch.dtype, x: Tensor) -> Tensor:
    """Return what a packed layer computes."""
    out: Tensor = _Unpacked.apply(x, shape, dtype)  # type: ignore[no-untyped-call]
    return out if layer.bias is None else out + layer.bias


def block_lists(network: nn.Module) -> list[nn.ModuleList]:
    """Return the lists of blocks of a network: its own children that are module lists.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 2), nn.ModuleList([nn.Linear(2, 2)]))
        >>> [len(blocks) for blocks in block_lists(network)]
        [1]
    """
    return [child for child in network.children() if isinstance(child, nn.ModuleList)]


def linear_layers(network: nn.Module) -> list[nn.Linear]:
    """Return the frozen linear layers of a network's blocks, which quantization stores."""
    layers = [network.get_submodule(name) for name in _quantization.layers(network)]
    plain = [layer for layer in layers if type(layer) is nn.Linear]
    return [layer for layer in plain if not layer.weight.requires_grad]


def quantize(network: nn.Module, kind: str) -> float:
    """Replace the weights of linear layers by packed ones; return the number of weights.

    Call it under `tracing.shapes()`. `kind`: a key of `choices.BYTES`, or "none".
    """
    if kind == "none":
        return 0.0
    numbers = 0
    for layer in linear_layers(network):
        shape, dtype = layer.weight.shape, layer.weight.dtype
        packed = torch.empty(ceil(layer.weight.numel() * BYTES[kind]), dtype=torch.uint8)
        numbers += layer.weight.numel()
        layer.weight = nn.Parameter(packed, requires_grad=False)
        layer.forward = partial(_forward, layer, shape, dtype)  # type: ignore[method-assign]
    return float(numbers)


def frozen_bytes(module: nn.Module) -> int:
    """Return the bytes of the parameters that are not trained."""
    return sum(p.numel() * p.element_size() for p in module.parameters() if not p.requires_grad)


def largest(modules: Iterable[nn.Module]) -> int:
    """Return the frozen bytes of the module that has the most, 0 without a module."""
    return max(map(frozen_bytes, modules), default=0)


class Saved:
    """The bytes of the tensors that wait in host memory for the backward pass."""

    def __init__(self) -> None:
        self.bytes = 0


@contextmanager
def in_host_memory(on: bool, known: Iterable[Tensor] = ()) -> Iterator[Saved]:
    """Let tensors that the backward pass needs leave the trace, as if they were on the host.

    Weights, the tensors `known`, stay where they are.
    """
    saved = Saved()
    if not on:
        yield saved
        return
    stays = {id(tensor.untyped_storage()) for tensor in known}

    def pack(x: Tensor) -> Any:
        if id(x.untyped_storage()) in stays or isinstance(x, nn.Parameter):
            return x
        saved.bytes += x.numel() * x.element_size()
        return x.shape, x.dtype

    def unpack(packed: Any) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        shape, dtype = packed
        return torch.empty(shape, dtype=dtype)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield saved
