"""Handle one connection of a score server: limits on reading, HTTP parsing and answers."""

from __future__ import annotations

import hmac
import io
import json
import math
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from typing import Any, Protocol

from .deadline import DeadlineSocket
from .limits import Full
from .post import IDENTITY

LONGEST_HEADER = 1 << 16  # bytes of the first line and the header
PATIENCE = 10.0  # seconds for a header; a body may start so much later than its rate allows
SLOWEST = 1 << 16  # bytes a second: the lowest average rate at which a body may arrive
PIECE = 1 << 20  # bytes of one read
DRAINED = 1 << 24  # bytes of a refused request that are read, so that its client reads the reason
LINGER = 2.0  # seconds for reading those bytes
AGAIN_IN = 2  # seconds: the header Retry-After of a server that is full
ASKED = "expected POST /score or GET /health"
FAULTS = {  # messages for the faults that http.server itself detects, by status
    400: f"{ASKED} in HTTP/1.1, got something else",
    414: f"expected a first line of at most {LONGEST_HEADER} bytes",
    431: f"expected a header of at most {LONGEST_HEADER} bytes and 100 lines",
    501: ASKED,
    505: "expected HTTP/1.1",
}


class Refused(Exception):
    """A refused request, with the HTTP status and the message of the answer.

    `after`: the seconds of the answer's header Retry-After, 0 without one.
    """

    def __init__(self, status: int, message: str, after: int = 0) -> None:
        super().__init__(message)
        self.status, self.after = status, after

    @property
    def body(self) -> bytes:
        """Return the error as JSON."""
        return json.dumps({"status": self.status, "error": str(self)}).encode()


class _Incoming(DeadlineSocket):
    """The bytes of one client: at most `allowed` of them, until `deadline`.

    Reads raise Refused if the client sends too slowly or too much.
    """

    allowed = math.inf
    heard = False  # whether any byte of the request has come

    def limit(self, seconds: float, size: float) -> None:
        """Allow `size` bytes within `seconds` from now on."""
        self.deadline, self.allowed = time.monotonic() + seconds, size

    def readinto(self, space: Any) -> int:
        """Read some bytes into `space` and return their number; 0 means the end of the stream."""
        try:
            count = super().readinto(space)
        except TimeoutError:
            raise Refused(
                408,
                f"expected the header of a request within {PATIENCE:g} s, and of its body at least "
                f"{SLOWEST} bytes a second",
            ) from None
        self.heard, self.allowed = self.heard or count > 0, self.allowed - count
        if self.allowed < 0:
            raise Refused(431, FAULTS[431])
        return count


class RewardServer(Protocol):
    """What a handler reads of the `Server`, whose module imports this module."""

    reward_handler: Any
    budget: Any
    line: Any
    token: str
    largest: int

    def health(self) -> dict[str, Any]:
        """Return the identity of the reward and the state of the server."""
        ...

    def mark_unauthenticated(self, sock: Any) -> None:
        """Note that a connection has not yet shown the token with its next request."""
        ...

    def mark_authenticated(self, sock: Any) -> None:
        """Note that a connection has shown the token."""
        ...


