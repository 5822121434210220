"""What a score server has of everything: places for connections, and room for the bytes of
requests."""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress

YOUNG = 1.0  # seconds in which a connection that has not shown the token keeps its place
KEPT = 64  # connections that were turned away and may still read why
KEPT_FOR = 2.0  # seconds


class ByteBudget:
    """`size` bytes that several threads share; who asks first is served first.

    >>> budget = ByteBudget(10)
    >>> with budget.reserve(4):
    ...     budget.free
    6
    """

    def __init__(self, size: int) -> None:
        self.free = size
        self.queue, self.changed = threading.Lock(), threading.Condition()

    @contextmanager
    def reserve(self, size: int) -> Iterator[None]:
        """`size` bytes of the room, as soon as they are free; never more than there are in
        all."""
        with self.queue, self.changed:  # the one who waits for room keeps the others in line
            self.changed.wait_for(lambda: self.free >= size)
            self.free -= size
        try:
            yield
        finally:
            with self.changed:
                self.free += size
                self.changed.notify()


class ConnectionLimit:
    """At most `count` connections at once. Those that have not shown the token give way
    when all places are taken."""

    def __init__(self, count: int) -> None:
        self.slots = threading.BoundedSemaphore(count)
        self.unauthenticated: dict[socket.socket, float] = {}  # since when; the longest first
        self.rejected: deque[tuple[float, socket.socket]] = deque()

    def admit(self) -> bool:
        """Whether there is a place for one more."""
        return self.slots.acquire(blocking=False) or self._evict()

    def release(self, sock: socket.socket) -> None:
        """The place of a connection back."""
        self.unauthenticated.pop(sock, None)
        self.slots.release()

    def _evict(self) -> bool:
        """Break off the stranger that has been here longest, and take its place."""
        sock, since = next(iter(list(self.unauthenticated.items())), (None, 0.0))
        if sock is None or time.monotonic() - since < YOUNG:
            return False
        self.unauthenticated.pop(sock, None)
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)  # its thread reads the end, and gives its place back
        return self.slots.acquire(timeout=0.5)

    def reject(self, sock: socket.socket, said: bytes) -> None:
        """Tell a connection that there is no place, and keep it for a moment, so that its
        sender lives to read it."""
        sock.setblocking(False)
        with suppress(OSError):
            sock.send(said)
            sock.shutdown(socket.SHUT_WR)
        self.rejected.append((time.monotonic(), sock))
        self.close_rejected(KEPT)

    def close_rejected(self, most: int = KEPT) -> None:
        """Close what was turned away a moment ago, and the oldest of what is more than
        `most`."""
        while self.rejected and (
            len(self.rejected) > most or time.monotonic() - self.rejected[0][0] > KEPT_FOR
        ):
            self.rejected.popleft()[1].close()
