"""Cache what the frozen parts of a pipeline compute of a prompt.

A pipeline is deterministic, so the n-th call of a frozen part within a run has the same
inputs whenever the run is of the same prompt. So the key of a look-up is (prompt, n): no
input is hashed, and no device is waited for. When a prompt is run for the first time, the
inputs are hashed as well: an output that two prompts share, such as the embedding of one
negative prompt, is computed and kept once.

Only calls before the loop are cached. A frozen part that is called within the loop, such as
a ControlNet, sees the latents, and runs each time.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

LIMIT = 4 * 2**30  # bytes of outputs in host memory


def dropped(texts: Sequence[str]) -> ValueError:
    """Return the error for a prompt that comes after the text encoders were freed."""
    shown = f"{texts[0][:60]!r}" if texts else "another prompt or another batch"
    return ValueError(
        "expected the prompts that the run encoded before it freed its text encoders, got "
        f'{shown}: set backbone.options.text_encoder = "offload"'
    )


class EncoderCache:
    """A cache, on the CPU, of what the watched modules compute of each row.

    A row is the number of a prompt. `device()` is where outputs are wanted. An offloaded module
    comes to that device when it works, and goes back to the CPU afterwards; within a `visit` it
    goes back at the end of the visit. At most `limit` bytes are kept: the output that was used
    longest ago is dropped first, and computed again when it is needed.
    """

    def __init__(self, device: Callable[[], torch.device], limit: int = LIMIT):
        self.usual_device = device
        self.device_of_visit: torch.device | None = None
        self.limit = limit
        self.bytes = 0
        self.hash_of_call = dict[
            Any, bytes
        ]()  # (row, number of the call, ...) → hash of the inputs
        self.kept = OrderedDict[bytes, Any]()  # hash of the inputs → output, on the CPU
        self.new_hashes: list[bytes] = []  # hashes of what the present run computed
        self.module_of = dict[bytes, nn.Module]()  # hash of the inputs → what computed the output
        self.forgot = set[int]()  # ids of modules of which an output was dropped above the limit
        self.rows: Sequence[int] = ()
        self.call_changes: tuple[Any, ...] = ()
        self.calls, self.caching = 0, False
        self.dropped = False
        # the offloaded modules that stay on the device until the present `visit` ends
        self.visitors: list[nn.Module] | None = None

    def device(self) -> torch.device:
        """Return the device on which outputs are wanted: that of a visit, or else the usual one."""
        return self.device_of_visit or self.usual_device()

    @contextmanager
    def visit(
        self, device: torch.device | None = None, also: nn.Module | None = None
    ) -> Iterator[None]:
        """Let offloaded modules stay on the device, each from its first use to the end.

        `device` None is the usual one. On another device the module `also`, which is not
        offloaded, comes there too, and stays. Visits may nest; the outermost has the device.
        """
        if self.visitors is not None:
            yield
            return
        self.visitors = []
        self.device_of_visit = device
        if device is not None and also is not None:
            also.to(device)
        try:
            yield
        finally:
            _to_host(self.visitors)
            self.visitors = None
            self.device_of_visit = None

    def begin(self, rows: Sequence[int], call_changes: tuple[Any, ...] = ()) -> None:
        """Begin a run of these rows; call this before each run of the pipeline.

        Hidden layers of the last run's new outputs that nothing read are dropped here:
        encoders return all layers, of which pipelines read few. `call_changes` are the
        arguments that this run changes in the pipeline's call, such as the number of
        frames.
        """
        for digest in self.new_hashes:
            if digest in self.kept:
                self._store(digest, _without_unread_layers(self._remove(digest)))
        self.rows = rows
        self.calls = 0
        self.caching = True
        self.new_hashes = []
        self.call_changes = call_changes

    def watch(self, module: nn.Module, method: str, offloaded: bool) -> None:
        """Replace a method of a module by a version that caches its outputs."""
        inner = getattr(module, method)
        part = _FrozenMethod(module, inner, offloaded)

        def remembered(*args: Any, **kwargs: Any) -> Any:
            if not self.caching:
                if offloaded:  # called within the loop: the module stays on the device from here on
                    module.to(self.device())
                return inner(*args, **kwargs)
            return self._call(part, args, kwargs)

        setattr(module, method, remembered)

    def drop(self, modules: Sequence[nn.Module]) -> None:
        """Free the weights of watched modules; keep all outputs, which cannot be made again.

        The modules stay in place on the device "meta", because pipelines read their
        precision. Raises MemoryError where the limit has made the cache forget an output.
        """
        if any(id(module) in self.forgot for module in modules):
            raise MemoryError(
                f"expected outputs of the text encoders of at most {self.limit / 2**30:.1f} GiB in "
                'host memory, got more: set backbone.options.text_encoder = "offload", or use '
                "fewer prompts"
            )
        self.limit, self.dropped = 1 << 62, True
        for module in modules:
            module.to("meta")

    def _call(self, part: _FrozenMethod, args: Any, kwargs: Any) -> Any:
        """Return the output of the run's next call, row by row from the cache where possible."""
        self.calls += 1
        leaves, spec = pytree.tree_flatten((args, kwargs))
        batched = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim()]
        shapes, sizes = tuple(leaf.shape[1:] for leaf in batched), {len(leaf) for leaf in batched}
        size, n = sizes.pop() if len(sizes) == 1 else 0, len(self.rows)
        # Without a common first axis of rows, the batch is cached as a whole.
        if not size or size % n:  # the first axis is not that of rows
            return self._output(
                (*self.rows, self.call_changes, self.calls, shapes), part, leaves, spec
            )
        parts = [
            self._output(
                (self.rows[i % n], self.call_changes, i // n, self.calls, shapes),
                part,
                _row_of(leaves, i),
                spec,
            )
            for i in range(size)
        ]
        return _batched(parts)

    def _output(self, key: Any, part: _FrozenMethod, leaves: list[Any], spec: Any) -> Any:
        """Return one cached output on the device, or compute and store it."""
        digest = self.hash_of_call.get(key)
        if digest is None or digest not in self.kept:
            # a pipeline puts the tokens of a text on the device of its encoder, "meta" once freed
            if any(isinstance(leaf, Tensor) and leaf.is_meta for leaf in leaves):
                raise dropped([])
            digest = self.hash_of_call[key] = _hash(part, leaves)
            if digest not in self.kept:
                if self.dropped and part.is_dropped:
                    raise dropped([])
                args, kwargs = pytree.tree_unflatten(leaves, spec)
                self.module_of[digest] = part.module
                self._store(digest, part.compute(self.device(), args, kwargs, self.visitors))
                self.new_hashes.append(digest)
        self.kept.move_to_end(digest)
        device = self.device()
        return _mapped(lambda x: x.to(device, non_blocking=True), self.kept[digest])

    def _store(self, digest: bytes, output: Any) -> None:
        """Store an output; drop the outputs that were used longest ago above the limit."""
        self.kept[digest] = output
        self.bytes += _bytes(output)
        while self.bytes > self.limit and len(self.kept) > 1:
            oldest = next(iter(self.kept))
            self.forgot.add(id(self.module_of.pop(oldest, None)))
            self._remove(oldest)

    def _remove(self, digest: bytes) -> Any:
        """Remove an output and return it."""
        output = self.kept.pop(digest)
        self.bytes -= _bytes(output)
        return output


class _FrozenMethod:
    """A method of a frozen module, whether the module is offloaded, and the hidden layers read."""

    def __init__(self, module: nn.Module, inner: Callable[..., Any], offloaded: bool):
        self.module = module
        self.inner = inner
        self.offloaded = offloaded
        self.read = set[int]()

    @property
    def is_dropped(self) -> bool:
        """Whether the module's weights were freed."""
        return any(weight.is_meta for weight in self.module.parameters())

    def compute(
        self, device: torch.device, args: Any, kwargs: Any, visitors: list[nn.Module] | None
    ) -> Any:
        """Return the method's output on the CPU, computed in the module's own precision.

        An offloaded module joins the `visitors`, and without them returns to the CPU at once.
        """
        here = visitors if visitors is not None else []
        if self.offloaded:
            self.module.to(device)
            here.append(self.module)
            # a pipeline may have put the tokens on the CPU, where its encoder was
            args, kwargs = pytree.tree_map_only(Tensor, lambda x: x.to(device), (args, kwargs))
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            created = self.inner(*args, **kwargs)
        if visitors is None:
            _to_host(here)
        return _tracked(_mapped(lambda x: x.cpu(), created), self.read)


def _to_host(modules: Sequence[nn.Module]) -> None:
    """Move modules to the CPU, except those whose weights were freed."""
    for module in {id(module): module for module in modules}.values():
        if not any(weight.is_meta for weight in module.parameters()):
            module.to("cpu")


class _TrackedLayers(tuple):
    """Hidden states by layer, which note the layers that are read; unread ones become None.

    A function of torch that reads all layers at once leaves no trace; then none is dropped.
    """

    read: set[int]

    def __getitem__(self, index: Any) -> Any:
        self.read.update(
            range(len(self))[index] if isinstance(index, slice) else [range(len(self))[index]]
        )
        return super().__getitem__(index)

    def __iter__(self) -> Any:
        self.read.update(range(len(self)))
        return super().__iter__()

    @classmethod
    def of(cls, layers: Sequence[Any], read: set[int]) -> _TrackedLayers:
        """Build the layers with a shared set of the numbers that are read."""
        created = cls(layers)
        created.read = read
        return created

    def each(self) -> list[Any]:
        """Return the layers without marking them as read."""
        return list(super().__iter__())


def _tracked(output: Any, read: set[int]) -> Any:
    """Wrap the hidden states in a text encoder's output, so that `read` notes which are read."""
    states = output.get("hidden_states") if isinstance(output, dict) else None
    if isinstance(states, tuple):
        output["hidden_states"] = _TrackedLayers.of(states, read)
    return output


def _without_unread_layers(output: Any) -> Any:
    """Return an output without the hidden layers that were not read."""
    states = output.get("hidden_states") if isinstance(output, dict) else None
    if isinstance(states, _TrackedLayers) and states.read:
        kept = [layer if i in states.read else None for i, layer in enumerate(states.each())]
        output["hidden_states"] = _TrackedLayers.of(kept, states.read)
    return output


def _hash(part: _FrozenMethod, leaves: Sequence[Any]) -> bytes:
    """Return a hash of a method and the contents of its arguments."""
    digest = hashlib.sha256(f"{id(part.module)} {part.inner.__name__}".encode())
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            digest.update(f"{leaf.dtype} {tuple(leaf.shape)}".encode())
            digest.update(
                leaf.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
            )
        else:
            digest.update(repr(leaf).encode())
    return digest.digest()


def _row_of(leaves: Sequence[Any], i: int) -> list[Any]:
    """Return the leaves of one row of a batch."""
    return [leaf[i : i + 1] if isinstance(leaf, Tensor) and leaf.dim() else leaf for leaf in leaves]


def _bytes(output: Any) -> int:
    """Return the bytes of all tensors of an output."""
    sizes: list[int] = []

    def count(x: Tensor) -> Tensor:
        sizes.append(x.nbytes)
        return x

    _mapped(count, output)
    return sum(sizes)


def _mapped(change: Callable[[Tensor], Tensor], output: Any) -> Any:
    """Apply a function to each tensor of an output."""
    leaves, spec = pytree.tree_flatten(output, is_leaf=_is_layers)
    return pytree.tree_unflatten([_merged_leaf([leaf], change) for leaf in leaves], spec)


def _batched(parts: Sequence[Any]) -> Any:
    """Concatenate the outputs of single rows to the output of the batch."""
    flat = [pytree.tree_flatten(part, is_leaf=_is_layers) for part in parts]
    leaves = [
        _merged_leaf(list(each), lambda x: x)
        for each in zip(*(own for own, _ in flat), strict=True)
    ]
    return pytree.tree_unflatten(leaves, flat[0][1])


def _merged_leaf(leaves: list[Any], change: Callable[[Tensor], Tensor]) -> Any:
    """Merge one leaf of each row into one.

    An autoencoder's distribution is rebuilt from its parameters; other objects, such as a
    cache of attention keys, are dropped.
    """
    first = leaves[0]
    if isinstance(first, Tensor):
        return change(torch.cat(leaves) if first.dim() and len(leaves) > 1 else first)
    if isinstance(first, _TrackedLayers):
        each = zip(*(row_layers.each() for row_layers in leaves), strict=True)
        return _TrackedLayers.of([_merged_layer(layer, change) for layer in each], first.read)
    if isinstance(getattr(first, "parameters", None), Tensor):
        return type(first)(change(torch.cat([leaf.parameters for leaf in leaves])))
    return first if isinstance(first, (int, float, str, bool, type(None))) else None


def _merged_layer(rows: Sequence[Any], change: Callable[[Tensor], Tensor]) -> Any:
    """Merge a hidden layer of several rows; if it was dropped for one row, no code reads it."""
    return None if any(row is None for row in rows) else _merged_leaf(list(rows), change)


def _is_layers(leaf: Any) -> bool:
    """Return whether a leaf holds tracked hidden layers."""
    return isinstance(leaf, _TrackedLayers)
