"""Let one network compute attention by a chosen kernel, and no other network of the process.

All processors of diffusers, of transformers and of UNets, end in torch's
`scaled_dot_product_attention`. So an attention module is given a subclass of its own class,
which runs the module's forward pass within a `TorchFunctionMode`: within it, the calls of this
function go to the kernel. The mode belongs to a thread and to the call of one module, so nothing
is left behind when the call ends or raises. A module that gradient checkpointing computes again,
in the backward pass, is called in the same way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from .kernels import AttentionError, Kernel, find


class Switch(TorchFunctionMode):
    """A context in which calls of torch's attention go to a kernel.

    `calls` counts the calls that the kernel computed, under "kernel", and the calls that torch
    computed because the kernel cannot, under the reason. `flops` are those of all calls.
    """

    def __init__(self, kernel: Kernel):
        super().__init__()
        self.kernel = kernel
        self.calls = Counter[str]()
        self.flops = 0.0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is scaled_dot_product_attention:
            return self.attend(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Return attention by the kernel, or by torch for a call that the kernel does not take."""
        query, key, value, attn_mask = as_autocast(query, key, value, attn_mask)
        reason = left_to_torch(self.kernel, query, key, attn_mask, dropout_p, is_causal)
        self.calls[reason or "kernel"] += 1
        self.flops += 4.0 * query.numel() * key.shape[2]
        if reason:
            return scaled_dot_product_attention(
                query, key, value, attn_mask, dropout_p, is_causal, scale=scale,
                enable_gqa=enable_gqa,
            )  # fmt: skip
        check_types(self.kernel, query, key, value)
        if enable_gqa and key.shape[1] != query.shape[1]:
            repeats = query.shape[1] // key.shape[1]
            key, value = (x.repeat_interleave(repeats, 1) for x in (key, value))
        return self.kernel.call(query, key, value, attn_mask, is_causal, scale)


def as_autocast(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return query, key, value and an additive mask in autocast's type, if autocast is on.

    torch's own attention is converted so by autocast. A kernel of a package is not: on CUDA
    the normalisation of query and key gives float32, and the value keeps half precision.
    """
    kind = query.device.type
    if not torch.is_autocast_enabled(kind) or query.dtype == torch.float64:
        return query, key, value, mask
    half = torch.get_autocast_dtype(kind)
    query, key, value = (x.to(half) for x in (query, key, value))
    return query, key, value, mask if mask is None or mask.dtype == torch.bool else mask.to(half)


def left_to_torch(
    kernel: Kernel,
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    dropout: float,
    causal: bool,
) -> str:
    """Return why torch must compute this call in the kernel's place; "" where it need not."""
    if mask is not None and not kernel.masks:
        return "a mask"
    # packages align a causal mask to the last key, and torch aligns it to the first
    if causal and query.shape[2] != key.shape[2]:
        return "a causal mask of unequal lengths"
    return "dropout" if dropout else ""


def check_types(kernel: Kernel, *inputs: Tensor) -> None:
    """Raise `AttentionError` for query, key or value of a type that the kernel does not take."""
    found = {x.dtype for x in inputs} - set(kernel.dtypes)
    if found:
        taken = ", ".join(_short(dtype) for dtype in kernel.dtypes)
        half = torch.bfloat16 in kernel.dtypes and torch.float32 not in kernel.dtypes
        cure = "set train.mixed_precision = 'bf16'" if half and torch.float32 in found else ""
        cure = cure or "let the network compute in one of these types"
        raise AttentionError(
            f"attention {kernel.name!r}: expected query, key and value of {taken}, got "
            f"{', '.join(sorted(map(_short, found)))}: {cure}, or use 'sdpa'"
        )


def _short(dtype: torch.dtype) -> str:
    """Return the name of a type without the package's."""
    return str(dtype).removeprefix("torch.")


class _Former(NamedTuple):
    """What an attention module had before its kernel was switched."""

    module: nn.Module
    kind: type
    switch: Any
    processor: Any
    backend: Any


def put(network: nn.Module, name: str | Kernel) -> list[_Former]:
    """Let the attention modules of a network use a kernel; return what `restore` needs.

    The kernel is given by its name or as it is.

    diffusers' own switch, where a processor has one, is set to torch's attention, which the
    kernel then replaces: another library's choice for the whole process has no effect.
    Raises `AttentionError` for a network without attention modules, unless torch's own attention
    is asked for.
    """
    kernel = name if isinstance(name, Kernel) else find(name)
    modules = attention_modules(network)
    if not modules and kernel.name != "sdpa":
        raise AttentionError(
            f"attention {kernel.name!r} cannot be used in {type(network).__name__}: it has no "
            "attention modules with a processor, and would go on with torch's own attention; use "
            "'sdpa'"
        )
    switch = None if kernel.name == "sdpa" else Switch(kernel)
    return [_put_module(module, switch) for module in modules]


def _put_module(module: nn.Module, switch: Switch | None) -> _Former:
    """Switch one attention module, and return what it had before."""
    processor: Any = getattr(module, "processor", None)
    kind: Any = type(module)
    former = _Former(
        module,
        kind,
        module.__dict__.get("_vidrl_switch"),
        processor,
        getattr(processor, "_attention_backend", None),
    )
    if switch is not None and not hasattr(kind, "_vidrl_base"):
        module.__class__ = switched_class(kind)
    module.__dict__["_vidrl_switch"] = switch
    if hasattr(processor, "_attention_backend"):
        from diffusers.models.attention_dispatch import AttentionBackendName

        processor._attention_backend = AttentionBackendName.NATIVE
    return former


def restore(before: list[_Former]) -> None:
    """Give attention modules back what `put` found, in reverse order."""
    for former in reversed(before):
        former.module.__class__ = former.kind
        former.module.__dict__.pop("_vidrl_switch", None)
        if former.switch is not None:
            former.module.__dict__["_vidrl_switch"] = former.switch
        if hasattr(former.processor, "_attention_backend"):
            former.processor._attention_backend = former.backend


@contextmanager
def used(networks: list[nn.Module], name: str | Kernel) -> Iterator[list[Switch]]:
    """Use a kernel in networks within this context; yield the networks' switches."""
    before: list[_Former] = []
    try:
        for network in networks:
            before += put(network, name)
        yield switches(networks)
    finally:
        restore(before)


def switches(networks: list[nn.Module]) -> list[Switch]:
    """Return the switches that are in networks now, each once."""
    found = [
        module.__dict__.get("_vidrl_switch")
        for network in networks
        for module in attention_modules(network)
    ]
    return list({id(switch): switch for switch in found if switch is not None}.values())


def attention_modules(network: nn.Module) -> list[nn.Module]:
    """Return the modules with a processor, which is how diffusers marks attention."""
    return [module for module in network.modules() if hasattr(module, "processor")]


@cache
def switched_class(kind: type) -> type:
    """Return a subclass of a module's class whose calls run within the module's switch.

    A subclass, and not another `forward`: offloading and sharding replace a module's `forward`
    or class, before or after, and a copy of the module is switched as well.
    """

    def __call__(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        switch = self.__dict__.get("_vidrl_switch")
        if switch is None:
            return kind.__call__(self, *args, **kwargs)
        with switch:
            return kind.__call__(self, *args, **kwargs)

    names = {"__call__": __call__, "_vidrl_base": kind, "__module__": kind.__module__}
    created = type(kind.__name__, (kind,), names)
    created.__qualname__ = kind.__qualname__
    return created
