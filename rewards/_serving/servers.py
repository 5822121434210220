"""Spread requests over several servers of one reward; ask another one where one fails."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import SplitResult

from .post import Retryable, UnreadableAnswer

T = TypeVar("T")
LONGEST_REST = 300.0  # seconds for which a server that failed again and again is asked last
LEAST_REST = 1.0


class Busy(Retryable):
    """An answer of a server that is full, with the seconds after which to come again."""


class Failed(Exception):
    """A failure that the same server would repeat, but another server may not."""


@dataclass
class Server:
    """A server, with what this process knows of it."""

    url: str
    address: SplitResult | None
    # How many requests of this process are on their way.
    busy: int = 0
    # How often the server has failed since its last answer, and until when it is asked last.
    failures: int = 0
    rests_until: float = 0.0


@dataclass
class Servers:
    """The servers of one reward, of which each request takes the least busy one.

    Several threads may ask at once. A server that fails is asked last for a while: for as
    long as the failure took, at least a second, and twice as long after each failure in a
    row. Copies and pickles know the addresses alone.
    """

    servers: list[Server]
    pause: Callable[[float], None] = time.sleep
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __reduce__(self) -> tuple[type[Servers], tuple[list[Server]]]:
        return type(self), ([Server(one.url, one.address) for one in self.servers],)

    def ask(self, once: Callable[[Server, float], T], timeout: float) -> T:
        """Return `once(server, deadline)` of the first server that answers.

        Each server has `timeout` seconds. Where all are busy, wait as they ask, at most
        `timeout` seconds in all. Raises Failed, or Retryable where another try may succeed.
        """
        deadline = time.monotonic() + timeout
        while True:
            found, faults = self._ask_each(once, timeout)
            if not faults:
                return found[0]
            waits = [error.after for error in faults if isinstance(error, Busy) and error.after]
            left = deadline - time.monotonic()
            if len(waits) < len(faults) or min(waits) >= left:
                raise _together(faults)
            self.pause(min(waits))

    def _ask_each(
        self, once: Callable[[Server, float], T], timeout: float
    ) -> tuple[list[T], list[Exception]]:
        """Return the first answer, or the faults of all servers."""
        asked: list[Server] = []
        faults: list[Exception] = []
        while len(asked) < len(self.servers):
            with self._taken(asked) as server:
                begun = time.monotonic()
                try:
                    answer = once(server, begun + timeout)
                except (Retryable, UnreadableAnswer, Failed) as error:
                    faults.append(error)
                    self._note(server, time.monotonic() - begun, error)
                else:
                    server.failures, server.rests_until = 0, 0.0
                    return [answer], []
        return [], faults

    @contextmanager
    def _taken(self, asked: list[Server]) -> Iterator[Server]:
        """Take the best server that was not asked, and count its request; add it to `asked`."""
        with self._lock:
            now = time.monotonic()
            left = [one for one in self.servers if one not in asked]
            # at random among equals, because other processes ask the same servers
            server = min(left, key=lambda s: (s.rests_until > now, s.busy, random.random()))
            server.busy += 1
        asked.append(server)
        try:
            yield server
        finally:
            with self._lock:
                server.busy -= 1

    def _note(self, server: Server, seconds: float, error: Exception) -> None:
        """Let a server that failed rest; a busy one has asked for its own rest."""
        server.failures += not isinstance(error, Busy)
        rest = max(seconds, LEAST_REST) * 2.0 ** min(server.failures - 1, 20)
        after = getattr(error, "after", None) if isinstance(error, Busy) else rest
        server.rests_until = time.monotonic() + min(after or 0.0, LONGEST_REST)


def _together(faults: Sequence[Exception]) -> Exception:
    """Return one error for the faults of all servers; a single one is returned as it is."""
    if len(faults) == 1:
        return faults[0]
    text = "; ".join(dict.fromkeys(map(str, faults)))
    again = [error for error in faults if isinstance(error, Retryable)]
    waits = [error.after for error in again if error.after is not None]
    return Retryable(text, min(waits, default=None)) if again else Failed(text)
