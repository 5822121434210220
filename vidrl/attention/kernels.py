"""Define the attention kernels by their names, and what each of them can do.

A kernel computes softmax(scale · q kᵀ + mask) v. Legend: B batch, H heads, L queries, M keys, D
channels of a head; query (B, H, L, D), key and value (B, H, M, D), in torch's order of
dimensions. The kernels of torch are called through `scaled_dot_product_attention` with a list of
priorities; all others are functions of a package.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from vidrl.lookup.extras import install
from vidrl.plugin import nearest

# of query, key, value, mask or None, whether it is causal, and the scale or None
Call = Callable[[Tensor, Tensor, Tensor, "Tensor | None", bool, "float | None"], Tensor]
HALF = (torch.bfloat16, torch.float16)
WIDE = (*HALF, torch.float32, torch.float64)
AUTO = "auto"


class AttentionError(RuntimeError):
    """Says that a kernel is missing, fails here, has no gradients or gives wrong numbers."""


@dataclass(frozen=True)
class Kernel:
    """A way to compute attention, and what it can do."""

    name: str
    """The value of the option `attention`."""
    about: str
    """What it is, in a few words."""
    call: Call
    """Computes attention; a mask is boolean or additive and broadcasts to (B, H, L, M)."""
    package: str = ""
    """The module that it is imported from; "" is torch."""
    cure: str = ""
    """The command that installs the package."""
    cuda: bool = False
    """Whether it needs a CUDA device."""
    dtypes: tuple[torch.dtype, ...] = WIDE
    """The types of query, key and value that it takes."""
    backward: bool = True
    """Whether it has gradients; a kernel without them can only sample."""
    masks: bool = True
    """Whether it takes masks; calls with a mask go to torch's attention otherwise."""
    operator: str = ""
    """The beginning of the name of torch's operator that runs where torch has taken this kernel."""

    def missing(self) -> str:
        """Return why this kernel cannot be called on this machine; "" where it can."""
        if self.package and not _installed(self.package):
            return f"the module {self.package} is not installed: {self.cure}"
        if self.cuda and not torch.cuda.is_available():
            return "it needs a CUDA device, and this machine has none"
        return ""


@cache
def _installed(module: str) -> bool:
    """Return whether a module can be found, without importing it where that is possible."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # of a parent package, or a stand-in without a spec
        return False


# torch's switches are the process's own: two threads that set and restore them would mix them up
_LOCK = threading.Lock()


def _torch(*order: SDPBackend) -> Call:
    """Return torch's attention with kernels in an order of priority; the switches are restored."""

    def call(
        q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float | None
    ) -> Tensor:
        # a lock cannot be compiled, and compiled code holds the switches no longer than a call
        alone = nullcontext() if torch.compiler.is_compiling() else _LOCK
        with alone, sdpa_kernel(list(order), set_priority=True) if order else nullcontext():
            return scaled_dot_product_attention(q, k, v, mask, 0.0, causal, scale=scale)

    return call


def _first(result: Any) -> Tensor:
    """Return the output of a function that may return the sums of the weights as well."""
    return result[0] if isinstance(result, tuple) else result


def _flash(
    module: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    causal: bool,
    scale: float | None,
) -> Tensor:
    """Call `flash_attn_func` of a package, which puts the heads after the tokens."""
    function = importlib.import_module(module).flash_attn_func
    q, k, v = (x.transpose(1, 2).contiguous() for x in (q, k, v))
    return _first(function(q, k, v, softmax_scale=scale, causal=causal)).transpose(1, 2)


def _xformers(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float | None
) -> Tensor:
    """Call xformers' memory-efficient attention, whose mask is a bias of (B, H, L, M)."""
    ops = importlib.import_module("xformers.ops")
    bias = ops.LowerTriangularMask() if causal else mask
    bias = _bias(mask, q, k.shape[2]) if mask is not None and not causal else bias
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    out: Tensor = ops.memory_efficient_attention(q, k, v, attn_bias=bias, scale=scale)
    return out.transpose(1, 2)


