"""A reward that another machine computes."""

from __future__ import annotations

import http.client
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from urllib.parse import SplitResult, urlsplit

import torch
from torch import Tensor

from ._serve import TOKEN_ENV, Desk, pack_samples, unpack_score
from .base import Card, Reward, Samples, Score

LARGEST_ANSWER = 1 << 28  # bytes
AGAIN = (408, 429, 502, 503, 504)  # what a moment may cure
Transport = Callable[[bytes], tuple[int, bytes]]


class HttpScorer(Reward):
    """The score that the server at `url` gives, number for number; `vidrl serve REWARD` is such a server.

    Clips are sent `chunk` at a time, uint8 or float as they are, to POST `url`/score with the token of the environment
    variable `token_env`. A request that fails for a passing reason (no connection, `timeout` seconds without an
    answer, a busy server) is sent again `retries` times, after 0.5, 1, 2 ... seconds. Clips for which no answer comes
    are NaN with the reason, "unscored: ...". Redirects are never followed and proxies never used, so that the token
    goes to no other host. Plain http shows clips and token to the network between: use it within one machine, through
    an SSH tunnel, or take https.

    `transport`, from the bytes of a request to HTTP status and bytes of the answer, stands in for the connection.
    The curve's support is the far reward's. Raises ValueError for an address that is not http or https,
    RuntimeError where no token is set.

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
    ) -> None:
        super().__init__()
        if chunk < 1 or retries < 0 or not timeout > 0:
            raise ValueError(f"expected chunk >= 1, retries >= 0, timeout > 0, got {chunk}, {retries}, {timeout}")
        self.url, self.token_env, self.timeout = url, token_env, timeout
        self.retries, self.chunk, self.transport = retries, chunk, transport
        self.address = None if transport else address(url)

    @classmethod
    def tiny(cls) -> HttpScorer:
        """Asks a light meter in this process."""
        return cls(transport=Desk(_Light()).respond, chunk=2)

    @torch.no_grad()
    def forward(self, samples: Samples) -> Score:
        """The score of whole clips."""
        size, frames = len(samples), samples.video.shape[1]
        rows = [list(range(size))[start : start + self.chunk] for start in range(0, size, self.chunk)]
        found = [self._ask(samples.pick(part)) for part in rows]
        score = joined(found, [(len(part), frames) for part in rows])
        if any(isinstance(part, Score) for part in found):
            self.support = score.support  # type: ignore[misc]
        return to_device(score, samples.video.device)

    def _ask(self, samples: Samples) -> Score | str:
        """The score of some clips, or why there is none."""
        body, reason = pack_samples(samples), ""
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(min(0.5 * 2 ** (attempt - 1), 30.0))
            try:
                status, said = self._send(body)
            except (OSError, http.client.HTTPException) as error:
                reason = f"no answer from {self.url}: {type(error).__name__}: {error}"
                continue
            if status == 200:
                return read(said, *samples.video.shape[:2])
            reason = complaint(status, said, self.url)
            if status not in AGAIN:
                break
        return f"unscored: {reason}"

    def _send(self, body: bytes) -> tuple[int, bytes]:
        if self.transport:
            return self.transport(body)
        assert self.address is not None  # there is a url where there is no transport
        token = os.environ.get(self.token_env, "")
        if not token:
            raise RuntimeError(f"expected the server's token in the environment variable {self.token_env}, found none")
        kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
        place = self.address
        connection = kinds[place.scheme](place.hostname or "", place.port, timeout=self.timeout)
        try:
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/octet-stream"}
            with suppress(BrokenPipeError, ConnectionResetError):  # a refusal may come before all is sent
                connection.request("POST", f"{place.path.rstrip('/')}/score", body, headers)
            said = connection.getresponse()
            return said.status, said.read(LARGEST_ANSWER)
        finally:
            connection.close()


class _Light(Reward):
    """The mean light of each frame."""

    def terms(self, samples: Samples) -> Tensor:
        return samples.frames.mean((2, 3, 4))


def address(url: str) -> SplitResult:
    """The parts of a server's address; raises ValueError for one that is not http or https.

    >>> address("http://127.0.0.1:8300").port
    8300
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
        raise ValueError(f"expected url to be like http://127.0.0.1:8300 or https://scorer.example, got {url!r}")
    return parts


def read(said: bytes, clips: int, frames: int) -> Score | str:
    """The score of an answer to so many clips of so many frames, or why it is none."""
    try:
        score = unpack_score(said)
    except ValueError as error:
        return f"unscored: the answer cannot be read: {error}"
    return score if fits(score, clips, frames) else f"unscored: the answer is not of {clips} clips of {frames} frames"


def fits(score: Score, clips: int, frames: int) -> bool:
    """Whether a score and its parts are of so many clips of so many frames."""
    curve = score.frames is None or score.frames.shape == (clips, frames)
    return len(score.value) == clips and curve and all(fits(part, clips, frames) for part in score.parts.values())


def complaint(status: int, said: bytes, url: str) -> str:
    """What a refusal says, in one line."""
    try:
        message = str(json.loads(said)["error"])
    except (ValueError, KeyError, TypeError):
        message = http.client.responses.get(status, "")
    if 300 <= status < 400:
        message = "it redirects elsewhere, which is not followed; give the right address"
    return f"{url or 'the scorer'} answered {status}: {message}"[:500]


def joined(found: Sequence[Score | str], sizes: Sequence[tuple[int, int]]) -> Score:
    """One score of several pieces of a batch, of so many clips and frames each; a reason gives NaN."""
    scores = [_blank(size, part) if isinstance(part, str) else part for part, size in zip(found, sizes)]
    told = next((part for part in found if isinstance(part, Score)), scores[0])
    curves = None if told.frames is None else torch.cat([_curve(s, size) for s, size in zip(scores, sizes)])
    parts = {name: joined([s.parts.get(name, _reason(s)) for s in scores], sizes) for name in told.parts}
    slopes = {name: torch.cat([s.slopes.get(name, s.value * math.nan) for s in scores]) for name in told.slopes}
    lost = [s.value[:, None].expand(-1, 2) * math.nan for s in scores]
    adds = {name: torch.cat([s.adds.get(name, no) for s, no in zip(scores, lost)]) for name in told.adds}
    why = [reason for s in scores for reason in s.why]
    value = torch.cat([s.value for s in scores])
    return Score(value, curves, told.support, parts, why, told.weights, slopes, adds=adds)


def to_device(score: Score, device: torch.device) -> Score:
    """The score with its tensors on `device`."""
    frames = None if score.frames is None else score.frames.to(device)
    parts = {name: to_device(part, device) for name, part in score.parts.items()}
    slopes, adds = ({name: one.to(device) for name, one in named.items()} for named in (score.slopes, score.adds))
    return Score(score.value.to(device), frames, score.support, parts, score.why, score.weights, slopes, adds=adds)


def _blank(size: tuple[int, int], reason: str) -> Score:
    return Score(torch.full(size[:1], math.nan), torch.full(size, math.nan), "clip", why=[reason] * size[0])


def _curve(score: Score, size: tuple[int, int]) -> Tensor:
    return torch.full(size, math.nan) if score.frames is None else score.frames


def _reason(score: Score) -> str:
    return next((reason for reason in score.why if reason), "unscored: the answer lacks this part")
