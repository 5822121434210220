"""One question to an OpenAI-compatible chat endpoint: by a deadline, without redirects, no
key in clear text."""

from __future__ import annotations

import http.client
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .._serving.post import (
    Answer,
    Retryable,
    RetryPolicy,
    UnreadableAnswer,
    is_private,
    parse_address,
    post,
)

LARGEST = 1 << 20  # bytes of an answer
AGAIN = (408, 409, 425, 429, 500, 502, 503, 504)  # the server may do better in a moment
SPREAD = 0.25  # the share of a wait that chance may add


class NoAnswer(RuntimeError):
    """No answer that can be used; the message says why, without the key and without what
    the server wrote."""


@dataclass
class Endpoint:
    """Where to ask, and how patiently: `timeout` seconds a try, `retries` more tries,
    `longest` seconds between two.

    Plain http shows a key to the network between, so a key is sent by https, to this
    machine, or where `insecure` is true. An https request goes through the tunnel of the
    proxy that HTTPS_PROXY names, which does not see the key; a request of plain http goes
    through no proxy. Redirects are not followed. Raises ValueError for an address that is
    no web server's, and for a key that would be shown.
    """

    base_url: str
    key_from: str = "OPENAI_API_KEY"
    timeout: float = 60.0
    retries: int = 3
    wait: float = 1.0
    longest: float = 30.0
    pause: Callable[[float], None] = field(default=time.sleep, repr=False)
    insecure: bool = False

    def __post_init__(self) -> None:
        self.place = parse_address(self.base_url, "base_url")
        if not (self.timeout > 0 and self.retries >= 0 and self.wait >= 0):
            got = f"timeout={self.timeout}, retries={self.retries}, wait={self.wait}"
            raise ValueError(f"expected timeout above 0, retries and wait of 0 or more, got {got}")
        if self._key() and self._shown():
            raise ValueError(
                f"expected base_url to be https, or a server on this machine, got {self.base_url}: "
                f"{self._shown()}"
            )

    def __call__(self, payload: dict[str, Any]) -> str:
        """The text of the first choice. Raises NoAnswer."""
        body = json.dumps(payload).encode()
        policy = RetryPolicy(self.timeout, self.retries, self.wait, self.longest, SPREAD)
        try:
            return reply_text(
                policy.call(lambda deadline: self._once(body, deadline), self.pause).body
            )
        except Retryable as error:
            raise NoAnswer(str(error)) from None

    def _once(self, body: bytes, deadline: float) -> Answer:
        """The answer to one try. Raises Again where another may do better, NoAnswer where
        none will."""
        try:
            said = post(
                self.place,
                "/chat/completions",
                body,
                self._headers(),
                deadline,
                LARGEST,
                proxies=True,
            )
        except TimeoutError:
            raise Retryable(f"no answer within {self.timeout:g} s") from None
        except UnreadableAnswer as error:
            raise NoAnswer(str(error)) from None
        # refused, no such host, broken off, not HTTP
        except (OSError, http.client.HTTPException) as error:
            raise Retryable(f"no connection: {type(error).__name__}") from None
        if said.status in AGAIN:
            raise Retryable(f"the server answered {said.status}", said.after)
        if said.status != http.client.OK:
            raise NoAnswer(f"the server answered {said.status}")
        return said

    def _headers(self) -> dict[str, str]:
        headers, key = (
            {"Content-Type": "application/json", "Accept": "application/json"},
            self._key(),
        )
        if not (key.isascii() and key.isprintable()):  # http.client would show it in its error
            raise NoAnswer(f"the key in {self.key_from} holds characters that no header can")
        if key and self._shown():
            raise NoAnswer(self._shown())
        return {**headers, "Authorization": f"Bearer {key}"} if key else headers

    def _key(self) -> str:
        return os.environ.get(self.key_from, "").strip() if self.key_from else ""

    def _shown(self) -> str:
        """Why a key is not sent; empty where it may be."""
        if self.insecure or is_private(self.place):
            return ""
        return (
            f'plain http would show the key in {self.key_from} to the network; say key_from="" to send none, '
            "or insecure=True to send it so"
        )


def reply_text(reply: bytes) -> str:
    """choices[0].message.content of a reply. Raises NoAnswer where there is none."""
    try:
        content = json.loads(reply)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise NoAnswer("the reply is not that of a chat completion") from None
    if not isinstance(content, str):
        raise NoAnswer("the reply holds no text")
    return content
