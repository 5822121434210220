"""What the frozen parts of a pipeline made of a prompt is kept, and given back whenever the
prompt is run again.

A pipeline is deterministic, so the n-th call of a frozen part within a run means the same
whenever the run is of the same prompt. So a look-up needs no hash, and waits for no device.
The first time a prompt is run, the inputs of the call are hashed as well: what two prompts
share, as the embedding of one negative prompt, is computed and kept once.

Only calls before the loop are kept. What is called within the loop (a ControlNet) sees the
latents, and runs each time.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

LIMIT = 4 * 2**30  # bytes of outputs in host memory


class EncoderCache:
    """Keeps, on the CPU, what the modules that it watches make of each row; a row is the
    number of a prompt.

    `device()` is where the outputs are wanted. A `visitor` works on that device, and rests
    on the CPU in between. At most `limit` bytes are kept: what was used longest ago goes
    first, and is computed again when it is needed.
    """

    def __init__(self, device: Callable[[], torch.device], limit: int = LIMIT):
        self.device, self.limit, self.bytes = device, limit, 0
        self.hash_of_call = dict[
            Any, bytes
        ]()  # (row, number of the call, ...) → hash of the inputs
        self.kept = OrderedDict[bytes, Any]()  # hash of the inputs → output, on the CPU
        self.new_hashes: list[bytes] = []  # hashes of what the present run computed
        self.rows: Sequence[int] = ()
        self.call_changes: tuple[Any, ...] = ()
        self.calls, self.caching = 0, False

    def begin(self, rows: Sequence[int], call_changes: tuple[Any, ...] = ()) -> None:
        """A run of these rows begins; of the last run's new outputs, drop the hidden layers
        that it did not read. `about` is what the run changes of the pipeline's call, as its
        length."""
        for digest in self.new_hashes:
            if digest in self.kept:
                self._store(digest, _without_unread_layers(self._remove(digest)))
        self.rows, self.calls, self.caching, self.new_hashes = rows, 0, True, []
        self.call_changes = call_changes

    def watch(self, module: nn.Module, method: str, offloaded: bool) -> None:
        """Keep what a method of a module makes."""
        inner = getattr(module, method)
        part = _FrozenMethod(module, inner, offloaded)

        def remembered(*args: Any, **kwargs: Any) -> Any:
            if not self.caching:
                if offloaded:  # it is called within the loop, and stays where the network is
                    module.to(self.device())
                return inner(*args, **kwargs)
            return self._call(part, args, kwargs)

        setattr(module, method, remembered)

    def _call(self, part: _FrozenMethod, args: Any, kwargs: Any) -> Any:
        self.calls += 1
        leaves, spec = pytree.tree_flatten((args, kwargs))
        batched = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim()]
        shapes, sizes = tuple(leaf.shape[1:] for leaf in batched), {len(leaf) for leaf in batched}
        size, n = sizes.pop() if len(sizes) == 1 else 0, len(self.rows)
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
        digest = self.hash_of_call.get(key)
        if digest is None or digest not in self.kept:
            digest = self.hash_of_call[key] = _hash(part, leaves)
            if digest not in self.kept:
                args, kwargs = pytree.tree_unflatten(leaves, spec)
                self._store(digest, part.compute(self.device(), args, kwargs))
                self.new_hashes.append(digest)
        self.kept.move_to_end(digest)
        device = self.device()
        return _mapped(lambda x: x.to(device, non_blocking=True), self.kept[digest])

    def _store(self, digest: bytes, output: Any) -> None:
        self.kept[digest] = output
        self.bytes += _bytes(output)
        while self.bytes > self.limit and len(self.kept) > 1:
            self._remove(next(iter(self.kept)))

    def _remove(self, digest: bytes) -> Any:
        output = self.kept.pop(digest)
        self.bytes -= _bytes(output)
        return output


class _FrozenMethod:
    """A method of a frozen module; whether the module visits the device only to work; the
    hidden layers read of it."""

    def __init__(self, module: nn.Module, inner: Callable[..., Any], offloaded: bool):
        self.module, self.inner, self.offloaded, self.read = module, inner, offloaded, set[int]()

    def compute(self, device: torch.device, args: Any, kwargs: Any) -> Any:
        """The method's output on the CPU, in the module's own precision."""
        if self.offloaded:
            self.module.to(device)
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            created = self.inner(*args, **kwargs)
        if self.offloaded:
            self.module.to("cpu")
        return _tracked(_mapped(lambda x: x.cpu(), created), self.read)


class _TrackedLayers(tuple):
    """Hidden states by layer, which remembers the layers that are read; the others are None
    after the run.

    A function of torch that reads all of them at once leaves no trace: then none is
    dropped.
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
        created = cls(layers)
        created.read = read
        return created

    def each(self) -> list[Any]:
        """The layers, without a trace of reading."""
        return list(super().__iter__())


def _tracked(output: Any, read: set[int]) -> Any:
    """An output of transformers whose hidden states note in `read` which of them are
    read."""
    states = output.get("hidden_states") if isinstance(output, dict) else None
    if isinstance(states, tuple):
        output["hidden_states"] = _TrackedLayers.of(states, read)
    return output


def _without_unread_layers(output: Any) -> Any:
    """An output without the hidden layers that were not read."""
    states = output.get("hidden_states") if isinstance(output, dict) else None
    if isinstance(states, _TrackedLayers) and states.read:
        kept = [layer if i in states.read else None for i, layer in enumerate(states.each())]
        output["hidden_states"] = _TrackedLayers.of(kept, states.read)
    return output


def _hash(part: _FrozenMethod, leaves: Sequence[Any]) -> bytes:
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
    return [leaf[i : i + 1] if isinstance(leaf, Tensor) and leaf.dim() else leaf for leaf in leaves]


def _bytes(output: Any) -> int:
    sizes: list[int] = []

    def count(x: Tensor) -> Tensor:
        sizes.append(x.nbytes)
        return x

    _mapped(count, output)
    return sum(sizes)


def _mapped(change: Callable[[Tensor], Tensor], output: Any) -> Any:
    """An output with each of its tensors changed."""
    leaves, spec = pytree.tree_flatten(output, is_leaf=_is_layers)
    return pytree.tree_unflatten([_merged_leaf([leaf], change) for leaf in leaves], spec)


def _batched(parts: Sequence[Any]) -> Any:
    """Outputs of single rows as the output of the batch."""
    flat = [pytree.tree_flatten(part, is_leaf=_is_layers) for part in parts]
    leaves = [
        _merged_leaf(list(each), lambda x: x)
        for each in zip(*(own for own, _ in flat), strict=True)
    ]
    return pytree.tree_unflatten(leaves, flat[0][1])


def _merged_leaf(leaves: list[Any], change: Callable[[Tensor], Tensor]) -> Any:
    """One leaf of each row as one. An autoencoder's distribution is its parameters; a cache
    of keys is dropped."""
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
    """A hidden layer of several rows; one that is dropped of any row is not read of the
    others."""
    return None if any(row is None for row in rows) else _merged_leaf(list(rows), change)


def _is_layers(leaf: Any) -> bool:
    return isinstance(leaf, _TrackedLayers)
