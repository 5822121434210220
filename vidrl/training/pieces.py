"""Do work in pieces that fit into memory; where memory runs out, halve the pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

Result = TypeVar("Result")

# Messages of libraries that raise a plain RuntimeError where memory runs out.
MESSAGES = (
    "CUDA out of memory",
    "CUDA error: out of memory",
    "HIP out of memory",
    "XPU out of memory",
    "MPS backend out of memory",
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that the memory of the device or of the host ran out.

    Example:
        >>> out_of_memory(torch.OutOfMemoryError("full")), out_of_memory(ValueError())
        (True, False)
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in MESSAGES)


def release() -> None:
    """Free the device memory that torch caches but does not use, for a smaller piece."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class Pieces:
    """The number of items that a stage of the work takes at once, which adapts to the memory.

    Where memory runs out, `size` becomes half of the piece that failed, for the rest of the
    run. Where a single item does not fit, torch.OutOfMemoryError is raised; its message
    names the item, `what`, and what to change, `cure`.

    `together`, where it is set, is asked after each piece, with whether memory ran out on this
    process; it returns whether memory ran out on any process. All of them then halve.

    Example:
        >>> def work(part):
        ...     if part.stop - part.start > 2:
        ...         raise torch.OutOfMemoryError("full")
        ...     return part.stop - part.start
        >>> pieces = Pieces(5)
        >>> list(pieces.each(5, work)), pieces.size
        ([2, 2, 1], 2)
    """

    def __init__(
        self, size: int, what: str = "one item", cure: str = "use a device of more memory"
    ):
        if size < 1:
            raise ValueError(f"expected pieces of at least 1, got {size}")
        self.size = size
        self.what, self.cure = what, cure
        self.together: Callable[[bool], bool] | None = None

    def each(self, n: int, work: Callable[[slice], Result]) -> Iterator[Result]:
        """Yield what `work` returns for each piece of n items, in order.

        `work` may be called again with the first part of a piece that failed.
        """
        done = 0

        def piece(size: int) -> tuple[Result, int]:
            return work(slice(done, done + size)), done + size

        while done < n:
            result, done = self.attempt(n - done, piece)
            yield result
            del result  # else it would stay in memory while the next piece is computed

    def attempt(self, n: int, work: Callable[[int], Result]) -> Result:
        """Return `work(size)` with size ≤ n; halve the size each time memory runs out."""
        while True:
            size = max(1, min(self.size, n))
            failed, result = self._tried(size, work)
            # outside `except`: there the error would still hold the tensors of the failed piece
            anywhere = self.together(failed) if self.together else failed
            if not anywhere:
                return result  # type: ignore[return-value]
            del result
            self.size = max(1, size // 2)
            release()

    def _tried(self, size: int, work: Callable[[int], Result]) -> tuple[bool, Result | None]:
        """Return whether memory ran out, and the result of the work."""
        try:
            return False, work(size)
        except Exception as error:
            if not out_of_memory(error):
                raise
            if size == 1:
                raise self._too_large(error) from error
        return True, None

    def _too_large(self, error: Exception) -> torch.OutOfMemoryError:
        """Return the error for a single item that does not fit."""
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        return torch.OutOfMemoryError(
            f"{self.what} alone does not fit into memory: {self.cure} ({first})"
        )


def pieces(size: Pieces | int) -> Pieces:
    """Return pieces of this size; `Pieces` are returned as they are."""
    return Pieces(size) if isinstance(size, int) else size
