"""Limit the memory of a process that reads unknown files, and recognise errors of the limit.

A file of 200 bytes can ask for gigabytes of pixels. Only Linux enforces the limit.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from pathlib import Path

# Bytes that a worker may take in addition to the memory of Python, torch and the rewards.
MEMORY = 4 * 2**30
WORDS = (
    "can't allocate memory",
    "cannot allocate memory",
    "insufficient memory",
    "bad_alloc",
    "not enough memory",
    "out of memory",
)

_budget: int | None = None  # the limit of this process in bytes, None without a limit


class TooLarge(MemoryError):
    """A clip that is refused before the memory runs out, with its reason."""


def limit_memory(budget: int | None) -> None:
    """Let this process take `budget` bytes of address space more than now; None sets no limit.

    The present address space does not count, because torch and OpenCV reserve more than
    they use. A lower limit that is already set, for example by `ulimit -v`, stays.
    """
    taken = address_space()
    if budget is None or taken is None:
        return
    import resource

    global _budget
    _budget = budget
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    present = [bound for bound in (soft, hard) if bound != resource.RLIM_INFINITY]
    with suppress(ValueError, OSError):  # a system may refuse the limit; the work goes on
        resource.setrlimit(resource.RLIMIT_AS, (min([taken + budget, *present]), hard))


def address_space() -> int | None:
    """Return the bytes of address space of this process; None if the system does not say."""
    try:
        import resource
    except ImportError:
        return None
    pages = Path("/proc/self/statm")
    return int(pages.read_text().split()[0]) * resource.getpagesize() if pages.exists() else None


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of Python, torch, OpenCV or the system means a lack of memory.

    >>> error = RuntimeError("DefaultCPUAllocator: can't allocate memory")
    >>> is_out_of_memory(MemoryError()), is_out_of_memory(error)
    (True, True)
    """
    if isinstance(error, MemoryError) or isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return any(word in str(error).lower() for word in WORDS)


def out_of_memory_reason(error: BaseException) -> str:
    """Return why a clip that ran out of memory is unscored: TooLarge's text or the limit."""
    if isinstance(error, TooLarge):
        return str(error)
    most = (
        f"the {_budget / 2**30:g} GiB that one worker may take" if _budget else "this machine has"
    )
    return (
        f"needs more memory than {most}: its frames are too large or too many to be looked at "
        "together"
    )
