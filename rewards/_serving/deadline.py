"""Bound all reads and writes of a connection by one deadline, however slowly the peer sends."""

from __future__ import annotations

import io
import math
import socket
import time
from typing import Any

LONGEST = 1e6  # seconds: the largest timeout that the sockets of every operating system accept


class DeadlineSocket(io.RawIOBase):
    """A connected socket whose reads and writes all end by `deadline`.

    `deadline` is a time of `time.monotonic()`. The timeout of an ordinary socket starts
    anew with each byte, so a peer that sends one byte a second holds a reader for ever.
    Here each read and each write waits at most until the deadline and then raises
    TimeoutError.

    `http.client` accepts an instance in place of a socket, because the class has `sendall`,
    `makefile` and `close`. `close()` leaves the socket open; the caller who created the
    socket closes it.

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
        """Return True, which io.BufferedReader asks for."""
        return True

    def readinto(self, space: Any) -> int:
        """Read some bytes into `space` and return their number; 0 means the end of the stream."""
        self.sock.settimeout(seconds_left(self.deadline))
        return self.sock.recv_into(space)

    def sendall(self, data: Any) -> None:
        """Send all bytes of `data`."""
        view = memoryview(data)
        while view:
            self.sock.settimeout(seconds_left(self.deadline))
            view = view[self.sock.send(view) :]

    def makefile(self, mode: str = "rb", buffering: int = -1) -> io.BufferedReader:
        """Return a buffered reader of the socket, as `http.client` expects."""
        return io.BufferedReader(self)

    def close(self) -> None:
        """Do nothing: the caller who created the socket closes it."""


def seconds_left(deadline: float) -> float:
    """Return the seconds until `deadline`; raise TimeoutError if the deadline has passed."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError("the deadline is past")
    return min(seconds, LONGEST)
