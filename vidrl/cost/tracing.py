"""Count FLOPs and peak bytes of a computation on shapes alone, without computing numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from vidrl.rewards._networks.budget import Alive


def _attention(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any) -> int:
    """Return the FLOPs of the CPU's attention kernel."""
    return sdpa_flop_count(query.shape, key.shape, value.shape)


def _attention_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any
) -> int:
    """Return the FLOPs of the backward pass of the CPU's attention kernel."""
    return sdpa_backward_flop_count(grad.shape, query.shape, key.shape, value.shape)


FORMULAS: dict[Any, Any] = {  # torch's own registry knows the attention kernels of a GPU alone
    **flop_registry,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


class Ledger(Alive):
    """A dispatch mode that sums FLOPs, and tracks the bytes of living tensors and their peak.

    Storages of the tensors `known`, such as weights, do not count; those of other tensors that
    were made outside the mode do where a view of them is returned. One mode does both,
    because torch's FlopCounterMode keeps tensors alive that gradient checkpointing would
    free.
    """

    def __init__(self, known: Iterable[Tensor] = ()):
        super().__init__(known)
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = FORMULAS.get(func.overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        self._count(out)
        return out


def shapes() -> FakeTensorMode:
    """Return the mode under which tensors have shapes and no numbers."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def drop_numbers(module: nn.Module) -> None:
    """Replace a module's parameters and buffers by tensors without numbers, under `shapes()`."""
    for part in module.modules():
        for name, p in part._parameters.items():
            if p is not None:
                empty = torch.empty(p.shape, dtype=p.dtype, device="cpu")
                part._parameters[name] = nn.Parameter(empty, requires_grad=p.requires_grad)
        for name, b in part._buffers.items():
            if b is not None:
                part._buffers[name] = torch.empty(b.shape, dtype=b.dtype, device="cpu")


def trace(run: Callable[[], object], known: Iterable[Tensor] = ()) -> tuple[int, int]:
    """Return FLOPs and peak bytes of `run`.

    FLOPs are those of matrix products, convolutions and attention, two a multiply-add. Call
    it under `shapes()` to compute no numbers.

    Example:
        >>> with shapes():
        ...     layer, x = nn.Linear(4, 8, bias=False), torch.empty(2, 4)
        ...     trace(lambda: layer(x).relu(), [*layer.parameters(), x])
        (128, 128)
    """
    with Ledger(known) as ledger:
        run()
    return int(ledger.flops), ledger.peak


def size(module: nn.Module) -> int:
    """Return the bytes of a module's weights."""
    return sum(p.numel() * p.element_size() for p in module.parameters())
