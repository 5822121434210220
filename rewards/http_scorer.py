"""A reward that another machine computes."""

from __future__ import annotations

import http.client
import os
import time
from collections.abc import Callable

import torch
from torch import Tensor

from ._serving.answers import complaint, joined, read, to_device
from ._serving.post import Again, Answer, Patience, Unreadable, address, failure, post, private
from ._serving.serve import TOKEN_ENV, Desk, pack_samples
from .base import Card, Reward, Samples, Score

LARGEST_ANSWER = 1 << 28  # bytes
AGAIN = (408, 429, 502, 503, 504)  # what a moment may cure
Transport = Callable[[bytes], tuple[int, bytes]]


class HttpScorer(Reward):
    """The score that the server at `url` gives, number for number; `vidrl serve REWARD` is
    such a server.

    Clips are sent `chunk` at a time, uint8 or float as they are, to POST `url`/score with
    the token of the environment variable `token_env`. A request that fails for a passing
    reason (no connection, no whole answer within `timeout` seconds, a busy server) is sent
    again `retries` times, after 0.5, 1, 2 ... seconds, or when the server's header
    Retry-After says. All tries together end within (retries + 1) * timeout seconds and
    these waits, however slowly the server answers. Clips for which no answer comes are NaN
    with the reason, "unscored: ...". So are clips whose answer has the wrong shape, and
    numbers that are not finite.

    Redirects are never followed and proxies never used, so that the token goes to no other
    host. Plain http shows clips and token to the network between; it is refused but for
    this machine, unless `insecure` is true. Use an SSH tunnel, or https.

    `transport`, from the bytes of a request to HTTP status and bytes of the answer, stands
    in for the connection. The curve's support is the far reward's. Raises ValueError for an
    address that is not http or https, or of plain http to another machine; RuntimeError
    where no token is set.

    >>> HttpScorer.tiny()(Samples(torch.full((1, 3, 3, 16, 16), 0.25), [""], 8.0)).value
    tensor([0.2500])
    """

    learned = True
    support = "clip"
    least_side = 1
    card = Card(
        sees="What the reward at the other end sees.",
        blind_to="What the reward at the other end is blind to.",
        hacks="Those of the reward at the other end.",
        input="That of the reward at the other end; whole clips, not pieces.",
        cost="Sending the clips: 66 MB for 25 frames of 720 x 1280 in uint8, four times that in float.",
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
        self.patience = Patience(timeout, retries, wait=0.5)
        self.address = None if transport else address(url, "url")
        if self.address and not private(self.address) and not insecure:
            raise ValueError(
                f"expected url to be https, or a server on this machine, got {url}: plain http would show "
                "the token and the clips to the network; use an SSH tunnel, or say insecure=True"
            )

    @classmethod
    def tiny(cls) -> HttpScorer:
        """Asks a light meter in this process."""
        return cls(transport=Desk(_Light()).respond, chunk=2)

    @torch.no_grad()
    def forward(self, samples: Samples) -> Score:
        """The score of whole clips."""
        size, frames = len(samples), samples.video.shape[1]
        rows = [
            list(range(size))[start : start + self.chunk] for start in range(0, size, self.chunk)
        ]
        found = [self._ask(samples.pick(part)) for part in rows]
        score = joined(found, [(len(part), frames) for part in rows])
        if any(isinstance(part, Score) for part in found):
            self.support = score.support  # type: ignore[misc]
        return to_device(score, samples.video.device)

    def _ask(self, samples: Samples) -> Score | str:
        """The score of some clips, or why there is none."""
        body = pack_samples(samples)
        try:
            said = self.patience.ask(lambda deadline: self._once(body, deadline), time.sleep)
        except (Again, Unreadable) as error:
            return f"unscored: {error}"
        if said.status != 200:
            return f"unscored: {complaint(said.status, said.body, self.url)}"
        return read(said.body, *samples.video.shape[:2])

    def _once(self, body: bytes, deadline: float) -> Answer:
        """The answer to one try. Raises Again where another may do better."""
        try:
            said = self._send(body, deadline)
        except TimeoutError:
            raise Again(f"no answer from {self.url} within {self.patience.timeout:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            raise Again(f"no answer from {self.url}: {failure(error)}") from None
        if said.status in AGAIN:
            raise Again(complaint(said.status, said.body, self.url), said.after)
        return said

    def _send(self, body: bytes, deadline: float) -> Answer:
        if self.transport:
            return Answer(*self.transport(body))
        assert self.address is not None  # there is a url where there is no transport
        headers = {
            "Authorization": f"Bearer {token(self.token_env)}",
            "Content-Type": "application/octet-stream",
        }
        return post(self.address, "/score", body, headers, deadline, LARGEST_ANSWER)


def token(name: str) -> str:
    """The token in an environment variable; raises RuntimeError where there is none that a
    header can hold."""
    found = os.environ.get(name, "")
    if not found:
        raise RuntimeError(
            f"expected the server's token in the environment variable {name}, found none"
        )
    if not (found.isascii() and found.isprintable()):  # http.client would show it in its error
        raise RuntimeError(
            f"expected the token in {name} to be of printable ASCII characters, got others"
        )
    return found


class _Light(Reward):
    """The mean light of each frame."""

    def terms(self, samples: Samples) -> Tensor:
        return samples.frames.mean((2, 3, 4))
