"""A connection whose reads and writes all end by one moment, however slowly the other end
sends."""

from __future__ import annotations

import io
import math
import socket
import time
from typing import Any

LONGEST = 1e6  # seconds: what every operating system takes as the timeout of a socket


class DeadlineSocket(io.RawIOBase):
    """A connected socket all of whose reads and writes end by `deadline`, a time of
    `time.monotonic()`.

    The timeout of a socket starts anew with each byte, so that a sender of one byte a
    second holds a reader for ever. Here each read and write waits for what is left until
    the deadline, then raises TimeoutError. An instance stands where `http.client` expects a
    socket. `close()` leaves the socket open: who made the socket closes it.

    >>> near, far = socket.socketpair()
    >>> far.sendall(b"ab")
    >>> DeadlineSocket(near, time.monotonic() + 1.0).makefile().read(2)
    b'ab'
    >>> DeadlineSocket(near, time.monotonic() - 1.0).makefile().read(2)
    Traceback (most recent call last):
    TimeoutError: the deadline is past
    >>> near.close(), far.close()
    (None, None)
    """

    def __init__(self, sock: socket.socket, deadline: float = math.inf) -> None:
        self.sock, self.deadline = sock, deadline

    def readable(self) -> bool:
        """True: what io.BufferedReader asks."""
        return True

    def readinto(self, space: Any) -> int:
        """Some bytes into `space`, and how many; 0 at the end."""
        self.sock.settimeout(seconds_left(self.deadline))
        return self.sock.recv_into(space)

    def sendall(self, data: Any) -> None:
        """All bytes of `data`."""
        view = memoryview(data)
        while view:
            self.sock.settimeout(seconds_left(self.deadline))
            view = view[self.sock.send(view) :]

    def makefile(self, mode: str = "rb", buffering: int = -1) -> io.BufferedReader:
        """A reader of the socket."""
        return io.BufferedReader(self)

    def close(self) -> None:
        """Nothing."""


def seconds_left(deadline: float) -> float:
    """The seconds until `deadline`. Raises TimeoutError where none are left."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError("the deadline is past")
    return min(seconds, LONGEST)
