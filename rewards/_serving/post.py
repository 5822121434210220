"""Send one request to a server: with a deadline and without redirects.

The answer is not trusted: its length is limited, and it is not decompressed.
"""

from __future__ import annotations

import base64
import http.client
import ipaddress
import math
import random
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from .deadline import DeadlineSocket, seconds_left
from .printable import printable

PORTS = {"http": 80, "https": 443}
PIECE = 1 << 16  # bytes of one read
IDENTITY = "Vidrl-Reward"  # the header with the digest of what an answer's numbers depend on
T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    """An answer of a server.

    `after` is how many seconds the server asks to wait, None if not stated; `identity` is the
    header Vidrl-Reward, "" without one.
    """

    status: int
    body: bytes
    after: float | None = None
    identity: str = ""


class UnreadableAnswer(Exception):
    """An answer that is not read to its end, because it is too long or compressed."""


class Retryable(Exception):
    """A failure after which another try may succeed.

    `after` is the number of seconds that the server asks to wait, None if it does not ask.
    """

    def __init__(self, why: str, after: float | None = None) -> None:
        super().__init__(why)
        self.after = after


@dataclass(frozen=True)
class RetryPolicy:
    """A rule that says how long and how often a server is asked.

    Each try has `timeout` seconds, from the first byte sent to the last byte read.
    `retries` more tries follow: the first after `wait` seconds, each next one after twice
    as many, at most `longest`. `spread` is the largest fraction of a wait that is added at
    random, so that many clients do not return at the same moment. All together takes at
    most (retries + 1) * timeout seconds plus the waits: if a server asks to wait longer
    than the remaining time, no try follows.
    """

    timeout: float
    retries: int
    wait: float
    longest: float = 30.0
    spread: float = 0.0

    def call(self, once: Callable[[float], T], pause: Callable[[float], None]) -> T:
        """Return `once(deadline)`, called again after Retryable; raise Retryable at the end."""
        # 2 ** 60 is beyond any `longest`; a larger power would overflow a float.
        waits = [
            min(self.wait * 2.0 ** min(trial, 60), self.longest) for trial in range(self.retries)
        ]
        end = time.monotonic() + (self.retries + 1) * self.timeout + (1 + self.spread) * sum(waits)
        for trial, wait in enumerate([*waits, math.inf], 1):
            try:
                return once(min(end, time.monotonic() + self.timeout))
            except Retryable as error:
                if trial > self.retries:
                    raise Retryable(
                        f"{error} ({trial} {'try' if trial == 1 else 'tries'})"
                    ) from None
                pause(self._pause(wait, error, end))
        raise AssertionError("unreachable")

    def _pause(self, wait: float, error: Retryable, end: float) -> float:
        """Return the seconds before the next try; raise Retryable if too little time is left."""
        asked, spare = error.after or 0.0, end - time.monotonic()
        if asked >= spare:
            too_long = (
                f"it asks to wait {asked:g} s, which is longer than timeout and retries allow"
            )
            raise Retryable(f"{error}; {too_long if asked else 'no time is left for another try'}")
        return max(min(wait * (1 + self.spread * random.random()), self.longest, spare), asked)


def parse_address(url: str, what: str) -> SplitResult:
    """Return the parts of a server's address, given by the option `what`; raise ValueError.

    >>> parse_address("http://127.0.0.1:8300/v1/", "url").port
    8300
    """
    want = f"expected {what} to be like http://127.0.0.1:8300 or https://scorer.example"
    try:
        parts = urlsplit(url)
        known = (
            parts.scheme in PORTS
            and bool(parts.hostname)
            and (parts.port is None or parts.port > 0)
        )
    except ValueError:  # urlsplit's own message may show a password
        raise ValueError(f"{want}: its host or its port is malformed") from None
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(
            f"{want}, without user, password, query or fragment: name the key by an environment "
            "variable"
        )
    if not known or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError(f"{want}, got {url!r}")
    return parts


