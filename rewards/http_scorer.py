"""A reward whose scores are computed by a server."""

from __future__ import annotations

import http.client
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import SplitResult

import torch
from torch import Tensor

from ._serving.answers import describe_refusal, join_scores, read_answer, to_device
from ._serving.identity import differences
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
from ._serving.printable import printable
from ._serving.serve import TOKEN_ENV, RewardHandler, pack_samples
from ._serving.servers import Busy, Failed, Server, Servers
from ._serving.threads import Threads
from .base import Card, Reward, Samples, Score

LARGEST_ANSWER = 1 << 28  # bytes
BUSY = (429, 503)  # the HTTP statuses of a server that is full, if it has a Retry-After
# HTTP statuses after which the same request may succeed a little later: time-out, too many
# requests, and the errors of a busy or restarting server
RETRYABLE_STATUSES = (408, 429, 502, 503, 504)
NO_HEALTH = (404, 405, 501)  # the answer to GET /health of a server that knows /score alone
HEALTH_TIMEOUT = 10.0  # seconds for the answer to GET /health
LARGEST_HEALTH = 1 << 16  # bytes
# sends the bytes of a request; returns the HTTP status and the bytes of the answer
Transport = Callable[[bytes], tuple[int, bytes]]


class HttpScorer(Reward):
    """The score that the server at `url` gives; `vidrl serve REWARD` starts such a server.

    `urls` names several servers of the same reward instead: chunks are spread over them, and
    a chunk that one server does not score is sent to the next one. The servers must state
    the same identity in GET /health (reward, options, versions, kind of device), so that the
    numbers do not depend on which one answers; else ValueError says how they differ. A server
    that is started again with another reward counts as one that fails.

    Clips are sent `chunk` at a time, as uint8 or float as they are, by POST to `url`/score
    with the token of the environment variable `token_env`.

    A request is sent again, up to `retries` times, if it fails for a passing reason: no
    connection, no complete answer within `timeout` seconds, or a busy server. The waits are
    0.5, 1, 2 ... seconds, or what the server's header Retry-After says. A server that is full
    is no failure: within the `timeout` of a try, the client comes again as often as the server
    asks it to. All tries together end within (retries + 1) * timeout seconds for each server,
    plus the waits, however slowly the servers answer. A clip without an answer is NaN with
    the reason "unscored: ...", and so is a clip whose answer has the wrong shape or a number
    that is not finite.

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
        urls: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if chunk < 1 or retries < 0 or not timeout > 0:
            raise ValueError(
                f"expected chunk >= 1, retries >= 0, timeout > 0, got {chunk}, {retries}, {timeout}"
            )
        if isinstance(urls, str):
            raise ValueError(
                f"urls: expected a list of addresses, got the text {urls!r}: write urls = "
                f"[{urls!r}], or url = {urls!r}"
            )
        if (url and urls) or len(set(urls)) < len(urls):
            raise ValueError(
                f"expected url, or urls that differ, got url={url!r} and urls={list(urls)}: name "
                "each server once"
            )
        self.token_env, self.chunk = token_env, chunk
        self.transport = transport
        self.retry_policy = RetryPolicy(timeout, retries, wait=0.5)
        named = [] if transport else [(one, "urls") for one in urls] or [(url, "url")]
        self.servers = Servers(
            [Server(one, _address(one, what, insecure)) for one, what in named]
            or [Server("", None)]
        )
        # what the servers' numbers depend on, by the first answer; "" before it
        self._identity = ""
        self._checked = len(named) < 2

    @classmethod
    def tiny(cls) -> HttpScorer:
        """Return the reward with a stand-in server in this process: the mean light."""
        return cls(transport=RewardHandler(_Light()).respond, chunk=2)

    @torch.no_grad()
    def forward(self, samples: Samples) -> Score:
        """Return the score of whole clips."""
        if not self._checked:
            self.check_servers()
        size, frames = len(samples), samples.video.shape[1]
        rows = [
            list(range(size))[start : start + self.chunk] for start in range(0, size, self.chunk)
        ]
        found = self._ask_each([samples.pick(part) for part in rows])
        score = join_scores(found, [(len(part), frames) for part in rows])
        if any(isinstance(part, Score) for part in found):
            # known only from an answer: the server's reward decides
            self.time_support = score.support  # type: ignore[misc]
        return to_device(score, samples.video.device)

    def check_servers(self) -> None:
        """Raise ValueError where no server answers, or two servers have different rewards.

        Servers that do not answer are named on stderr; they are asked again with each chunk.
        """
        stated: dict[str, Mapping[str, str]] = {}
        faults: dict[str, str] = {}
        for server in [one for one in self.servers.servers if one.address]:
            try:
                stated[server.url] = self._stated(server)
            except (Retryable, Failed, UnreadableAnswer) as error:
                faults[server.url] = str(error)
        if faults and not stated:
            raise ValueError(f"expected a server of a reward: {'; '.join(faults.values())}")
        for fault in faults.values():
            print(f"note: {fault}; the other servers score", file=sys.stderr)
        for url, facts in stated.items():
            first = next(iter(stated))
            if found := differences(stated[first], facts):
                raise ValueError(
                    f"expected servers of one reward, but {first} and {url} differ: {found}; "
                    "start all of them by the same command and the same versions"
                )
        self._checked = True

    def _stated(self, server: Server) -> Mapping[str, str]:
        """Return the identity that a server states; one without an identity has its own name."""
        deadline = time.monotonic() + min(HEALTH_TIMEOUT, self.retry_policy.timeout)
        answer = self._tried(server, lambda: self._send(server, b"", deadline, "/health"))
        if answer.status in NO_HEALTH:
            return {}
        if answer.status != http.client.OK:
            raise Failed(describe_refusal(answer.status, answer.body, server.url))
        try:
            said = json.loads(answer.body)
            facts = said.get("identity", {"reward": said["reward"]})
            return {printable(str(k), 40): printable(str(v), 80) for k, v in facts.items()}
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise Failed(f"{server.url}/health answers no JSON object of a reward") from None

    def _ask_each(self, pieces: Sequence[Samples]) -> list[Score | str]:
        """Return the score of each piece, or the reason why it has none; servers work at once."""
        count = min(len(pieces), len(self.servers.servers))
        if count < 2:
            return [self._ask(piece) for piece in pieces]
        threads = Threads(count)
        answers = [threads.submit(self._ask, piece) for piece in pieces]
        threads.close()
        return [answer.result() for answer in answers]

    def _ask(self, samples: Samples) -> Score | str:
        """Return the score of some clips, or the reason why there is none."""
        body, size = pack_samples(samples), samples.video.shape[:2]

        def once(server: Server, deadline: float) -> Score:
            return self._once(server, body, size, deadline)

        try:
            return self.retry_policy.call(
                lambda deadline: self.servers.ask(once, deadline - time.monotonic()),
                time.sleep,
            )
        except (Retryable, UnreadableAnswer, Failed) as error:
            return f"unscored: {error}"

    def _once(self, server: Server, body: bytes, size: Sequence[int], deadline: float) -> Score:
        """Return the score of one try; raise Retryable if another try may succeed, else Failed."""
        answer = self._tried(server, lambda: self._send(server, body, deadline))
        if answer.status != http.client.OK:
            raise Failed(describe_refusal(answer.status, answer.body, server.url))
        found = read_answer(answer.body, size[0], size[1])
        if isinstance(found, str):
            raise Failed(found.removeprefix("unscored: "))
        self._identity = self._identity or answer.identity
        if answer.identity != self._identity:
            raise Failed(
                f"{server.url} answers with another reward than before ({answer.identity or 'none'}"
                f", not {self._identity}): start it as before, or start the run again"
            )
        return found

    def _tried(self, server: Server, send: Callable[[], Answer]) -> Answer:
        """Return an answer to one request; raise Retryable, or Busy, if another may succeed."""
        try:
            answer = send()
        except TimeoutError:
            raise Retryable(
                f"no answer from {server.url} within {self.retry_policy.timeout:g} s"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise Retryable(f"no answer from {server.url}: {describe_failure(error)}") from None
        if answer.status in RETRYABLE_STATUSES:
            why = describe_refusal(answer.status, answer.body, server.url)
            kind = Busy if answer.status in BUSY and answer.after else Retryable
            raise kind(why, answer.after)
        return answer

    def _send(self, server: Server, body: bytes, deadline: float, path: str = "/score") -> Answer:
        """Send the request and wait for the answer, at most until `deadline`."""
        if self.transport:
            return Answer(*self.transport(body))
        assert server.address is not None  # the constructor sets it if there is no transport
        headers = {"Authorization": f"Bearer {token(self.token_env)}"}
        if path == "/health":
            return post(server.address, path, b"", headers, deadline, LARGEST_HEALTH, method="GET")
        headers["Content-Type"] = "application/octet-stream"
        return post(server.address, path, body, headers, deadline, LARGEST_ANSWER)


def _address(url: str, what: str, insecure: bool) -> SplitResult:
    """Return the parts of a server's address; raise ValueError for one that is not private."""
    address = parse_address(url, what)
    if not is_private(address) and not insecure:
        raise ValueError(
            f"expected {what} to be https, or a server on this machine, got {url}: plain http "
            "would show the token and the clips to the network; "
            "use an SSH tunnel, or say insecure=True"
        )
    return address


def token(name: str) -> str:
    """Return the token in an environment variable.

    Raises RuntimeError if the variable is empty or its text cannot be sent in a header.
    """
    found = os.environ.get(name, "")
    if not found:
        raise RuntimeError(
            f"expected the server's token in the environment variable {name}, found none: export "
            f"{name} here with the value that the server has"
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
