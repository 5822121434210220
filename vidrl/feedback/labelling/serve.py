"""Run the server of the page: the address, the link with its token, and what --public means."""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from vidrl.feedback.labelling.guard import App

if TYPE_CHECKING:
    import uvicorn

TOKEN_ENV = "VIDRL_TOKEN"
LEAST_TOKEN = 16  # characters
MOST_CONNECTIONS = 512
LAST_LOOK = 5.0  # seconds between the last answer and the end of the server
PUBLIC = """\
--public: other machines can reach this page. Nothing is encrypted, so anybody on the way can read
the link and the answers. Whoever has the link can answer, under any free name. Use it in a network
that you trust, or behind a proxy with TLS, whose name --allow-host lets in."""


def chosen_token() -> str:
    """Return the token of the environment variable VIDRL_TOKEN, or a new random one.

    Raises ValueError for a token that is short or not made of letters, digits, - and _.
    """
    given = os.environ.get(TOKEN_ENV, "")
    plain = given.isascii() and given.replace("-", "").replace("_", "").isalnum()
    if given and (len(given) < LEAST_TOKEN or not plain):
        raise ValueError(
            f"expected {TOKEN_ENV} to have at least {LEAST_TOKEN} letters, digits, - or _: use one "
            "that `openssl rand -hex 16` prints, or leave it out for a new one"
        )
    return given or secrets.token_urlsafe(24)


def bind(port: int, public: bool = False) -> socket.socket:
    """Return a socket that listens on a port of this machine; 0 takes a free port.

    Only this machine can reach the socket unless `public`. Raises ValueError for a port in use.
    """
    host = "0.0.0.0" if public else "127.0.0.1"
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if os.name == "posix":  # a port of a server that has just ended is free again
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(MOST_CONNECTIONS)
    except OSError as error:
        listener.close()
        raise ValueError(
            f"expected a free port of {host}, got {port}: {error.strerror}; "
            "name another one with --port, or 0 for any free port"
        ) from error
    return listener


def names(public: bool = False) -> list[str]:
    """Return the names under which browsers may reach this machine, the best one first.

    >>> names()
    ['127.0.0.1', 'localhost']
    """
    local = ["127.0.0.1", "localhost"]
    if not public:
        return local
    own = socket.gethostname()
    return list(dict.fromkeys([*_addresses(), own, own.partition(".")[0], *local]))


def _addresses() -> list[str]:
    """Return the addresses of this machine, that of the way to other networks first."""
    found = []
    probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with probe, suppress(OSError):  # a machine without a network
        probe.connect(("192.0.2.1", 9))  # sends nothing; the system chooses an own address
        found.append(probe.getsockname()[0])
    with suppress(OSError):  # a machine whose name has no address
        found += socket.gethostbyname_ex(socket.gethostname())[2]
    return found


def hosts(port: int, public: bool, allowed: Sequence[str] = ()) -> list[str]:
    """Return the Host headers that are let in: names with the port, and what a proxy sends.

    Browsers leave port 80 out.

    >>> hosts(8321, False, ["rate.example.org"])
    ['127.0.0.1:8321', 'localhost:8321', 'rate.example.org', 'rate.example.org:8321']
    """
    local = [f"{name}:{port}" for name in names(public)]
    local += names(public) if port == 80 else []
    return local + [host for name in allowed for host in (name, f"{name}:{port}")]


def run(app: App, listener: socket.socket, enough: Callable[[], bool] | None = None) -> None:
    """Serve an application until it is interrupted, or until shortly after `enough` is true."""
    import uvicorn

    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        log_level="warning",
        access_log=False,  # an access log would show the token of the link
        server_header=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=3,
        limit_concurrency=MOST_CONNECTIONS,
        proxy_headers=False,
    )
    server = uvicorn.Server(config)
    if enough is not None:
        threading.Thread(target=_end, args=(server, enough), daemon=True).start()
    with suppress(KeyboardInterrupt):  # ctrl-C ends the server, which uvicorn reports by this
        server.run(sockets=[listener])


def _end(server: uvicorn.Server, enough: Callable[[], bool]) -> None:
    """End a server when there is enough, after a moment in which the page says so."""
    while not server.should_exit:
        time.sleep(0.5)
        if enough():
            time.sleep(LAST_LOOK)
            server.should_exit = server.should_exit or enough()  # an undo takes answers back
