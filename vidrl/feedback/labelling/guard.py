"""Let requests through that have the token and come from the page itself, and no others.

The checks are an ASGI application around the page's own, so that no route can forget them:
the Host header (against pages of other sites whose name points here), the method, the Origin
of what changes something, the size of bodies, and the token. Answers get headers by which a
browser loads nothing from elsewhere and runs no script but the page's own.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any
from urllib.parse import parse_qs

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MOST_BYTES = 1 << 16  # of a request's body
PATIENCE = 20.0  # seconds for a request's body
FREE = ("/static/label.css", "/favicon.ico")  # paths that need no token
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    # no-referrer would make browsers send "Origin: null" with the form of the name
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
WORDS = {
    403: "This page needs the link that `vidrl label` printed. Open that link, with its token, in "
    "this browser. After a restart of the server, its newest link is the right one.",
    405: "This server takes GET, and POST from its own page. It takes no uploads.",
    408: "This answer came too slowly.",
    413: f"This server takes answers of at most {MOST_BYTES} bytes. It takes no uploads.",
    421: "This server is not known under this name. Open the link that `vidrl label` printed, or "
    "name the host with --allow-host.",
}
FOREIGN = "This request comes from another site. Answers come from the page itself only."


class Refusal(Exception):
    """A request that is not let through, with its status and the words of the answer."""

    def __init__(self, status: int, words: str = "") -> None:
        super().__init__(words or WORDS[status])
        self.status = status


class Guard:
    """An ASGI application that checks each request before the application inside gets it.

    `hosts` are the names, with ports, under which the server is known; `cookie` is the name of
    the cookie that holds the token; `refuse` builds the answer to a refused request.
    """

    def __init__(
        self,
        inside: App,
        token: str,
        hosts: Collection[str],
        cookie: str,
        refuse: Callable[[Scope, int, str], App],
    ) -> None:
        self.inside, self.token = inside, token
        self.cookie = cookie
        self.hosts = {host.lower() for host in hosts}
        self.refuse = refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request and pass it on, or refuse it."""
        if scope["type"] == "lifespan":
            return await self.inside(scope, receive, send)
        if scope["type"] != "http":
            return None  # no WebSocket; the server closes the connection
        try:
            self._check(scope)
            async with asyncio.timeout(PATIENCE):
                body = await _body(scope, receive)
        except (Refusal, TimeoutError) as error:
            status = error.status if isinstance(error, Refusal) else 408
            answer = self.refuse(scope, status, str(error) or WORDS[408])
            return await answer(scope, receive, _with_headers(send, close=True))
        return await self.inside(scope, _again(body, receive), _with_headers(send))

    def _check(self, scope: Scope) -> None:
        """Raise Refusal for a request of another host, method or site, or without the token."""
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        host = headers.get("host", "").lower()
        if host not in self.hosts:
            raise Refusal(421)
        if scope["method"] not in ("GET", "HEAD", "POST"):
            raise Refusal(405)
        if scope["method"] == "POST":
            _check_same_origin(headers, host)
            if "multipart" in headers.get("content-type", ""):
                raise Refusal(413)
        if scope["path"] not in FREE and not self._has_token(scope, headers.get("cookie", "")):
            raise Refusal(403)

    def _has_token(self, scope: Scope, cookie: str) -> bool:
        """Return whether the link or the cookie of a request has the token."""
        from starlette.requests import cookie_parser  # one odd cookie does not hide the others

        query = parse_qs(scope["query_string"].decode("latin-1"))
        shown = [*query.get("token", []), cookie_parser(cookie).get(self.cookie, "")]
        return any(hmac.compare_digest(one.encode(), self.token.encode()) for one in shown)


def _check_same_origin(headers: MutableMapping[str, str], host: str) -> None:
    """Raise Refusal unless a request that changes something comes from this server's page."""
    if headers.get("origin", "").lower() not in (f"http://{host}", f"https://{host}"):
        raise Refusal(403, FOREIGN)
    if headers.get("sec-fetch-site", "same-origin") != "same-origin":
        raise Refusal(403, FOREIGN)


async def _body(scope: Scope, receive: Receive) -> bytes:
    """Return the body of a request; raise Refusal as soon as the body is too long."""
    stated = dict(scope["headers"]).get(b"content-length", b"0")
    if not stated.isdigit() or len(stated) > 18 or int(stated) > MOST_BYTES:
        raise Refusal(413)
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), bool(message.get("more_body"))
        if len(body) > MOST_BYTES:
            raise Refusal(413)
    return body


def _again(body: bytes, receive: Receive) -> Receive:
    """Return a receiver that gives the body that was read, and then what follows."""
    unread = [{"type": "http.request", "body": body, "more_body": False}]

    async def give() -> Message:
        return unread.pop() if unread else await receive()

    return give


def _with_headers(send: Send, close: bool = False) -> Send:
    """Return a sender that adds the headers of safety to each answer."""

    async def add(message: Message) -> None:
        if message["type"] == "http.response.start":
            added = HEADERS | ({"connection": "close"} if close else {})
            lines = [(name.encode(), value.encode()) for name, value in added.items()]
            known = {name for name, _ in message["headers"]}
            if b"cache-control" not in known:
                lines.append((b"cache-control", b"no-store"))
            message["headers"] = [*message["headers"], *lines]
        await send(message)

    return add
