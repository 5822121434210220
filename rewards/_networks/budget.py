"""Limit what a forward pass of a reward's network takes, by measuring what one row takes.

A row is a frame or a clip. Bytes are those of the tensors that the pass makes and that are alive
at once, without weights, inputs, and the workspace of kernels.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

GB = 1e9
_allowed: ContextVar[float] = ContextVar("bytes of a forward pass", default=0.0)


class Alive(TorchDispatchMode):
    """A dispatch mode that tracks the bytes of the tensors that live at once, and their peak.

    Storages of the tensors `known`, such as weights, and of tensors that were made outside the
    mode do not count.
    """

    def __init__(self, known: Iterable[Tensor] = ()):
        super().__init__()
        self.alive = 0
        self.peak = 0
        self.sizes_of_storages: Any = WeakIdKeyDictionary()
        for tensor in known:
            self._know(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor):
                self._know(tensor)
        out = func(*args, **(kwargs or {}))
        self._count(out)
        return out

    def _know(self, tensor: Tensor) -> None:
        """Leave out the storage of a tensor, unless it is counted already."""
        storage = tensor.untyped_storage()
        if storage not in self.sizes_of_storages:
            self.sizes_of_storages[storage] = None

    def _count(self, out: Any) -> None:
        """Count the new storages of what an operation returns, and subtract them when freed."""
        for tensor in tree_leaves(out):
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            if storage in self.sizes_of_storages:
                continue
            size = storage.nbytes()
            self.sizes_of_storages[storage] = weakref.ref(storage, partial(self._release, size))
            self.alive += size
            self.peak = max(self.peak, self.alive)

    def _release(self, size: int, _: object) -> None:
        """Subtract a storage that was freed."""
        self.alive -= size


@contextmanager
def budget(gigabytes: float) -> Iterator[None]:
    """Let each forward pass of a reward's network take as many GB (1e9 bytes); 0 changes nothing.

    >>> with budget(2.0), budget(0.0):
    ...     allowed()
    2000000000.0
    """
    token = _allowed.set(gigabytes * GB) if gigabytes else None
    try:
        yield
    finally:
        if token is not None:
            _allowed.reset(token)


def allowed() -> float:
    """Return the bytes that a forward pass may take, 0 for no limit."""
    return _allowed.get()


def rows_within(limit: float, run: Callable[[], Tensor | None]) -> tuple[Tensor | None, int]:
    """Return what `run` gives for one row, and how many rows take `limit` bytes.

    Warns where a single row takes more.

    >>> import torch
    >>> row = torch.ones(1, 250)  # 1,000 bytes, and 1,000 more for its double
    >>> rows_within(5000.0, lambda: (2 * row).sum(1))[1]
    4
    """
    with Alive() as measured:
        found = run()
    each = max(measured.peak, 1)
    if each > limit:
        warnings.warn(
            f"a forward pass of a reward's network takes {each / GB:.3g} GB for one frame or clip, "
            f"and reward.memory allows {limit / GB:.3g} GB: raise reward.memory, or take "
            'dtype = "bfloat16" or a smaller network',
            stacklevel=2,
        )
    return found, max(1, int(limit // each))
