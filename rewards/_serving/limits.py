"""Limit the resources of a score server: open connections and bytes held in memory."""

from __future__ import annotations

import math
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress

YOUNG = 1.0  # seconds for which a connection without a token is safe from eviction
LONGEST_WAIT = 30  # seconds: the largest Retry-After of a line that is full
KEPT = 64  # rejected connections that stay open so that their clients can read the reason
KEPT_FOR = 2.0  # seconds for which a rejected connection stays open


class ByteBudget:
    """A number of bytes that several threads share; requests are served in order of arrival.

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
        """Reserve `size` bytes for the block, waiting until so many are free.

        `size` must not be larger than the budget, or the call waits for ever.
        """
        # A thread that waits for bytes keeps the lock `queue`, so that later threads cannot
        # overtake a large request with small ones.
        with self.queue, self.changed:
            self.changed.wait_for(lambda: self.free >= size)
            self.free -= size
        try:
            yield
        finally:
            with self.changed:
                self.free += size
                self.changed.notify()


class Full(Exception):
    """A line has no place for one more request; `after`: seconds until one may be free."""

    def __init__(self, count: int, after: int) -> None:
        super().__init__(f"{count} requests wait already: come again in {after} s")
        self.after = after


class WaitingLine:
    """The requests that wait or are scored, at most `most`, and how long one takes.

    >>> line = WaitingLine(1)
    >>> with line.place():
    ...     line.count
    1
    """

    def __init__(self, most: int) -> None:
        self.most, self.count = most, 0
        self.scored, self.seconds = 0, 0.0
        self.lock = threading.Lock()

    @contextmanager
    def place(self) -> Iterator[None]:
        """Take a place for the block; raise `Full` where there is none."""
        with self.lock:
            if self.count >= self.most:
                raise Full(self.count, self.after)
            self.count += 1
        try:
            yield
        finally:
            with self.lock:
                self.count -= 1

    def note(self, seconds: float) -> None:
        """Note how many seconds a request took to be scored; newer ones count more."""
        with self.lock:
            share = max(1 / (self.scored + 1), 0.2)
            self.scored += 1
            self.seconds += share * (seconds - self.seconds)

    @property
    def after(self) -> int:
        """After how many seconds a client that found no place is to come again."""
        return min(max(1, math.ceil(self.seconds)), LONGEST_WAIT)


class ConnectionLimit:
    """A limit of `count` open connections.

    If all slots are taken, a new connection evicts the oldest connection that has not yet
    shown the token.
    """

    def __init__(self, count: int) -> None:
        self.slots = threading.BoundedSemaphore(count)
        # The time since when each connection waits for its token, oldest first.
        self.unauthenticated: dict[socket.socket, float] = {}
        self.rejected: deque[tuple[float, socket.socket]] = deque()  # (time, socket)

    def admit(self) -> bool:
        """Return whether a new connection gets a slot; evict an unauthenticated one if needed."""
        return self.slots.acquire(blocking=False) or self._evict()

    def release(self, sock: socket.socket) -> None:
        """Give back the slot of a connection."""
        self.unauthenticated.pop(sock, None)
        self.slots.release()

    def _evict(self) -> bool:
        """Cut off the oldest unauthenticated connection; return whether its slot became free."""
        sock, since = next(iter(list(self.unauthenticated.items())), (None, 0.0))
        if sock is None or time.monotonic() - since < YOUNG:
            return False
        self.unauthenticated.pop(sock, None)
        with suppress(OSError):
            # The thread of the evicted connection reads the end of the stream and releases its
            # slot. The connection is not closed here, because that thread still uses the socket.
            sock.shutdown(socket.SHUT_RDWR)
        return self.slots.acquire(timeout=0.5)

    def reject(self, sock: socket.socket, said: bytes) -> None:
        """Send `said`, the answer of a full server, and keep the connection open for a moment.

        A socket that is closed upon unread bytes is reset, and its client then loses the
        answer.
        """
        sock.setblocking(False)
        with suppress(OSError):
            sock.send(said)
            sock.shutdown(socket.SHUT_WR)
        self.rejected.append((time.monotonic(), sock))
        self.close_rejected(KEPT)

    def close_rejected(self, most: int = KEPT) -> None:
        """Close rejected connections older than `KEPT_FOR` seconds or beyond the newest `most`."""
        while self.rejected and (
            len(self.rejected) > most or time.monotonic() - self.rejected[0][0] > KEPT_FOR
        ):
            self.rejected.popleft()[1].close()
