"""Stand-ins for a driven pipeline's network, its autoencoder's decode and its pixel processors."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint


class RunExit(Exception):
    """Ends a pipeline's run from inside; its argument is the result of the run."""


def autocast_of_caller(device: torch.device) -> Callable[[], torch.autocast]:
    """Return a factory of contexts with the autocast of this moment, for use where it is off."""
    kind, cached = device.type, torch.is_autocast_cache_enabled()
    dtype, enabled = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
    return lambda: torch.autocast(kind, dtype, enabled, cached)


class SwitchableNetwork:
    """A network that computes, or while `idle` returns zeros of its output's shape at no cost.

    While it computes, the context of `precision` is active. The output's shape comes from a
    copy of the network on the device "meta", which has neither weights nor numbers. A
    network whose code reads numbers cannot run there: it runs itself once for each shape of
    its inputs.

    `on_idle_call`, if set, receives the leaves of the arguments of each idle call and
    returns the number of the call; the answer is then random numbers of that seed instead
    of zeros. `change_arguments`, if set, changes the leaves before the network computes.
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
        """Return the arguments after `change_arguments`."""
        if self.change_arguments is None:
            return args, kwargs
        leaves, spec = pytree.tree_flatten((args, kwargs))
        return pytree.tree_unflatten(self.change_arguments(leaves), spec)

    @torch.no_grad()
    def _output_on_meta(self, args: Any, kwargs: Any) -> Any:
        """Return an output on "meta", computed there or, if that fails, by the network itself."""
        try:
            return self._run_on_meta(args, kwargs)
        except Exception:  # noqa: BLE001  any error of code that reads missing numbers
            # prompts may be encoded on the device while the network still waits in host memory
            here = next(self.network.parameters()).device
            args, kwargs = pytree.tree_map_only(Tensor, lambda x: x.to(here), (args, kwargs))
            created = self.network(*args, **kwargs)
            return pytree.tree_map_only(Tensor, lambda y: y.to("meta"), created)

    def _run_on_meta(self, args: Any, kwargs: Any) -> Any:
        """Run a weightless copy of the network on the device "meta"."""
        with torch.device("meta"):
            if self.meta_copy is None:
                network: Any = self.network
                created = type(network).from_config(network.config)
                self.meta_copy = nn.Module.to(created, network.dtype)  # diffusers' own `to` warns
            to_meta = lambda x: x.to("meta") if x.dim() else x  # noqa: E731
            args, kwargs = pytree.tree_map_only(Tensor, to_meta, (args, kwargs))
            return self.meta_copy(*args, **kwargs)


def _numbered_answer(like: Tensor, n: int, device: torch.device) -> Tensor:
    """Return numbers of a tensor's shape that are the same for each n and differ between n."""
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(n)).to(
        device, like.dtype
    )


class ExitingProcessor:
    """An image or video processor that ends the run with the pixels as tensors.

    Without it the pixels would become numpy arrays, without gradient, or meet a safety
    checker.
    """

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
    """A replacement of an autoencoder's `decode` that runs in the autoencoder's own precision.

    With `checkpointing`, activations are recomputed in the backward pass. If `recorded` is
    a list, the inputs are appended to it and each shape is decoded only once, since only
    the inputs are wanted. While `exits` is set, a run ends with its first input.
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
        """Decode in the autoencoder's precision; a pipeline may hand over another one."""
        z = z.to(next(self.autoencoder.parameters()).dtype)
        if self.checkpointing and z.requires_grad:
            return checkpoint(lambda z: self.inner(z, *args, **kwargs), z, use_reentrant=False)
        return self.inner(z, *args, **kwargs)

    def _record(self, z: Tensor, args: Any, kwargs: Any) -> Any:
        """Record the input; decode once for each shape."""
        assert self.recorded is not None
        self.recorded.append(z.detach().clone())
        if z.shape not in self.outputs:
            self.outputs[z.shape] = self._decode(z, args, kwargs)
        return self.outputs[z.shape]
