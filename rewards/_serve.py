"""A reward behind HTTP, so that a heavy one lives on a machine of its own; `http_scorer` is its client.

One request, POST /score, holds clips and is answered with their scores. Both bodies are in the format of safetensors:
eight bytes of length, a JSON header, raw numbers; nothing in it can run. What is not a tensor travels as JSON in the
header's `__metadata__` under "vidrl". Errors are JSON, {"status": 400, "error": "what was expected"}.

A request has the tensors `video` and, if there is one, `reference`, and {"prompts", "fps", "meta"}; an answer `value`,
`frames`, those of the parts as `parts/NAME/value`, and {"support", "why", "weights", "parts"}.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import os
import secrets
import socket
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from ._plain import as_reward
from ._wire import CODES, DTYPES, pack, pack_samples, pack_score, unpack, unpack_samples, unpack_score
from .base import Reward

__all__ = [
    "CODES", "DTYPES", "Desk", "Refused", "Server", "TOKEN_ENV", "local", "main", "make_server", "pack",
    "pack_samples", "pack_score", "serve", "unpack", "unpack_samples", "unpack_score",
]

TOKEN_ENV = "VIDRL_TOKEN"
LEAST_TOKEN = 16  # characters
LARGEST = 1 << 30  # bytes of one request
DRAINED = 1 << 24  # bytes read of a refused request, so that its sender lives to read why


class Refused(Exception):
    """A request that is answered with an error: HTTP status and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    @property
    def body(self) -> bytes:
        """The error as JSON."""
        return json.dumps({"status": self.status, "error": str(self)}).encode()


# --- serving ---------------------------------------------------------------------------------------------------------


def serve(
    reward: Reward,
    host: str = "127.0.0.1",
    port: int = 0,
    token: str | None = None,
    expose: bool = False,
    largest: int = LARGEST,
    device: str = "cpu",
) -> None:
    """Serve a reward until interrupted, and say where; a generated token is printed once.

    The options are those of `make_server`.
    """
    with make_server(reward, host, port, token, expose, largest, device) as server:
        name = f"[{host}]" if ":" in host else host
        print(f"serving {type(reward).__name__} at http://{name}:{server.server_port}", file=sys.stderr, flush=True)
        if server.token not in (token, os.environ.get(TOKEN_ENV)):
            print(f"{TOKEN_ENV}={server.token}", flush=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()


def make_server(
    reward: Reward,
    host: str = "127.0.0.1",
    port: int = 0,
    token: str | None = None,
    expose: bool = False,
    largest: int = LARGEST,
    device: str = "cpu",
) -> Server:
    """A bound server: `serve_forever()`, `shutdown()`, `server_close()`; `port` 0 takes a free one.

    `token` is by default that of the environment variable VIDRL_TOKEN, or a new random one. Only addresses of this
    machine are allowed unless `expose`: the connection is not encrypted, so put a TLS proxy or an SSH tunnel in front
    of one that others reach. Raises ValueError for another host, or a token of fewer than 16 characters.
    """
    if not expose and not local(host):
        raise ValueError(
            f"expected a host of this machine such as 127.0.0.1, got {host!r}: others could reach it and nothing is "
            f"encrypted; reach it through an SSH tunnel, or say expose=True"
        )
    secret = token or os.environ.get(TOKEN_ENV) or secrets.token_urlsafe(32)
    if len(secret) < LEAST_TOKEN or not secret.isascii():
        raise ValueError(f"expected a token of at least {LEAST_TOKEN} ASCII characters, got one of {len(secret)}")
    try:
        return Server((host, port), Desk(reward, device), secret, largest)
    except (OSError, OverflowError) as error:
        raise ValueError(f"expected a free port, 1 to 65535, of {host}, or 0 for any, got {port}: {error}") from error


def local(host: str) -> bool:
    """Whether a host is this machine's own.

    >>> local("127.0.0.1"), local("::1"), local("localhost"), local("0.0.0.0"), local("example.org"), local("")
    (True, True, True, False, False, False)
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Desk:
    """A reward that answers the bytes of requests with those of answers, one at a time."""

    def __init__(self, reward: Reward, device: str = "cpu") -> None:
        self.reward, self.device = as_reward(reward).to(device), device
        self.turn = threading.Lock()  # a network on a GPU is not run twice at once

    def respond(self, body: bytes | bytearray) -> tuple[int, bytes]:
        """HTTP status and body of the answer."""
        try:
            return 200, self.answer(body)
        except Refused as error:
            return error.status, error.body

    def answer(self, body: bytes | bytearray) -> bytes:
        """The body of the answer; raises Refused."""
        try:
            samples = unpack_samples(body)
        except ValueError as error:
            raise Refused(400, str(error)) from None
        with self.turn, torch.no_grad():
            try:
                return pack_score(self.reward(samples.to(self.device)))
            except Exception as error:
                said = f"{type(self.reward).__name__}: {type(error).__name__}: {error}"
                raise Refused(500, said[:2000]) from error


class Server(ThreadingHTTPServer):
    """Answers each request in a thread of its own; its desk takes one at a time."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], desk: Desk, token: str, largest: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, _Handler)
        self.desk, self.token, self.largest = desk, token, largest


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "vidrl", ""
    timeout = 120.0  # seconds without a byte
    unread = 0  # bytes of the request

    def do_POST(self) -> None:
        try:
            self._admit("/score")
            self._say(200, "application/octet-stream", self.server.desk.answer(self._body()))
        except Refused as error:
            self._refuse(error)

    def do_GET(self) -> None:
        try:
            self._admit("/health")
            self._say(200, "application/json", json.dumps({"reward": type(self.server.desk.reward).__name__}).encode())
        except Refused as error:
            self._refuse(error)

    def _admit(self, path: str) -> None:
        self.unread = self._length()
        given = self.headers.get("Authorization", "").encode("latin-1", "replace")
        if not hmac.compare_digest(given, f"Bearer {self.server.token}".encode()):
            raise Refused(401, "expected the header 'Authorization: Bearer TOKEN' with the server's token")
        if self.path != path:
            raise Refused(404, "expected POST /score or GET /health")

    def _length(self) -> int:
        text = self.headers.get("Content-Length", "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else -1

    def _body(self) -> bytearray:
        length = self.unread
        if length < 0:
            raise Refused(411, "expected a Content-Length")
        if length > self.server.largest:
            raise Refused(413, f"expected at most {self.server.largest} bytes, got {length}: send fewer clips")
        self.unread, body = 0, bytearray(length)
        view, filled = memoryview(body), 0
        while filled < length:
            count = self.rfile.readinto(view[filled:])  # type: ignore[attr-defined]
            if not count:
                raise Refused(400, f"expected {length} bytes, got {filled}")
            filled += count
        return body

    def _refuse(self, error: Refused) -> None:
        self.close_connection = True
        left = min(self.unread, DRAINED)
        while left > 0 and (part := self.rfile.read(min(left, 1 << 16))):
            left -= len(part)
        self._say(error.status, "application/json", error.body)

    def _say(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        if status == 401:
            self.send_header("WWW-Authenticate", "Bearer")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a training run asks thousands of times."""


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m vidrl.rewards._serve flicker --port 8300`."""
    import argparse

    from ._named import load

    parser = argparse.ArgumentParser(description="Serve a reward over HTTP.")
    parser.add_argument("reward")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--expose", action="store_true", help="allow a host that other machines reach")
    given = parser.parse_args(arguments)
    reward = load(given.reward)
    serve(reward, given.host, given.port, expose=given.expose, device=given.device)


if __name__ == "__main__":
    main()
