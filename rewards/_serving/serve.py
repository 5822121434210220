"""Serve a reward over HTTP, so that a heavy reward can run on another machine.

`http_scorer` is the client. One request, POST /score, holds clips and is answered with
their scores. Both bodies are in the format of safetensors: eight bytes of length, a JSON
header, raw numbers; the format holds no code. Facts that are no tensors are JSON in the
header's `__metadata__` under "vidrl". Errors are JSON, {"status": 400, "error": "expected
..."}.

A request has the tensors `video` and, if there is one, `reference`, and the facts
{"prompts", "fps", "meta"}. An answer has the tensors `value`, `frames` and those of the
parts as `parts/NAME/value`, and the facts {"support", "why", "weights", "parts", "slopes",
"adds"}.

The resources that a client can take are limited. A connection has 10 s for its header of at
most 64 KiB, and must then send 64 KiB a second on average. At most 512 connections are
open, each in a thread. The requests in memory hold at most twice the bytes of the `largest`
request, whatever lengths they announce. One request at a time is unpacked and scored. The
server does not read a request that has to wait, so its sender waits. At most `queue` requests
wait. One request or one connection more is answered 503 with Retry-After, unless a
connection that has shown no token for a second can be evicted.

GET /health is answered with JSON: the reward, what its numbers depend on (`identity`), how
many requests wait and were scored, and the machine's load. Every answer has the digest of the
identity in the header Vidrl-Reward, so that a client notices another reward.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from http.server import ThreadingHTTPServer
from typing import Any

import torch

from .._scoring.plain import as_reward
from ..base import Reward
from .handler import ConnectionHandler, Refused, overload_answer
from .identity import digest, identity
from .limits import ByteBudget, ConnectionLimit, WaitingLine
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
CONNECTIONS = 512  # open at once; each has a thread
QUEUE = 256  # requests that wait or are scored


# --- serving


def serve(
    reward: Reward,
    host: str = "127.0.0.1",
    port: int = 0,
    token: str | None = None,
    expose: bool = False,
    largest: int = LARGEST,
    device: str = "cpu",
    queue: int = QUEUE,
) -> None:
    """Serve a reward until interrupted, and print its address; print a generated token once.

    The options are those of `make_server`.
    """
    with make_server(reward, host, port, token, expose, largest, device, queue) as server:
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
    queue: int = QUEUE,
) -> Server:
    """Return a bound server with `serve_forever()`, `shutdown()` and `server_close()`.

    `port` 0 takes a free port. `token` is by default the environment variable VIDRL_TOKEN,
    or a new random token. Only addresses of this machine are allowed unless `expose`: the
    connection is not encrypted, so a server that other machines reach needs a TLS proxy or
    an SSH tunnel in front of it. At most `queue` requests wait. Raises ValueError for another
    host, a token of fewer than 16 characters, or a queue without a place.
    """
    if queue < 1:
        raise ValueError(f"expected a queue of at least 1 request, got {queue}")
    if not expose and not is_local_host(host):
        raise ValueError(
            f"expected a host of this machine such as 127.0.0.1, got {host!r}: others could reach "
            f"it and nothing is encrypted; reach it through an SSH tunnel, or say expose=True"
        )
    secret = token or os.environ.get(TOKEN_ENV) or secrets.token_urlsafe(32)
    if len(secret) < LEAST_TOKEN or not secret.isascii():
        raise ValueError(
            f"expected a token of at least {LEAST_TOKEN} ASCII characters, got one of "
            f"{len(secret)}{'' if secret.isascii() else ', not all ASCII'}: export {TOKEN_ENV} "
            "with a random one, as `openssl rand -hex 16` prints, or leave it out for a new one"
        )
    try:
        return Server((host, port), RewardHandler(reward, device), secret, largest, queue)
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"expected a free port, 1 to 65535, of {host}, or 0 for any, got {port}: {error}"
        ) from error


class RewardHandler:
    """A reward that turns the bytes of a request into the bytes of an answer, one at a time."""

    def __init__(self, reward: Reward, device: str = "cpu") -> None:
        self.reward, self.device = as_reward(reward).to(device), device
        # before the first request, which may load weights
        self.facts = identity(self.reward, str(device))
        self.identity = digest(self.facts)
        # One request at a time: two would need the memory of the network and of an unpacked
        # request twice.
        self.turn = threading.Lock()
        # called with the seconds that each request took to be scored
        self.note: Callable[[float], None] = lambda seconds: None

    def respond(self, body: bytes | bytearray) -> tuple[int, bytes]:
        """Return the HTTP status and the body of the answer."""
        try:
            return 200, self.answer(body)
        except Refused as error:
            return error.status, error.body

    def answer(self, body: bytes | bytearray) -> bytes:
        """Return the body of the answer; raise Refused for a wrong request or a failed reward."""
        with self.turn, torch.no_grad():
            begun = time.monotonic()
            try:
                samples = unpack_samples(body)
            except ValueError as error:
                raise Refused(400, printable(str(error))) from None
            try:
                return pack_score(self.reward(samples.to(self.device)))
            except Exception as error:
                message = f"{type(self.reward).__name__}: {type(error).__name__}: {error}"
                raise Refused(500, message[:2000]) from error
            finally:
                self.note(time.monotonic() - begun)


class Server(ThreadingHTTPServer):
    """An HTTP server that has a thread for each connection and one reward for all.

    At most `queue` requests wait or are scored; one more is answered 503 with Retry-After.

    At most `CONNECTIONS` connections are open; one more is answered 503 with Retry-After.
    All requests that are read, or wait for the reward, hold at most 2 * `largest` bytes;
    the server does not read further requests until bytes are free.
    """

    daemon_threads = True

    def __init__(
        self,
        address: tuple[str, int],
        reward_handler: RewardHandler,
        token: str,
        largest: int,
        queue: int = QUEUE,
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.connections, self.budget = ConnectionLimit(CONNECTIONS), ByteBudget(2 * largest)
        self.reward_handler, self.line = reward_handler, WaitingLine(queue)
        self.token, self.largest = token, largest
        reward_handler.note = self.line.note
        super().__init__(address, ConnectionHandler)

    def server_activate(self) -> None:
        """Listen with a queue of `CONNECTIONS` waiting clients; Python's default is five."""
        self.socket.listen(CONNECTIONS)

    def health(self) -> dict[str, Any]:
        """Return the identity of the reward and the state of the server."""
        handler, line = self.reward_handler, self.line
        load = os.getloadavg()[0] / (os.cpu_count() or 1) if hasattr(os, "getloadavg") else None
        return {
            "reward": handler.facts["reward"],
            "identity": handler.facts,
            "digest": handler.identity,
            "requests": line.count,
            "queue": line.most,
            "scored": line.scored,
            "seconds": round(line.seconds, 3),
            "load": load if load is None else round(load, 2),
        }

    def mark_unauthenticated(self, sock: socket.socket) -> None:
        """Note that a connection has not yet shown the token with its next request."""
        self.connections.unauthenticated.setdefault(sock, time.monotonic())

    def mark_authenticated(self, sock: socket.socket) -> None:
        """Note that a connection has shown the token."""
        self.connections.unauthenticated.pop(sock, None)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a connection, or answer that all slots are taken."""
        if not self.connections.admit():
            self.connections.reject(request, overload_answer())
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self.connections.release(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Handle the requests of a connection and then release its slot."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.connections.release(request)

    def service_actions(self) -> None:
        """Close old rejected connections; `serve_forever` calls this between two connections."""
        self.connections.close_rejected()

    def server_close(self) -> None:
        """Close the server and all rejected connections."""
        super().server_close()
        self.connections.close_rejected(0)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `python -m vidrl.rewards._serving.serve flicker --port 8300`."""
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
