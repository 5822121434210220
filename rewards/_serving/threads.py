"""Call functions in threads that never keep a program from ending."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar
from weakref import finalize

T = TypeVar("T")


class Threads:
    """A number of threads that call functions, in the order of `submit`.

    The threads of concurrent.futures are joined when the program ends, so that a program
    whose thread waits for a server could not end before the server's deadline.

    >>> threads = Threads(2)
    >>> threads.submit(divmod, 7, 2).result()
    (3, 1)
    >>> threads.close()
    """

    def __init__(self, count: int) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        for _ in range(count):
            threading.Thread(target=_serve, args=(self._calls,), daemon=True).start()
        self._end = finalize(self, _stop, self._calls, count)

    def submit(self, function: Callable[..., T], *args: Any) -> Future[T]:
        """Return the future of `function(*args)`."""
        future: Future[T] = Future()

        def call() -> None:
            try:
                future.set_result(function(*args))
            except BaseException as error:  # noqa: BLE001  raised where the result is asked for
                future.set_exception(error)

        self._calls.put(call)
        return future

    def close(self) -> None:
        """Let the threads end once they have made the calls that were submitted."""
        self._end()


def _serve(calls: queue.SimpleQueue[Callable[[], None] | None]) -> None:
    """Make calls until None comes."""
    while (call := calls.get()) is not None:
        call()
        del call  # else the arguments would stay in memory while the thread waits


def _stop(calls: queue.SimpleQueue[Callable[[], None] | None], count: int) -> None:
    """Tell `count` threads to end."""
    for _ in range(count):
        calls.put(None)
