"""Ask an OpenAI-compatible chat endpoint one question, with a deadline and without redirects.

A key is never sent in clear text over the network.
"""

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
AGAIN = (408, 409, 425, 429, 500, 502, 503, 504)  # statuses after which a later try may succeed
SPREAD = 0.25  # largest fraction of a wait that is added at random


class NoAnswer(RuntimeError):
    """A failure to get a usable answer; the message names neither the key nor the server's text."""


@dataclass
class Endpoint:
    """An endpoint that is asked with `timeout` seconds a try and `retries` more tries.

    `longest` bounds the seconds between two tries. Plain http shows a key to the network,
    so a key is sent by https, to this machine, or if `insecure` is true. An https request
    goes through the tunnel of the proxy that HTTPS_PROXY names, which does not see the key;
    a request of plain http goes through no proxy. Redirects are not followed. Raises
    ValueError for an address that is no web server's, and for a key that would be shown.
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
        """Return the text of the first choice; raise NoAnswer."""
        body = json.dumps(payload).encode()
        policy = RetryPolicy(self.timeout, self.retries, self.wait, self.longest, SPREAD)
        try:
            return reply_text(
                policy.call(lambda deadline: self._once(body, deadline), self.pause).body
            )
        except Retryable as error:
            raise NoAnswer(str(error)) from None

    def _once(self, body: bytes, deadline: float) -> Answer:
        """Return the answer to one try.

        Raises Retryable if another try may succeed, NoAnswer if none will.
        """
        try:
            answer = post(
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
        # The connection was refused or broken, the host does not exist, or the answer is no HTTP.
        except (OSError, http.client.HTTPException) as error:
            raise Retryable(f"no connection: {type(error).__name__}") from None
        if answer.status in AGAIN:
            raise Retryable(f"the server answered {answer.status}", answer.after)
        if answer.status != http.client.OK:
            raise NoAnswer(f"the server answered {answer.status}")
        return answer

    def _headers(self) -> dict[str, str]:
        """Return the headers of a request, with the key if there is one."""
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
        """Return the key from its environment variable, "" without one."""
        return os.environ.get(self.key_from, "").strip() if self.key_from else ""

    def _shown(self) -> str:
        """Return why a key is not sent; empty if it may be sent."""
        if self.insecure or is_private(self.place):
            return ""
        return (
            f'plain http would show the key in {self.key_from} to the network; say key_from="" to '
            "send none, "
            "or insecure=True to send it so"
        )


def reply_text(reply: bytes) -> str:
    """Return choices[0].message.content of a reply; raise NoAnswer if there is none."""
    try:
        content = json.loads(reply)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise NoAnswer("the reply is not that of a chat completion") from None
    if not isinstance(content, str):
        raise NoAnswer("the reply holds no text")
    return content