def is_local_host(host: str) -> bool:
    """Return whether a host name or address means this machine.

    >>> [is_local_host(host) for host in ("127.0.0.1", "::1", "localhost")]
    [True, True, True]
    >>> [is_local_host(host) for host in ("0.0.0.0", "example.org", "")]
    [False, False, False]
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_private(place: SplitResult) -> bool:
    """Return whether nobody on the network can read a request: https, or a local server."""
    return place.scheme == "https" or is_local_host(place.hostname or "")


def post(
    place: SplitResult,
    path: str,
    body: bytes,
    headers: Mapping[str, str],
    deadline: float,
    largest: int,
    proxies: bool = False,
    method: str = "POST",
) -> Answer:
    """Return the answer to {method} {place}{path}, read to its end by `deadline`.

    `deadline` is a time of `time.monotonic()`. A redirect is returned like any other answer
    and not followed. `proxies` sends an https request through the tunnel (CONNECT) of the
    proxy that HTTPS_PROXY names, unless NO_PROXY excepts the host: the proxy sees the name
    of the host and nothing else. A request of plain http goes through no proxy.

    Raises OSError (TimeoutError if late) or http.client.HTTPException if no answer arrives,
    and UnreadableAnswer if the answer is compressed or longer than `largest` bytes. The
    deadline does not bound the look-up of the host's name, which has the limits of the
    system's resolver.
    """
    with closing(_reached(place, deadline, proxies)) as sock:
        connection = http.client.HTTPConnection(
            place.hostname or "", place.port or PORTS[place.scheme]
        )
        # http.client leaves the default port out of the header Host, also for https, whose
        # encryption is in `sock` already.
        connection.default_port = PORTS[place.scheme]
        connection.sock = DeadlineSocket(sock, deadline)  # type: ignore[assignment]
        # A server may refuse and close before the whole body is sent; its answer is still read.
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.request(method, f"{place.path.rstrip('/')}{path}", body, dict(headers))
        reply = connection.getresponse()
        encoding = reply.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise UnreadableAnswer("the answer is compressed, which was not asked for")
        after = retry_after(reply.headers.get("Retry-After", ""))
        identity = reply.headers.get(IDENTITY, "")
        return Answer(reply.status, _read_body(reply, largest), after, printable(identity, 64))


def retry_after(text: str) -> float | None:
    """Return the seconds of a header Retry-After, a whole number or a date; None otherwise.

    >>> retry_after("7"), retry_after("-7"), retry_after("soon")
    (7.0, None, None)
    >>> retry_after("Wed, 21 Oct 2015 07:28:00 GMT")
    0.0
    """
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        when = parsedate_to_datetime(text[:60])
        aware = when if when.tzinfo else when.replace(tzinfo=UTC)
        return max(0.0, (aware - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, OverflowError, LookupError, AttributeError):
        return None


def _read_body(reply: http.client.HTTPResponse, largest: int) -> bytes:
    """Return the body, read in pieces; memory grows with the bytes that arrive."""
    pieces, size = [], 0
    while piece := reply.read1(PIECE):
        pieces.append(piece)
        size += len(piece)
        if size > largest:
            raise UnreadableAnswer(f"the answer is longer than {largest} bytes")
    return b"".join(pieces)


def _reached(place: SplitResult, deadline: float, proxies: bool) -> socket.socket:
    """Return a connection to the server, encrypted if https."""
    host, port = place.hostname or "", place.port or PORTS[place.scheme]
    if place.scheme == "http":
        return _connect(host, port, deadline)
    proxy = getproxies().get("https", "") if proxies and not proxy_bypass(host) else ""
    sock = _tunnel(proxy, host, port, deadline) if proxy else _connect(host, port, deadline)
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    try:
        sock.settimeout(seconds_left(deadline))  # bounds the whole TLS handshake
        return context.wrap_socket(sock, server_hostname=host)
    except BaseException:
        sock.close()
        raise


def _connect(host: str, port: int, deadline: float) -> socket.socket:
    """Return a connection to the first of the host's addresses that accepts one."""
    fault: OSError = OSError("the host has no address")
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise OSError("the host's name cannot be looked up") from None
    for family, kind, protocol, _, target in addresses:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(seconds_left(deadline))
            sock.connect(target)
            # Without this, the last small packet of a request may wait for an acknowledgement.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        except OSError as error:
            sock.close()
            fault = error
    raise fault


def _tunnel(proxy: str, host: str, port: int, deadline: float) -> socket.socket:
    """Return a connection to a host through a proxy, http://user:password@host:port."""
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    if parts.scheme != "http" or not parts.hostname:
        raise OSError("expected HTTPS_PROXY to be like http://proxy.example:3128")
    headers = {}
    if parts.username:
        key = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Proxy-Authorization"] = f"Basic {base64.b64encode(key.encode()).decode()}"
    sock = _connect(parts.hostname, parts.port or PORTS["http"], deadline)
    try:
        connection = http.client.HTTPConnection(host, port)
        connection.sock = DeadlineSocket(sock, deadline)  # type: ignore[assignment]
        connection.request(
            "CONNECT", f"[{host}]:{port}" if ":" in host else f"{host}:{port}", headers=headers
        )
        status = connection.getresponse().status
        if status != http.client.OK:
            raise OSError(f"the proxy answered {status}")
        return sock
    except BaseException:
        sock.close()
        raise


def describe_failure(error: Exception) -> str:
    """Return a connection's error as one line that is safe to show."""
    return printable(f"{type(error).__name__}: {error}")
