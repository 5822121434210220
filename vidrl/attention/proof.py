"""Prove a kernel: on random tensors, and in the run's own network.

An import of a kernel's package is no proof that the kernel works: many kernels refuse a device
only when they are called, and some carry no gradient, so that training with them is quick and has
no effect. So a kernel is run, forward and backward, on the device that will train, and compared
with the formula of attention, which torch writes out.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, rms_norm

from .kernels import AttentionError, Kernel, find
from .reference import written_out
from .switch import put, restore

# of query, key and value (B, F, heads, channels), and of a mask where one is given
Function = Callable[..., Tensor]
Types = tuple[torch.dtype, torch.dtype, torch.dtype]  # of query, key and value
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6, torch.bfloat16: 4e-2, torch.float16: 1e-2}


@contextmanager
def using(
    model: nn.Module,
    name: str = "sdpa",
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    training: bool = True,
) -> Iterator[str]:
    """Run a diffusers model with a kernel that is checked on random tensors; then restore it.

    No other model of the process changes. Raises `AttentionError` if the kernel cannot run,
    differs from torch's attention, or has no gradient in training.

    Example:
        >>> from diffusers.models.attention import Attention
        >>> layer = Attention(query_dim=8, heads=2, dim_head=4)
        >>> with using(layer, "math"):
        ...     layer(torch.ones(1, 3, 8)).shape
        torch.Size([1, 3, 8])
    """
    prove(name, device, dtypes(device, dtype), training, masked=takes_mask(model))
    before = put(model, name)
    try:
        yield name
    finally:
        restore(before)


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
    """Return the first kernel of `wanted` that passes `prove`.

    Raises `AttentionError` with every reason if none passes.
    """
    reasons = []
    for name in wanted:
        try:
            prove(name, device, dtype, training, masked=masked)
            return name
        except AttentionError as error:
            reasons.append(str(error))
    raise AttentionError("no attention kernel works; " + "; ".join(reasons) + "; use 'sdpa'")


def check(name: str, training: bool = True) -> Kernel:
    """Return the kernel of a name, or raise `AttentionError` if it cannot be called here.

    That is an unknown name, a missing package or device, or, in training, a kernel without a
    backward pass. Nothing is computed.
    """
    kernel = find(name)
    if training and not kernel.backward:
        raise AttentionError(
            f"attention {name!r} is for inference only, {kernel.about}, and has no backward pass: "
            "its gradients would be missing; train with 'sdpa', and set "
            f"backbone.options.rollout_attention = {name!r} to sample with it"
        )
    if kernel.missing():
        raise AttentionError(
            f"attention {name!r} cannot be used: {kernel.missing()}; or use 'sdpa'"
        )
    return kernel


def prove(
    name: str,
    device: torch.device | str,
    dtype: torch.dtype | Types = torch.float32,
    training: bool = True,
    kernel: Function | None = None,
    masked: bool = False,
    width: int = 64,
) -> None:
    """Run a kernel on small random tensors; compare output and gradients with the formula's.

    `dtype`: of query, key and value, one for all or one for each (see `dtypes`).
    `training`: compare gradients too. `masked`: also run with a boolean and an additive
    mask. `kernel`: replaces the kernel's own function of query, key and value (B, F,
    heads, channels) and the mask. `width`: the channels of a head. Raises
    `AttentionError` if an error is above the tolerance of the precision.
    """
    types = dtype if isinstance(dtype, tuple) else (dtype,) * 3
    call = kernel or _function(check(name, training))
    inputs = _inputs(device, types, training, width)
    for what, mask in _masks(device, types[0]).items() if masked else [("", ())]:
        try:
            got = _run(call, inputs, mask, training)
        except Exception as error:
            reason = str(error).strip().split("\n")[0]
            raise AttentionError(
                f"attention {name!r} does not run on {device} in "
                f"{_dtype_text(types)}{what}: {type(error).__name__}: {reason}"
            ) from error
        _compare(name + what, got, _run(formula, inputs, mask, training), types)


def function(name: str) -> Function:
    """Return a kernel as a function of query, key and value (B, F, heads, channels) and a mask."""
    return _function(find(name))


def _function(kernel: Kernel) -> Function:
    """Return a kernel as a function that is called as attention in a network is."""
    from .switch import Switch

    def call(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (query, key, value))
        return Switch(kernel).attend(q, k, v, mask).transpose(1, 2)

    return call


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
    kernel: Function, inputs: list[Tensor], mask: tuple[Tensor, ...], training: bool
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
    name: str, got: dict[str, Tensor | None], expected: dict[str, Tensor | None], types: Types
) -> None:
    """Raise `AttentionError` if a result is missing or differs by more than the tolerance."""
    outputs = [item["output"] for item in (got, expected)]
    seen = [*types, *(item.dtype for item in outputs if item is not None)]  # the coarsest decides
    tolerance = max(TOLERANCE.get(dtype, 1e-2) for dtype in seen)
    for part, reference in expected.items():
        value = got.get(part)
        what = "output" if part == "output" else f"gradient of the {part}"
        if value is None or reference is None:
            raise AttentionError(f"attention {name!r} gives no {what}; train with 'sdpa'")
        value, reference = value.detach().float(), reference.detach().float()
        error = float((value - reference).abs().max() / reference.abs().max())
        if not error <= tolerance:
            raise AttentionError(
                f"attention {name!r}: its {what} is {error:.2g} away from the formula's, "
                f"relative to the largest; expected at most {tolerance:g}; use 'sdpa'"
            )


def formula(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the attention of the formula, computed in the widest of the three types."""
    common = torch.promote_types(torch.promote_types(query.dtype, key.dtype), value.dtype)
    q, k, v = (item.to(common).transpose(1, 2) for item in (query, key, value))
    return written_out(q, k, v, mask).transpose(1, 2)
