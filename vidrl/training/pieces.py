"""Work done in pieces that fit into memory: where memory runs out, half of the piece is
tried, and half of that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

Made = TypeVar("Made")

# What libraries say where memory runs out and the error's type does not tell.
SAYINGS = (
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
    """Whether an error says that the memory of the device or of the host ran out.

    Example:
        >>> out_of_memory(torch.OutOfMemoryError("full")), out_of_memory(MemoryError()), out_of_memory(ValueError())
        (True, True, False)
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(saying in str(error) for saying in SAYINGS)


def release() -> None:
    """Free the device memory that torch caches but does not use, so that a smaller piece
    can use it."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class Pieces:
    """How many items a stage of the work takes at once.

    Where memory runs out, `size` becomes half of the piece that was worked on, for the rest
    of the run. `what` names one item and `cure` says what to change, for the error that a
    single item which does not fit raises: torch.OutOfMemoryError.

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
        self.size, self.what, self.cure = size, what, cure

    def each(self, n: int, work: Callable[[slice], Made]) -> Iterator[Made]:
        """What `work` makes of each piece of n items, in order. `work` must be able to
        begin a piece again."""
        done = 0

        def piece(size: int) -> tuple[Made, int]:
            return work(slice(done, done + size)), done + size

        while done < n:
            made, done = self.attempt(n - done, piece)
            yield made
            del made  # else it would live while the next piece is made

    def attempt(self, n: int, work: Callable[[int], Made]) -> Made:
        """`work(size)` with size ≤ n; again with half the size each time memory runs
        out."""
        while True:
            size = max(1, min(self.size, n))
            try:
                return work(size)
            except Exception as error:
                if not out_of_memory(error):
                    raise
                if size == 1:
                    raise self._too_large(error) from error
            # outside `except`, where the error no longer holds what the piece had made
            self.size = size // 2
            release()

    def _too_large(self, error: Exception) -> torch.OutOfMemoryError:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        return torch.OutOfMemoryError(
            f"{self.what} alone does not fit into memory: {self.cure} ({first})"
        )


def pieces(size: Pieces | int) -> Pieces:
    """The pieces themselves, or new ones of a size."""
    return Pieces(size) if isinstance(size, int) else size