class ConnectionHandler(BaseHTTPRequestHandler):
    """A handler of the requests of one connection, one after the other."""

    server: RewardServer  # type: ignore[assignment]
    protocol_version = "HTTP/1.1"
    # http.server would answer a malformed first line as HTTP/0.9, without a status line.
    default_request_version = "HTTP/1.1"
    server_version, sys_version = "vidrl", ""
    raw_requestline = b""
    # send_response and log_message read these before http.server has parsed a first line.
    requestline = command = ""
    request_version = "HTTP/1.1"
    unread = True  # whether bytes of the request may still be on their way

    def setup(self) -> None:
        """Replace the reader by one that has a deadline.

        The reader of http.server has a timeout, which would start anew with each byte.
        """
        super().setup()
        self.rfile.close()
        self.incoming = _Incoming(self.connection)
        self.rfile = io.BufferedReader(self.incoming)

    def handle(self) -> None:
        """Handle all requests until the client closes the connection or is refused."""
        with suppress(OSError):  # the client has closed the connection: nobody reads an answer
            super().handle()

    def handle_one_request(self) -> None:
        """Handle one request; answer 500 and print the traceback if the server itself fails."""
        self.unread, self.incoming.heard = True, False
        self.server.mark_unauthenticated(self.connection)
        self.incoming.limit(PATIENCE, LONGEST_HEADER)
        try:
            super().handle_one_request()
        except Refused as error:
            self._refuse(error)
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001  a fault of the server must not end its thread
            traceback.print_exc(file=sys.stderr)
            self._refuse(Refused(500, f"the server failed: {type(error).__name__}"))

    def parse_request(self) -> bool:
        """Parse the header, and refuse a first line without a version.

        Such a line is HTTP/0.9, in which no header follows that the server could wait for.
        """
        if len(self.raw_requestline.split()) == 2:
            self.send_error(505)
            return False
        return super().parse_request()

    def do_POST(self) -> None:
        """Answer POST /score with the scores of the clips in the body."""
        length = self._admitted("/score")
        if length > self.server.largest:
            raise Refused(
                413, f"expected at most {self.server.largest} bytes, got {length}: send fewer clips"
            )
        try:
            with self.server.line.place(), self.server.budget.reserve(length):
                answer = self.server.reward_handler.answer(self._body(length))
        except Full as error:
            raise Refused(503, str(error), error.after) from None
        self._say(200, "application/octet-stream", answer)

    def do_GET(self) -> None:
        """Answer GET /health with the reward's identity and the state of the server."""
        if self._admitted("/health", needed=False):
            raise Refused(400, "expected GET /health without a body")
        self._say(200, "application/json", json.dumps(self.server.health()).encode())

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer a fault that http.server detects with a message of `FAULTS`.

        The messages of http.server would repeat parts of the request.
        """
        self._refuse(Refused(int(code), FAULTS.get(int(code), ASKED)))

    def handle_expect_100(self) -> bool:
        """Return True; `_body` sends "100 Continue" once the server has memory free."""
        return True

    def log_message(self, format: str, *args: Any) -> None:
        """Do nothing: a training run sends thousands of requests."""

    def _admitted(self, path: str, needed: bool = True) -> int:
        """Return the length of the body after checking token, path and headers; raise Refused."""
        given = self.headers.get("Authorization", "").encode("latin-1", "replace")
        if not hmac.compare_digest(given, f"Bearer {self.server.token}".encode()):
            raise Refused(
                401, "expected the header 'Authorization: Bearer TOKEN' with the server's token"
            )
        self.server.mark_authenticated(self.connection)
        if self.path != path:
            raise Refused(404, ASKED)
        length = content_length(self.headers.get_all, needed)
        self.unread = length > 0
        return length

    def _body(self, length: int) -> bytearray:
        """Read the body; memory grows with the bytes that arrive, not with the announced length."""
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        body, begun = bytearray(), time.monotonic()
        self.incoming.allowed = math.inf
        while len(body) < length:
            self.incoming.deadline = begun + PATIENCE + len(body) / SLOWEST
            part = self.rfile.read1(min(length - len(body), PIECE))  # type: ignore[attr-defined]
            if not part:
                raise Refused(400, f"expected {length} bytes, got {len(body)}")
            body += part
        self.unread = False
        return body

    def _refuse(self, error: Refused) -> None:
        """Answer with an error and close the connection."""
        self.close_connection = True
        if error.status == 408 and not self.incoming.heard:
            return  # an idle client of a kept-alive connection gets no error, only the end
        self._say(error.status, "application/json", error.body, error.after)
        if self.unread:
            self._linger()

    def _say(self, status: int, kind: str, body: bytes, after: int = 0) -> None:
        """Send an answer with its headers."""
        # socket.sendall counts this timeout over the whole body, not for each write.
        self.connection.settimeout(PATIENCE + len(body) / SLOWEST)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if status == 200:
            self.send_header(IDENTITY, self.server.reward_handler.identity)
        if after:
            self.send_header("Retry-After", str(after))
        if status == 401:
            self.send_header("WWW-Authenticate", "Bearer")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def _linger(self) -> None:
        """Read on for a moment, so that the client can read the answer.

        The operating system resets a connection that is closed upon unread bytes, and the
        client then loses the answer.
        """
        with suppress(Refused):
            self.connection.shutdown(socket.SHUT_WR)
            self.incoming.limit(LINGER, DRAINED)
            while self.rfile.read1(PIECE):  # type: ignore[attr-defined]
                pass


def content_length(headers: Callable[[str], list[str] | None], needed: bool = True) -> int:
    """Return the Content-Length that `headers(name)` gives; 0 if absent and not `needed`.

    Raises Refused for a body in chunks, a compressed body, or a malformed or repeated
    length.

    >>> content_length({"Content-Length": ["12"]}.get)
    12
    """
    lengths, chunked = headers("Content-Length") or [], headers("Transfer-Encoding")
    if len(lengths) > 1 or (lengths and chunked):
        raise Refused(400, "expected one Content-Length, and no Transfer-Encoding beside it")
    if headers("Content-Encoding"):
        raise Refused(
            415, "expected a body without Content-Encoding: compressed bodies are not read"
        )
    if not (lengths or chunked or needed):
        return 0
    text = lengths[0].strip() if lengths else ""
    if not (text.isascii() and text.isdigit()):
        raise Refused(
            411, "expected a Content-Length, a natural number; bodies in chunks are not read"
        )
    # Python refuses to convert thousands of digits. 18 digits hold any real length; a longer
    # number, apart from leading zeros, is above every limit.
    return int(text[-18:]) if not text[:-18].strip("0") else sys.maxsize


def overload_answer() -> bytes:
    """Return the HTTP answer of a server that has no slot for one more connection."""
    error = Refused(503, f"all places of the server are taken: come again in {AGAIN_IN} s")
    head = (
        "HTTP/1.1 503 Service Unavailable",
        f"Retry-After: {AGAIN_IN}",
        "Content-Type: application/json",
        f"Content-Length: {len(error.body)}",
        "Connection: close",
        "",
        "",
    )
    return "\r\n".join(head).encode() + error.body
