"""One question to an OpenAI-compatible chat endpoint: with time limits, a few tries, and no redirects."""

from __future__ import annotations

import http.client
import json
import os
import random
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

LARGEST = 1 << 20  # bytes of an answer
AGAIN = (408, 409, 425, 429, 500, 502, 503, 504)  # the server may do better in a moment


class NoAnswer(RuntimeError):
    """No answer that can be used; the message says why, without the key and without what the server wrote."""


@dataclass
class Endpoint:
    """Where to ask, and how patiently: `timeout` seconds a try, `retries` more tries, `longest` seconds between two."""

    base_url: str
    key_from: str = "OPENAI_API_KEY"
    timeout: float = 60.0
    retries: int = 3
    wait: float = 1.0
    longest: float = 30.0
    pause: Callable[[float], None] = field(default=time.sleep, repr=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"expected base_url to be an http:// or https:// address, got {self.base_url!r}")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("expected base_url without user, password, query or fragment: name the key by key_from")
        if not (self.timeout > 0 and self.retries >= 0 and self.wait >= 0):
            got = f"timeout={self.timeout}, retries={self.retries}, wait={self.wait}"
            raise ValueError(f"expected timeout above 0, retries and wait of 0 or more, got {got}")

    def __call__(self, payload: dict[str, Any]) -> str:
        """The text of the first choice. Raises NoAnswer."""
        body = json.dumps(payload).encode()
        for trial in range(self.retries + 1):
            try:
                return text(self._once(body))
            except _Again as error:
                if trial == self.retries:
                    raise NoAnswer(f"{error} ({trial + 1} tries)") from None
                self.pause(self._delay(trial, error.after))
        raise AssertionError("unreachable")

    def _delay(self, trial: int, after: float | None) -> float:
        """Doubling, with up to a quarter more by chance so that many askers do not come back at once."""
        backoff = self.wait * 2**trial * (1 + random.random() / 4)
        return min(max(backoff, after or 0.0), self.longest)

    def _once(self, body: bytes) -> bytes:
        request = urllib.request.Request(f"{self.base_url.rstrip('/')}/chat/completions", body, self._headers())
        opener = urllib.request.build_opener(_NoRedirect)
        deadline = time.monotonic() + self.timeout
        try:
            with opener.open(request, timeout=self.timeout) as reply:
                return _read(reply, deadline)
        except urllib.error.HTTPError as error:
            with error:
                raise _failure(error) from None
        except TimeoutError:
            raise _Again(f"no answer within {self.timeout:g} s") from None
        except (OSError, http.client.HTTPException) as error:  # refused, no such host, broken off, not HTTP
            slow = isinstance(getattr(error, "reason", None), TimeoutError)
            said = f"no answer within {self.timeout:g} s" if slow else f"no connection: {type(error).__name__}"
            raise _Again(said) from None

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        key = os.environ.get(self.key_from, "").strip() if self.key_from else ""
        if not (key.isascii() and key.isprintable()):  # http.client would show it in its error
            raise NoAnswer(f"the key in {self.key_from} holds characters that no header can")
        return {**headers, "Authorization": f"Bearer {key}"} if key else headers


def text(reply: bytes) -> str:
    """choices[0].message.content of a reply. Raises NoAnswer where there is none."""
    try:
        content = json.loads(reply)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise NoAnswer("the reply is not that of a chat completion") from None
    if not isinstance(content, str):
        raise NoAnswer("the reply holds no text")
    return content


class _Again(Exception):
    """A failure that another try may mend, after so many seconds."""

    def __init__(self, why: str, after: float | None = None) -> None:
        super().__init__(why)
        self.after = after


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _failure(error: urllib.error.HTTPError) -> Exception:
    if error.code not in AGAIN:
        return NoAnswer(f"the server answered {error.code}")
    after = error.headers.get("Retry-After", "")
    return _Again(f"the server answered {error.code}", float(after) if after.isdigit() else None)


def _read(reply: Any, deadline: float) -> bytes:
    """The body in pieces: neither endless nor dripping past the deadline."""
    pieces, size = [], 0
    while piece := reply.read1(1 << 16):
        size += len(piece)
        pieces.append(piece)
        if size > LARGEST:
            raise NoAnswer(f"the reply is longer than {LARGEST} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError
    return b"".join(pieces)
