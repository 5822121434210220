"""A reward whose scores are computed by a server."""

from __future__ import annotations

import http.client
import os
import time
from collections.abc import Callable

import torch
from torch import Tensor

from ._serving.answers import describe_refusal, join_scores, read_answer, to_device
from ._serving.post import (
    Answer,
    Retryable,
    RetryPolicy,
    UnreadableAnswer,
    describe_failure,
    is_private,
    parse_address,
    post,
)
from ._serving.serve import TOKEN_ENV, RewardHandler, pack_samples
from .base import Card, Reward, Samples, Score

LARGEST_ANSWER = 1 << 28  # bytes
# HTTP statuses after which the same request may succeed a little later: time-out, too many
# requests, and the errors of a busy or restarting server
RETRYABLE_STATUSES = (408, 429, 502, 503, 504)
# sends the bytes of a request; returns the HTTP status and the bytes of the answer
Transport = Callable[[bytes], tuple[int, bytes]]


class HttpScorer(Reward):
    """The score that the server at `url` gives; `vidrl serve REWARD` starts such a server.

    Clips are sent `chunk` at a time, as uint8 or float as they are, by POST to `url`/score
    with the token of the environment variable `token_env`.

    A request is sent again, up to `retries` times, if it fails for a passing reason: no
    connection, no complete answer within `timeout` seconds, or a busy server. The waits are
    0.5, 1, 2 ... seconds, or what the server's header Retry-After says. All tries together
    end within (retries + 1) * timeout seconds plus the waits, however slowly the server
    answers. A clip without an answer is NaN with the reason "unscored: ...", and so is a
    clip whose answer has the wrong shape or a number that is not finite.

    Redirects are never followed and proxies never used, so that the token goes to no other
    host. Plain http would show the clips and the token to the network. It is refused unless
    the server is on this machine or `insecure` is true; use https or an SSH tunnel.

    `transport` replaces the connection: it is a function from the bytes of a request to the
    HTTP status and the bytes of the answer. The curve has the support of the server's
    reward.

    Raises ValueError for an address that is not http or https, or that is plain http to
    another machine; RuntimeError if no token is set.

    >>> HttpScorer.tiny()(Samples(torch.full((1, 3, 3, 16, 16), 0.25), [""], 8.0)).value
    tensor([0.2500])
    """

    learned = True
    remote = True
    time_support = "clip"
    least_side = 1
    card = Card(
        sees="What the server's reward sees.",
        blind_to="What the server's reward is blind to.",
        hacks="Whatever raises the score of the server's reward.",
        input="Whatever the server's reward needs. Clips are sent whole, not in pieces.",
        cost="Sending the clips: 66 MB for 25 frames of 720 x 1280 in uint8, four times as "
        "much in float.",
    )

    def __init__(
        self,
        url: str = "",
        token_env: str = TOKEN_ENV,
        timeout: float = 600.0,
        retries: int = 2,
        chunk: int = 4,
        transport: Transport | None = None,
        insecure: bool = False,
    ) -> None:
        super().__init__()
        if chunk < 1 or retries < 0 or not timeout > 0:
            raise ValueError(
                f"expected chunk >= 1, retries >= 0, timeout > 0, got {chunk}, {retries}, {timeout}"
            )
        self.url, self.token_env = url, token_env
        self.chunk, self.transport = chunk, transport
        self.retry_policy = RetryPolicy(timeout, retries, wait=0.5)
        self.address = None if transport else parse_address(url, "url")
        if self.address and not is_private(self.address) and not insecure:
            raise ValueError(
                f"expected url to be https, or a server on this machine, got {url}: plain http "
                "would show the token and the clips to the network; "
                "use an SSH tunnel, or say insecure=True"
            )

    @classmethod
    def tiny(cls) -> HttpScorer:
        """Return the reward with a stand-in server in this process: the mean light."""
        return cls(transport=RewardHandler(_Light()).respond, chunk=2)

    @torch.no_grad()
    def forward(self, samples: Samples) -> Score:
        """Return the score of whole clips."""
        size, frames = len(samples), samples.video.shape[1]
        rows = [
            list(range(size))[start : start + self.chunk] for start in range(0, size, self.chunk)
        ]
        found = [self._ask(samples.pick(part)) for part in rows]
        score = join_scores(found, [(len(part), frames) for part in rows])
        if any(isinstance(part, Score) for part in found):
            # known only from an answer: the server's reward decides
            self.time_support = score.support  # type: ignore[misc]
        return to_device(score, samples.video.device)

    def _ask(self, samples: Samples) -> Score | str:
        """Return the score of some clips, or the reason why there is none."""
        body = pack_samples(samples)
        try:
            answer = self.retry_policy.call(lambda deadline: self._once(body, deadline), time.sleep)
        except (Retryable, UnreadableAnswer) as error:
            return f"unscored: {error}"
        if answer.status != 200:
            return f"unscored: {describe_refusal(answer.status, answer.body, self.url)}"
        return read_answer(answer.body, *samples.video.shape[:2])

    def _once(self, body: bytes, deadline: float) -> Answer:
        """Return the answer to one try; raise Retryable if another try may succeed."""
        try:
            answer = self._send(body, deadline)
        except TimeoutError:
            raise Retryable(
                f"no answer from {self.url} within {self.retry_policy.timeout:g} s"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise Retryable(f"no answer from {self.url}: {describe_failure(error)}") from None
        if answer.status in RETRYABLE_STATUSES:
            raise Retryable(describe_refusal(answer.status, answer.body, self.url), answer.after)
        return answer

    def _send(self, body: bytes, deadline: float) -> Answer:
        """Send the request and wait for the answer, at most until `deadline`."""
        if self.transport:
            return Answer(*self.transport(body))
        assert self.address is not None  # the constructor sets it if there is no transport
        headers = {
            "Authorization": f"Bearer {token(self.token_env)}",
            "Content-Type": "application/octet-stream",
        }
        return post(self.address, "/score", body, headers, deadline, LARGEST_ANSWER)


def token(name: str) -> str:
    """Return the token in an environment variable.

    Raises RuntimeError if the variable is empty or its text cannot be sent in a header.
    """
    found = os.environ.get(name, "")
    if not found:
        raise RuntimeError(
            f"expected the server's token in the environment variable {name}, found none"
        )
    # checked here, because http.client would print the token in its own error
    if not (found.isascii() and found.isprintable()):
        raise RuntimeError(
            f"expected the token in {name} to be of printable ASCII characters, got others"
        )
    return found


class _Light(Reward):
    """A reward that measures the mean light of each frame."""

    def terms(self, samples: Samples) -> Tensor:
        """Return the mean light of each frame, (B, F)."""
        return samples.frames.mean((2, 3, 4))