def _bias(mask: Tensor, q: Tensor, keys: int) -> Tensor:
    """Return a mask as an additive one (B, H, L, M), whose rows begin at multiples of 8 numbers.

    xformers reads rows of a bias only at such addresses.
    """
    added = additive(mask, q.dtype)
    rows = q.new_zeros(*q.shape[:3], -(-keys // 8) * 8)
    rows[..., :keys] = added
    return rows[..., :keys]


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a boolean or an additive mask as an additive one: 0 is seen, −∞ is hidden.

    >>> additive(torch.tensor([True, False]), torch.float32)
    tensor([0., -inf])
    """
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros(mask.shape, device=mask.device, dtype=dtype).masked_fill(~mask, -torch.inf)


def _flex(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float | None
) -> Tensor:
    """Call torch's FlexAttention, compiled on CUDA; a mask is added to the scores."""
    function = _flex_function(q.device.type == "cuda")
    if causal:
        rows = torch.arange(q.shape[2], device=q.device)[:, None]
        mask = rows >= torch.arange(k.shape[2], device=q.device)
    if mask is None:
        return _first(function(q, k, v, scale=scale))
    full = additive(mask, q.dtype).expand(*q.shape[:3], k.shape[2])
    return _first(
        function(q, k, v, score_mod=lambda s, b, h, i, j: s + full[b, h, i, j], scale=scale)
    )


@cache
def _flex_function(compiled: bool) -> Callable[..., Any]:
    """Return torch's FlexAttention; without compilation it writes all weights out."""
    from torch.nn.attention.flex_attention import flex_attention

    found: Any = torch.compile(flex_attention) if compiled else flex_attention
    return found


def _sage(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float | None
) -> Tensor:
    """Call SageAttention, which quantises queries and keys to 8 bits."""
    function = importlib.import_module("sageattention").sageattn
    out: Tensor = function(q, k, v, tensor_layout="HND", is_causal=causal, sm_scale=scale)
    return out


_FLASH_HOPPER = (
    "build the folder hopper of github.com/Dao-AILab/flash-attention, which needs a GPU of the "
    "generation H100"
)
KERNELS = {
    kernel.name: kernel
    for kernel in (
        Kernel("sdpa", "torch's attention; torch chooses among its own kernels", _torch()),
        Kernel("math", "the formula written out by torch", _torch(SDPBackend.MATH)),
        Kernel(
            "efficient",
            "torch's memory-efficient kernel",
            _torch(SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH),
            cuda=True,
            operator="_scaled_dot_product_efficient_attention",
        ),
        Kernel(
            "flash",
            "FlashAttention 2, as torch has it",
            _torch(SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH),
            operator="_scaled_dot_product_flash_attention",
        ),
        Kernel(
            "cudnn",
            "cuDNN's fused attention, by torch",
            _torch(
                SDPBackend.CUDNN_ATTENTION,
                SDPBackend.FLASH_ATTENTION,
                SDPBackend.EFFICIENT_ATTENTION,
                SDPBackend.MATH,
            ),
            cuda=True,
            operator="_scaled_dot_product_cudnn_attention",
        ),
        Kernel(
            "flash2",
            "FlashAttention 2 of the package flash-attn",
            partial(_flash, "flash_attn"),
            "flash_attn",
            "pip install flash-attn --no-build-isolation",
            cuda=True,
            dtypes=HALF,
            masks=False,
        ),
        Kernel(
            "flash3",
            "FlashAttention 3, for the generation H100",
            partial(_flash, "flash_attn_interface"),
            "flash_attn_interface",
            _FLASH_HOPPER,
            cuda=True,
            dtypes=HALF,
            masks=False,
        ),
        Kernel(
            "flash4",
            "FlashAttention 4, for the generations H100 and B200",
            partial(_flash, "flash_attn.cute"),
            "flash_attn.cute",
            "pip install flash-attn-4",
            cuda=True,
            dtypes=HALF,
            masks=False,
        ),
        Kernel(
            "xformers",
            "xformers' memory-efficient attention",
            _xformers,
            "xformers",
            install("xformers"),
            cuda=True,
        ),
        Kernel("flex", "torch's FlexAttention; on CUDA it is compiled", _flex),
        Kernel(
            "sage",
            "SageAttention: queries and keys in 8 bits",
            _sage,
            "sageattention",
            "pip install sageattention",
            cuda=True,
            dtypes=HALF,
            backward=False,
            masks=False,
        ),
    )
}
FORMER = {  # names of diffusers, which the option took before, and their plain names
    "native": "sdpa",
    "_native_math": "math",
    "_native_efficient": "efficient",
    "_native_flash": "flash",
    "_native_cudnn": "cudnn",
    "_flash_3": "flash3",
}


def register(kernel: Kernel) -> None:
    """Add a kernel of your own, whose name then is a value of the option `attention`.

    Example:
        >>> mine = Kernel("mine", "the formula written out", KERNELS["math"].call)
        >>> register(mine)
        >>> find("mine").about
        'the formula written out'
        >>> del KERNELS["mine"]
    """
    KERNELS[kernel.name] = kernel


def find(name: str) -> Kernel:
    """Return the kernel of a plain name, a former name, or another name of diffusers' dispatcher.

    Raises `AttentionError` with the nearest known name for any other name.

    Example:
        >>> find("_native_flash").name
        'flash'
    """
    plain = FORMER.get(name, name)
    if plain in KERNELS:
        return KERNELS[plain]
    others = names_of_diffusers()
    if name in others:
        return _of_diffusers(name)
    known = [*KERNELS, AUTO, *(others if name.startswith("_") else ())]
    raise AttentionError(
        f"attention: expected the name of a kernel, got {name!r}: {nearest(name, known)}; take one "
        "of these, or leave the option out for 'sdpa'"
    )


def names_of_diffusers() -> list[str]:
    """Return the names of diffusers' dispatcher that have no plain name; none without diffusers."""
    try:
        from diffusers.models.attention_dispatch import AttentionBackendName
    except ImportError:
        return []
    names = [str(item.value) for item in AttentionBackendName]
    return [name for name in names if name not in FORMER and name not in KERNELS]


def _of_diffusers(name: str) -> Kernel:
    """Return a kernel of diffusers' dispatcher, which is called by its name.

    The default of the process, which diffusers' `set_attention_backend` sets, stays as it is.
    """
    from diffusers.models import attention_dispatch as dispatch

    chosen = dispatch.AttentionBackendName(name)

    def call(
        q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float | None
    ) -> Tensor:
        dispatch._check_attention_backend_requirements(chosen)
        dispatch._maybe_download_kernel_for_backend(chosen)
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        out: Tensor = dispatch.dispatch_attention_fn(
            q, k, v, mask, is_causal=causal, scale=scale, backend=chosen
        )
        return out.transpose(1, 2)

    sage = name.lstrip("_").startswith("sage")
    about = "SageAttention of diffusers" if sage else "a kernel of diffusers' dispatcher"
    return Kernel(name, about, call, backward=not sage, masks=not sage)
