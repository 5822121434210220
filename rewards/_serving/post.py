"""One request to a server: by a deadline, without redirects, and with nothing of the
server's words taken on trust."""

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
PIECE = 1 << 16  # bytes read at once
T = TypeVar("T")


@dataclass(frozen=True)
class Answer:
    """What a server answered; `after` is how many seconds it asks to wait before another
    try, None if it does not."""

    status: int
    body: bytes
    after: float | None = None


class UnreadableAnswer(Exception):
    """An answer that is not read to its end: too long, or compressed."""


class Retryable(Exception):
    """A failure that another try may mend; `after` is how many seconds the server asks to
    wait."""

    def __init__(self, why: str, after: float | None = None) -> None:
        super().__init__(why)
        self.after = after


@dataclass(frozen=True)
class RetryPolicy:
    """How long and how often a server is asked.

    Each try has `timeout` seconds, from the first byte sent to the last byte read.
    `retries` more tries follow, the first after `wait` seconds, each next one after twice
    as many, at most `longest`; `spread` is the share of the wait that chance may add, so
    that many clients do not come back at once. All together takes at most (retries + 1) *
    timeout seconds and the waits: where a server asks to wait longer than is left, no try
    follows.
    """

    timeout: float
    retries: int
    wait: float
    longest: float = 30.0
    spread: float = 0.0

    def call(self, once: Callable[[float], T], pause: Callable[[float], None]) -> T:
        """What `once(deadline)` gives, called again where it raises Again. Raises Again
        where no try is left."""
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
        """The seconds before the next try. Raises Again where the server asks for more than
        are left until `end`."""
        asked, spare = error.after or 0.0, end - time.monotonic()
        if asked >= spare:
            told = f"it asks to wait {asked:g} s, which is longer than timeout and retries allow"
            raise Retryable(f"{error}; {told if asked else 'no time is left for another try'}")
        return max(min(wait * (1 + self.spread * random.random()), self.longest, spare), asked)


def parse_address(url: str, what: str) -> SplitResult:
    """The parts of a server's address, which the option `what` gives; raises ValueError for
    one of no web server.

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
    except ValueError:  # whose message may show a password
        raise ValueError(f"{want}: its host or its port is malformed") from None
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(
            f"{want}, without user, password, query or fragment: name the key by an environment variable"
        )
    if not known or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError(f"{want}, got {url!r}")
    return parts


def is_local_host(host: str) -> bool:
    """Whether a host is this machine's own.

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
    """Whether nobody on the network between can read what is sent: https, or a server on
    this machine."""
    return place.scheme == "https" or is_local_host(place.hostname or "")


def post(
    place: SplitResult,
    path: str,
    body: bytes,
    headers: Mapping[str, str],
    deadline: float,
    largest: int,
    proxies: bool = False,
) -> Answer:
    """The answer to POST {place}{path}, read to its end by `deadline`, a time of
    `time.monotonic()`.

    A redirect is an answer like any other: it is not followed. `proxies` lets an https
    request go through the tunnel (CONNECT) of the proxy that HTTPS_PROXY names, unless
    NO_PROXY excepts the host: the proxy sees the name of the host and nothing else. A
    request of plain http goes through no proxy. Raises OSError (TimeoutError if late) or
    http.client.HTTPException where no answer comes, Unreadable for one that is compressed
    or longer than `largest` bytes. The deadline does not bound the look-up of the host's
    name, which has the limits of the system's resolver.
    """
    with closing(_reached(place, deadline, proxies)) as sock:
        connection = http.client.HTTPConnection(
            place.hostname or "", place.port or PORTS[place.scheme]
        )
        connection.default_port = PORTS[place.scheme]  # which the header Host leaves out
        connection.sock = DeadlineSocket(sock, deadline)  # type: ignore[assignment]
        with suppress(
            BrokenPipeError, ConnectionResetError
        ):  # a refusal may come before all is sent
            connection.request("POST", f"{place.path.rstrip('/')}{path}", body, dict(headers))
        said = connection.getresponse()
        if said.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
            raise UnreadableAnswer("the answer is compressed, which was not asked for")
        return Answer(
            said.status, _whole(said, largest), retry_after(said.headers.get("Retry-After", ""))
        )


def retry_after(text: str) -> float | None:
    """The seconds that a header Retry-After asks to wait: a whole number or a date; None
    for anything else.

    >>> retry_after("7"), retry_after("-7"), retry_after("soon"), retry_after("Wed, 21 Oct 2015 07:28:00 GMT")
    (7.0, None, None, 0.0)
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


def _whole(said: http.client.HTTPResponse, largest: int) -> bytes:
    """The body in pieces, so that memory grows with what has come and not with what was
    announced."""
    pieces, size = [], 0
    while piece := said.read1(PIECE):
        pieces.append(piece)
        size += len(piece)
        if size > largest:
            raise UnreadableAnswer(f"the answer is longer than {largest} bytes")
    return b"".join(pieces)


def _reached(place: SplitResult, deadline: float, proxies: bool) -> socket.socket:
    """A connection to the server, encrypted if https."""
    host, port = place.hostname or "", place.port or PORTS[place.scheme]
    if place.scheme == "http":
        return _dialled(host, port, deadline)
    proxy = getproxies().get("https", "") if proxies and not proxy_bypass(host) else ""
    sock = _tunnel(proxy, host, port, deadline) if proxy else _dialled(host, port, deadline)
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    try:
        sock.settimeout(seconds_left(deadline))  # of the whole handshake
        return context.wrap_socket(sock, server_hostname=host)
    except BaseException:
        sock.close()
        raise


def _dialled(host: str, port: int, deadline: float) -> socket.socket:
    """A connection to the first of the host's addresses that takes one."""
    fault: OSError = OSError("the host has no address")
    try:
        places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise OSError("the host's name cannot be looked up") from None
    for family, kind, protocol, _, at in places:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(seconds_left(deadline))
            sock.connect(at)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
        except OSError as error:
            sock.close()
            fault = error
    raise fault


def _tunnel(proxy: str, host: str, port: int, deadline: float) -> socket.socket:
    """A connection to a host through the proxy of an address such as
    http://me:password@proxy.example:3128."""
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    if parts.scheme != "http" or not parts.hostname:
        raise OSError("expected HTTPS_PROXY to be like http://proxy.example:3128")
    headers = {}
    if parts.username:
        key = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Proxy-Authorization"] = f"Basic {base64.b64encode(key.encode()).decode()}"
    sock = _dialled(parts.hostname, parts.port or PORTS["http"], deadline)
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
    """What went wrong with a connection, in one line that is safe to show."""
    return printable(f"{type(error).__name__}: {error}")
