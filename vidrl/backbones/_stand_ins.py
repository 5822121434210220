"""What stands in a driven pipeline for its network, its autoencoder and its processors of
pixels."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint


class RunExit(Exception):
    """Leaves a pipeline from inside; its argument is what the run was for."""


def autocast_of_caller(device: torch.device) -> Callable[[], torch.autocast]:
    """What makes a context with the autocast of this moment, for use where autocast is
    off."""
    kind, cached = device.type, torch.is_autocast_cache_enabled()
    dtype, enabled = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
    return lambda: torch.autocast(kind, dtype, enabled, cached)


class SwitchableNetwork:
    """A network, or while `still` zeros of its output's shape, which cost no computation.

    The network computes under the context that `precision` makes. The shape is that of a
    copy of the network on the device "meta", which has neither weights nor numbers. Where
    the network cannot run there, because its code reads numbers, it runs itself once for
    each shape of its inputs.

    `asked`, where it is set, is told the leaves of the arguments of each call while
    `still`, and returns the number of the call, of which the answer is made. `change`,
    where it is set, is what the leaves become before the network computes.
    """

    on_idle_call: Callable[[list[Any]], int] | None = None
    change_arguments: Callable[[list[Any]], list[Any]] | None = None

    def __init__(self, network: nn.Module):
        self.network, self.idle = network, True
        self.precision: Callable[[], AbstractContextManager[Any]] = nullcontext
        self.meta_copy: nn.Module | None = None
        self.outputs = dict[str, Any]()  # shapes of the inputs → an output on "meta"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.idle:
            args, kwargs = self._changed(args, kwargs)
            with self.precision():
                return self.network(*args, **kwargs)
        leaves = pytree.tree_leaves((args, kwargs))
        key = str([leaf.shape if isinstance(leaf, Tensor) else leaf for leaf in leaves])
        if key not in self.outputs:
            self.outputs[key] = self._output_on_meta(args, kwargs)
        device = next(leaf.device for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim())
        if self.on_idle_call is not None:
            n = self.on_idle_call(leaves)
            return pytree.tree_map_only(
                Tensor, lambda y: _numbered_answer(y, n, device), self.outputs[key]
            )
        return pytree.tree_map_only(
            Tensor, lambda y: torch.zeros_like(y, device=device), self.outputs[key]
        )

    def _changed(self, args: Any, kwargs: Any) -> Any:
        if self.change_arguments is None:
            return args, kwargs
        leaves, spec = pytree.tree_flatten((args, kwargs))
        return pytree.tree_unflatten(self.change_arguments(leaves), spec)

    @torch.no_grad()
    def _output_on_meta(self, args: Any, kwargs: Any) -> Any:
        try:
            return self._run_on_meta(args, kwargs)
        except Exception:  # noqa: BLE001  whatever a network's code may raise where its numbers are missing
            created = self.network(*args, **kwargs)
            return pytree.tree_map_only(Tensor, lambda y: y.to("meta"), created)

    def _run_on_meta(self, args: Any, kwargs: Any) -> Any:
        with torch.device("meta"):
            if self.meta_copy is None:
                network: Any = self.network
                created = type(network).from_config(network.config)
                self.meta_copy = nn.Module.to(created, network.dtype)  # diffusers' own `to` warns
            to_meta = lambda x: x.to("meta") if x.dim() else x  # noqa: E731
            args, kwargs = pytree.tree_map_only(Tensor, to_meta, (args, kwargs))
            return self.meta_copy(*args, **kwargs)


def _numbered_answer(like: Tensor, n: int, device: torch.device) -> Tensor:
    """Numbers of a tensor's shape that are the same for each n, and other ones for another
    n."""
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(n)).to(
        device, like.dtype
    )


class ExitingProcessor:
    """An image or video processor that leaves with the pixels, before they become numpy or
    meet a safety checker."""

    def __init__(self, processor: Any):
        self.processor = processor

    def __getattr__(self, name: str) -> Any:
        return getattr(self.processor, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.processor(*args, **kwargs)

    def postprocess_video(self, video: Tensor, *args: Any, **kwargs: Any) -> Any:
        raise RunExit(self.processor.postprocess_video(video, output_type="pt"))

    def postprocess(self, image: Tensor, *args: Any, **kwargs: Any) -> Any:
        raise RunExit(self.processor.postprocess(image, **{**kwargs, "output_type": "pt"}))


class DecodeHook:
    """An autoencoder's `decode` in the autoencoder's own precision; with `checkpointing`,
    computed twice for less memory.

    `seen` collects its inputs where it is a list; then each shape is decoded once, since
    only the inputs are wanted. While it `leaves`, a run ends with its first input.
    """

    def __init__(self, autoencoder: nn.Module, checkpointing: bool):
        self.inner: Callable[..., Any] = autoencoder.decode  # type: ignore[assignment]
        self.autoencoder, self.checkpointing = autoencoder, checkpointing
        self.recorded: list[Tensor] | None = None
        self.exits = False
        self.outputs = dict[Any, Any]()
        autoencoder.decode = self  # type: ignore[assignment]

    def __call__(self, z: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.exits:
            raise RunExit(z.detach().clone())
        if self.recorded is not None:
            return self._record(z, args, kwargs)
        return self._decode(z, args, kwargs)

    def _decode(self, z: Tensor, args: Any, kwargs: Any) -> Any:
        z = z.to(next(self.autoencoder.parameters()).dtype)
        if self.checkpointing and z.requires_grad:
            return checkpoint(lambda z: self.inner(z, *args, **kwargs), z, use_reentrant=False)
        return self.inner(z, *args, **kwargs)

    def _record(self, z: Tensor, args: Any, kwargs: Any) -> Any:
        assert self.recorded is not None
        self.recorded.append(z.detach().clone())
        if z.shape not in self.outputs:
            self.outputs[z.shape] = self._decode(z, args, kwargs)
        return self.outputs[z.shape]
