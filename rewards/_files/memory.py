"""How much memory a process may take: a limit for workers that read files of others, and
how its end shows.

A file of 200 bytes can ask for gigabytes of pixels. Linux holds the limit; elsewhere there
is none.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from pathlib import Path

# bytes that a worker may take beside what Python, torch and the rewards have taken before
# its work
MEMORY = 4 * 2**30
WORDS = (
    "can't allocate memory",
    "cannot allocate memory",
    "insufficient memory",
    "bad_alloc",
    "not enough memory",
    "out of memory",
)

_budget: int | None = None  # of this process, where it has a limit


class TooLarge(MemoryError):
    """A clip that is refused before there is no memory, with its reason."""


def limit_memory(budget: int | None) -> None:
    """Let this process take `budget` bytes of address space more than it has; None for no
    limit.

    What torch and OpenCV have reserved, and never use all of, does not count. A lower limit
    that is set already, as by `ulimit -v`, stays.
    """
    taken = address_space()
    if budget is None or taken is None:
        return
    import resource

    global _budget
    _budget = budget
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    known = [bound for bound in (soft, hard) if bound != resource.RLIM_INFINITY]
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (min([taken + budget, *known]), hard))


def address_space() -> int | None:
    """The bytes of address space of this process; None where the system does not say."""
    try:
        import resource
    except ImportError:
        return None
    pages = Path("/proc/self/statm")
    return int(pages.read_text().split()[0]) * resource.getpagesize() if pages.exists() else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was no memory: Python's own, or that of torch,
    OpenCV or the system.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    (True, True)
    """
    if isinstance(error, MemoryError) or isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return any(word in str(error).lower() for word in WORDS)


def out_of_memory_reason(error: BaseException) -> str:
    """The reason why a clip that ran out of memory has no score: the text of `TooLarge`, or
    the limit."""
    if isinstance(error, TooLarge):
        return str(error)
    most = (
        f"the {_budget / 2**30:g} GiB that one worker may take" if _budget else "this machine has"
    )
    return f"needs more memory than {most}: its frames are too large or too many to be looked at together"
