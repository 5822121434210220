"""Attention backends of diffusers, proven by running them.

That a kernel's package imports says little: many kernels refuse a device only when called, and some carry no
gradient, so that training with them runs fast and learns nothing. So a backend is tried, forward and backward, on the
device that will train, against torch's own attention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from vidrl.extras import install

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]

# Families by the beginning of their name, leading underscores apart.
INFERENCE_ONLY = {
    "sage": "SageAttention quantises queries and keys and has no backward: their gradients would be missing",
}
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6, torch.bfloat16: 4e-2, torch.float16: 1e-2}


class AttentionError(RuntimeError):
    """The attention backend cannot do what is asked of it on this device."""


@contextmanager
def using(model: Any, backend: str = "native", *, device: torch.device | str = "cpu",
          dtype: torch.dtype = torch.float32, training: bool = True) -> Iterator[str]:
    """Run a diffusers model with `backend`, proven first; on leaving, the model and diffusers are as before.

    Raises `AttentionError` where the backend cannot run, differs from torch's attention or, in training, has no
    gradient.
    """
    prove(backend, device, dtype, training)
    processors = [module.processor for module in model.modules()
                  if hasattr(getattr(module, "processor", None), "_attention_backend")]
    before = [processor._attention_backend for processor in processors]
    try:
        with _dispatch().attention_backend(backend):  # restores the process-wide default, which the next line sets
            model.set_attention_backend(backend)
            yield backend
    finally:
        for processor, old in zip(processors, before, strict=True):
            processor._attention_backend = old


def choose(wanted: Sequence[str], device: torch.device | str, dtype: torch.dtype = torch.float32,
           training: bool = True) -> str:
    """The first backend of `wanted` that is proven; raises `AttentionError` with every reason where none is."""
    reasons = []
    for backend in wanted:
        try:
            prove(backend, device, dtype, training)
            return backend
        except AttentionError as error:
            reasons.append(str(error))
    raise AttentionError("no attention backend works; " + "; ".join(reasons) + "; cure: use 'native'")


def prove(backend: str, device: torch.device | str, dtype: torch.dtype = torch.float32, training: bool = True,
          kernel: Kernel | None = None) -> None:
    """Run the backend on small random tensors and compare with torch's attention, gradients too if `training`.

    `kernel` stands for the backend's own function of query, key and value (B, F, heads, channels).
    """
    family = next((name for name in INFERENCE_ONLY if backend.lstrip("_").startswith(name)), None)
    if training and family:
        raise AttentionError(f"attention backend {backend!r} is for inference only: {INFERENCE_ONLY[family]}; "
                             f"train with 'native'")
    inputs = _inputs(device, dtype, training)
    try:
        got = _run(kernel or _diffusers_kernel(backend), inputs, training)
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise AttentionError(f"attention backend {backend!r} does not run on {device} in {dtype}: "
                             f"{type(error).__name__}: {reason}") from error
    _compare(backend, got, _run(_torch_attention, inputs, training), dtype)


def _inputs(device: torch.device | str, dtype: torch.dtype, training: bool) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    shape = (1, 64, 2, 64)  # heads of 64 channels: flash kernels take only certain widths, and all take this one
    tensors = [torch.randn(shape, generator=draw).to(device, dtype) for _ in range(3)]
    return [tensor.requires_grad_(training) for tensor in tensors]


def _run(kernel: Kernel, inputs: list[Tensor], training: bool) -> dict[str, Tensor | None]:
    with torch.set_grad_enabled(training):
        output = kernel(*inputs)
    results: dict[str, Tensor | None] = {"output": output}
    if training and output.requires_grad:
        gradients = torch.autograd.grad(output.float().square().sum(), inputs, allow_unused=True)
        results |= dict(zip(("query", "key", "value"), gradients, strict=True))
    return results


def _compare(backend: str, got: dict[str, Tensor | None], expected: dict[str, Tensor | None],
             dtype: torch.dtype) -> None:
    tolerance = _TOLERANCE.get(dtype, 1e-2)
    for name, reference in expected.items():
        value = got.get(name)
        what = "output" if name == "output" else f"gradient of the {name}"
        if value is None or reference is None:
            raise AttentionError(f"attention backend {backend!r} gives no {what}; train with 'native'")
        value, reference = value.detach().float(), reference.detach().float()
        error = float((value - reference).abs().max() / reference.abs().max())
        if not error <= tolerance:
            raise AttentionError(f"attention backend {backend!r}: its {what} is {error:.2g} away from torch's, "
                                 f"relative to the largest; expected at most {tolerance:g}; use 'native'")


def _torch_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    output = scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
    return output.transpose(1, 2)


def _diffusers_kernel(backend: str) -> Kernel:
    def kernel(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        dispatch = _dispatch()
        with dispatch.attention_backend(backend):
            return dispatch.dispatch_attention_fn(query, key, value)
    return kernel


def _dispatch() -> Any:
    try:
        from diffusers.models import attention_dispatch
    except ImportError as error:
        raise ImportError(f"attention backends need diffusers: {install('train')}") from error
    return attention_dispatch
