"""A reward behind HTTP, so that a heavy one lives on a machine of its own; `http_scorer` is
its client.

One request, POST /score, holds clips and is answered with their scores. Both bodies are in
the format of safetensors: eight bytes of length, a JSON header, raw numbers; nothing in it
can run. What is not a tensor travels as JSON in the header's `__metadata__` under "vidrl".
Errors are JSON, {"status": 400, "error": "what was expected"}.

A request has the tensors `video` and, if there is one, `reference`, and {"prompts", "fps",
"meta"}; an answer `value`, `frames`, those of the parts as `parts/NAME/value`, and
{"support", "why", "weights", "parts", "slopes", "adds"}.

What a client can take of the server is bounded. A connection has 10 s for its header of at
most 64 KiB, and must then send 64 KiB a second on average; 512 connections are open at
once, each in a thread; their requests hold at most twice the `largest` request in memory,
however much they announce; one request at a time is unpacked and scored. A request that has
to wait is not read, so that its sender waits. One connection more is answered 503 with
Retry-After, unless one that has shown no token for a second gives way.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from http.server import ThreadingHTTPServer
from typing import Any

import torch

from .._scoring.plain import as_reward
from ..base import Reward
from .handler import ConnectionHandler, Refused, overload_answer
from .limits import ByteBudget, ConnectionLimit
from .post import is_local_host
from .printable import printable
from .wire import (
    CODES,
    DTYPES,
    pack,
    pack_samples,
    pack_score,
    unpack,
    unpack_samples,
    unpack_score,
)

__all__ = [
    "CODES",
    "DTYPES",
    "RewardHandler",
    "Refused",
    "Server",
    "TOKEN_ENV",
    "is_local_host",
    "main",
    "make_server",
    "pack",
    "pack_samples",
    "pack_score",
    "serve",
    "unpack",
    "unpack_samples",
    "unpack_score",
]

TOKEN_ENV = "VIDRL_TOKEN"
LEAST_TOKEN = 16  # characters
LARGEST = 1 << 30  # bytes of one request
CONNECTIONS = 512  # at once: each is a thread


# --- serving
# ---------------------------------------------------------------------------------------------------------


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
        print(
            f"serving {type(reward).__name__} at http://{name}:{server.server_port}",
            file=sys.stderr,
            flush=True,
        )
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
    """A bound server: `serve_forever()`, `shutdown()`, `server_close()`; `port` 0 takes a
    free one.

    `token` is by default that of the environment variable VIDRL_TOKEN, or a new random one.
    Only addresses of this machine are allowed unless `expose`: the connection is not
    encrypted, so put a TLS proxy or an SSH tunnel in front of one that others reach. Raises
    ValueError for another host, or a token of fewer than 16 characters.
    """
    if not expose and not is_local_host(host):
        raise ValueError(
            f"expected a host of this machine such as 127.0.0.1, got {host!r}: others could reach it and nothing is "
            f"encrypted; reach it through an SSH tunnel, or say expose=True"
        )
    secret = token or os.environ.get(TOKEN_ENV) or secrets.token_urlsafe(32)
    if len(secret) < LEAST_TOKEN or not secret.isascii():
        raise ValueError(
            f"expected a token of at least {LEAST_TOKEN} ASCII characters, got one of {len(secret)}"
        )
    try:
        return Server((host, port), RewardHandler(reward, device), secret, largest)
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"expected a free port, 1 to 65535, of {host}, or 0 for any, got {port}: {error}"
        ) from error


class RewardHandler:
    """A reward that answers the bytes of requests with those of answers, one at a time."""

    def __init__(self, reward: Reward, device: str = "cpu") -> None:
        self.reward, self.device = as_reward(reward).to(device), device
        # a network on a GPU is not run twice at once, nor is a large request unpacked
        self.turn = threading.Lock()

    def respond(self, body: bytes | bytearray) -> tuple[int, bytes]:
        """HTTP status and body of the answer."""
        try:
            return 200, self.answer(body)
        except Refused as error:
            return error.status, error.body

    def answer(self, body: bytes | bytearray) -> bytes:
        """The body of the answer; raises Refused."""
        with self.turn, torch.no_grad():
            try:
                samples = unpack_samples(body)
            except ValueError as error:
                raise Refused(400, printable(str(error))) from None
            try:
                return pack_score(self.reward(samples.to(self.device)))
            except Exception as error:
                said = f"{type(self.reward).__name__}: {type(error).__name__}: {error}"
                raise Refused(500, said[:2000]) from error


class Server(ThreadingHTTPServer):
    """Answers each connection in a thread of its own; its desk takes one request at a time,
    the others wait in line.

    There are `CONNECTIONS` places for connections; one more is answered 503 with
    Retry-After. All requests that are read, or wait for their turn, hold at most 2 *
    `largest` bytes; what does not fit yet is not read from its sender.
    """

    daemon_threads = True

    def __init__(
        self, address: tuple[str, int], reward_handler: RewardHandler, token: str, largest: int
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.connections, self.budget = ConnectionLimit(CONNECTIONS), ByteBudget(2 * largest)
        self.reward_handler, self.token, self.largest = reward_handler, token, largest
        super().__init__(address, ConnectionHandler)

    def server_activate(self) -> None:
        """The operating system keeps as many clients waiting as there are places; Python
        asks for five."""
        self.socket.listen(CONNECTIONS)

    def mark_unauthenticated(self, sock: socket.socket) -> None:
        """A connection that has not shown the token with its next request yet."""
        self.connections.unauthenticated.setdefault(sock, time.monotonic())

    def mark_authenticated(self, sock: socket.socket) -> None:
        """A connection that has shown the token."""
        self.connections.unauthenticated.pop(sock, None)

    def process_request(self, request: Any, client_address: Any) -> None:
        """A thread for a connection, or the answer that all places are taken."""
        if not self.connections.admit():
            self.connections.reject(request, overload_answer())
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self.connections.release(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """The requests of a connection, after which its place is free again."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.connections.release(request)

    def service_actions(self) -> None:
        """What `serve_forever` calls between two connections."""
        self.connections.close_rejected()

    def server_close(self) -> None:
        """No more connections."""
        super().server_close()
        self.connections.close_rejected(0)


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m vidrl.rewards._serving.serve flicker --port 8300`."""
    import argparse

    from .._scoring.by_name import load

    parser = argparse.ArgumentParser(description="Serve a reward over HTTP.")
    parser.add_argument("reward")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--expose", action="store_true", help="allow a host that other machines reach"
    )
    given = parser.parse_args(arguments)
    reward = load(given.reward)
    serve(reward, given.host, given.port, expose=given.expose, device=given.device)


if __name__ == "__main__":
    main()
