"""Choose attention backends of diffusers, and check their numbers before use.

An import of a kernel's package is no proof that the kernel works: many kernels refuse a
device only when they are called, and some carry no gradient, so that training with them is
quick and has no effect. So a backend is run, forward and backward, on the device that will
train, and compared with the math kernel of torch's attention.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention

from vidrl.lookup.extras import install
from vidrl.plugin import nearest

# of query, key and value (B, F, heads, channels), and of a mask where one is given
Kernel = Callable[..., Tensor]
Types = tuple[torch.dtype, torch.dtype, torch.dtype]  # of query, key and value

# Families by the beginning of their name, leading underscores apart.
INFERENCE_ONLY = {
    "sage": "SageAttention quantises queries and keys and has no backward: their gradients would "
    "be missing",
}
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6, torch.bfloat16: 4e-2, torch.float16: 1e-2}


class AttentionError(RuntimeError):
    """Says that a backend is missing, fails on this device, has no gradients or wrong numbers."""


@contextmanager
def using(
    model: Any,
    backend: str = "native",
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    training: bool = True,
) -> Iterator[str]:
    """Run a diffusers model with a checked backend; on leaving, restore the model.

    No other model of the process changes. Raises `AttentionError` if the backend cannot
    run, if it differs from torch's attention, if it has no gradient in training, or if the
    model has no switch for a backend.
    """
    prove(backend, device, dtypes(device, dtype), training, masked=takes_mask(model))
    before = put(model, backend)
    try:
        yield backend
    finally:
        for processor, old in before:
            processor._attention_backend = old


def put(model: Any, backend: str) -> list[tuple[Any, Any]]:
    """Set the backend of every attention processor of a model; return the former backends.

    The result holds (processor, former backend). diffusers' own `set_attention_backend`
    skips processors without a switch silently, and makes its choice the default of the
    process. Here a model with such a processor is refused with `AttentionError`.
    """
    modules = (module for module in model.modules() if hasattr(module, "processor"))
    processors = list({id(module.processor): module.processor for module in modules}.values())
    without_switch = sorted(
        {type(item).__name__ for item in processors if not hasattr(item, "_attention_backend")}
    )
    name = type(model).__name__
    if backend != "native" and (without_switch or not processors):
        reason = (
            f"its processors {', '.join(without_switch)} have no switch"
            if without_switch
            else "it has no attention processors"
        )
        raise AttentionError(
            f"attention backend {backend!r} cannot be used in {name}: {reason}, and would go on "
            "with torch's own attention; use 'native'"
        )
    switchable = [
        (item, item._attention_backend)
        for item in processors
        if hasattr(item, "_attention_backend")
    ]
    chosen = _dispatch().AttentionBackendName(backend) if switchable else None
    for processor, _ in switchable:
        processor._attention_backend = chosen
    return switchable


def takes_mask(model: Any) -> bool:
    """Return whether a network's `forward` takes an attention mask.

    Example:
        >>> class Network(torch.nn.Module):
        ...     def forward(self, hidden_states, encoder_attention_mask=None): ...
        >>> takes_mask(Network()), takes_mask(torch.nn.Linear(1, 1))
        (True, False)
    """
    return any("mask" in name for name in inspect.signature(model.forward).parameters)


def dtypes(device: torch.device | str, dtype: torch.dtype) -> Types:
    """Return the types of query, key and value of a network of `dtype` under this autocast.

    Under autocast the three may differ: on CUDA the normalisation of query and key gives
    float32, and the value keeps the half precision of its projection.
    """
    x = torch.ones(1, 8, device=device, dtype=dtype)
    with torch.no_grad():
        value = linear(x, x.expand(8, 8))
        query = rms_norm(value, (8,))
    return query.dtype, query.dtype, value.dtype


def choose(
    wanted: Sequence[str],
    device: torch.device | str,
    dtype: torch.dtype | Types = torch.float32,
    training: bool = True,
    masked: bool = False,
) -> str:
    """Return the first backend of `wanted` that passes `prove`.

    Raises `AttentionError` with every reason if none passes.
    """
    reasons = []
    for backend in wanted:
        try:
            prove(backend, device, dtype, training, masked=masked)
            return backend
        except AttentionError as error:
            reasons.append(str(error))
    raise AttentionError(
        "no attention backend works; " + "; ".join(reasons) + "; cure: use 'native'"
    )


def prove(
    backend: str,
    device: torch.device | str,
    dtype: torch.dtype | Types = torch.float32,
    training: bool = True,
    kernel: Kernel | None = None,
    masked: bool = False,
    width: int = 64,
) -> None:
    """Run a backend on small random tensors and compare output and gradients with torch's.

    `dtype`: of query, key and value, one for all or one for each (see `dtypes`).
    `training`: compare gradients too. `masked`: also run with a boolean and an additive
    mask. `kernel`: replaces the backend's own function of query, key and value (B, F,
    heads, channels) and the mask. `width`: the channels of a head. Raises
    `AttentionError` if an error is above the tolerance of the precision.
    """
    family = next((name for name in INFERENCE_ONLY if backend.lstrip("_").startswith(name)), None)
    if training and family:
        raise AttentionError(
            f"attention backend {backend!r} is for inference only: {INFERENCE_ONLY[family]}; "
            f"train with 'native'"
        )
    if kernel is None:
        _check_name(backend)
    types = dtype if isinstance(dtype, tuple) else (dtype,) * 3
    inputs = _inputs(device, types, training, width)
    for what, mask in _masks(device, types[0]).items() if masked else [("", ())]:
        try:
            got = _run(kernel or diffusers_kernel(backend), inputs, mask, training)
        except Exception as error:
            reason = str(error).strip().split("\n")[0]
            raise AttentionError(
                f"attention backend {backend!r} does not run on {device} in "
                f"{_dtype_text(types)}{what}: {type(error).__name__}: {reason}"
            ) from error
        _compare(backend + what, got, _run(_torch_attention, inputs, mask, training), types)


def _check_name(backend: str) -> None:
    """Raise `AttentionError` for a name that diffusers does not have."""
    known = [item.value for item in _dispatch().AttentionBackendName]
    if backend not in known:
        raise AttentionError(
            f"expected an attention backend of diffusers, got {backend!r}: "
            f"{nearest(backend, known)}"
        )


def _dtype_text(types: Types) -> str:
    """Return the types of query, key and value as text."""
    if len(set(types)) == 1:
        return str(types[0])
    given = ", ".join(
        f"{name} {item}" for name, item in zip(("query", "key", "value"), types, strict=True)
    )
    return f"the mixed types of autocast ({given}; train.mixed_precision = 'no' gives one type)"


def _inputs(
    device: torch.device | str, types: Types, training: bool, width: int = 64
) -> list[Tensor]:
    """Return random query, key and value of fixed numbers."""
    draw = torch.Generator().manual_seed(0)
    # flash kernels take only certain widths, and all take 64 channels, the default
    shape = (2, 64, 2, width)
    tensors = [torch.randn(shape, generator=draw).to(device, dtype) for dtype in types]
    return [tensor.requires_grad_(training) for tensor in tensors]


def _masks(device: torch.device | str, dtype: torch.dtype) -> dict[str, tuple[Tensor, ...]]:
    """Return no mask, and masks (B, 1, 1, F) of a padded text in both usual forms.

    Both hide the last keys of one clip of the batch.
    """
    seen = (torch.arange(64, device=device) < torch.tensor([[64], [40]], device=device))[
        :, None, None
    ]
    added = torch.zeros(seen.shape, device=device, dtype=dtype).masked_fill(~seen, -1e4)
    return {"": (), " with a boolean mask": (seen,), " with an additive mask": (added,)}


def _run(
    kernel: Kernel, inputs: list[Tensor], mask: tuple[Tensor, ...], training: bool
) -> dict[str, Tensor | None]:
    """Return the output and, in training, the gradients of query, key and value."""
    with torch.set_grad_enabled(training):
        output = kernel(*inputs, *mask)
    results: dict[str, Tensor | None] = {"output": output}
    if training and output.requires_grad:
        gradients = torch.autograd.grad(output.float().square().sum(), inputs, allow_unused=True)
        results |= dict(zip(("query", "key", "value"), gradients, strict=True))
    return results


def _compare(
    backend: str, got: dict[str, Tensor | None], expected: dict[str, Tensor | None], types: Types
) -> None:
    """Raise `AttentionError` if a result is missing or differs by more than the tolerance."""
    outputs = [item["output"] for item in (got, expected)]
    seen = [*types, *(item.dtype for item in outputs if item is not None)]  # the coarsest decides
    tolerance = max(_TOLERANCE.get(dtype, 1e-2) for dtype in seen)
    for name, reference in expected.items():
        value = got.get(name)
        what = "output" if name == "output" else f"gradient of the {name}"
        if value is None or reference is None:
            raise AttentionError(
                f"attention backend {backend!r} gives no {what}; train with 'native'"
            )
        value, reference = value.detach().float(), reference.detach().float()
        error = float((value - reference).abs().max() / reference.abs().max())
        if not error <= tolerance:
            raise AttentionError(
                f"attention backend {backend!r}: its {what} is {error:.2g} away from torch's, "
                f"relative to the largest; expected at most {tolerance:g}; use 'native'"
            )


def _torch_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Return the attention of torch's math kernel, computed in the widest of the three types."""
    common = torch.promote_types(torch.promote_types(query.dtype, key.dtype), value.dtype)
    q, k, v = (item.to(common).transpose(1, 2) for item in (query, key, value))
    mask = mask.to(common) if mask is not None and mask.dtype != torch.bool else mask
    # the math kernel writes the formula out; torch's default may be the kernel under test
    with sdpa_kernel(SDPBackend.MATH):
        return scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


def diffusers_kernel(backend: str) -> Kernel:
    """Return diffusers' dispatcher with this backend as a function."""

    def kernel(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        dispatch = _dispatch()
        with dispatch.attention_backend(backend):
            return dispatch.dispatch_attention_fn(query, key, value, attn_mask=mask)

    return kernel


def _dispatch() -> Any:
    """Return diffusers' dispatcher; raise ImportError with the command that installs diffusers."""
    try:
        from diffusers.models import attention_dispatch
    except ImportError as error:
        raise ImportError(f"attention backends need diffusers: {install('train')}") from error
    return attention_dispatch
