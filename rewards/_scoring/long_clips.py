"""A stream scores one long clip in pieces, with several rewards that share one flow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from .._files.memory import TooLarge
from .curves import (
    LONGEST,
    curve_of_terms,
    interleave,
    refusals,
    score_of_curves,
    too_short,
)
from .samples import About, Samples
from .score import Score


class Streamed(Protocol):
    """What a stream reads of a `Reward`, whose module imports this module."""

    @property
    def time_support(self) -> str:
        """Which frames an entry of the curve depends on."""
        ...

    @property
    def lookahead(self) -> int:
        """How many frames after its first frame a term reads."""
        ...

    @property
    def shrinks(self) -> bool:
        """Whether the reward measures shrunk frames."""
        ...

    @property
    def least_side(self) -> int:
        """The smallest side, in pixels, that can be scored."""
        ...

    @property
    def needed(self) -> int:
        """The number of frames of the shortest clip that can be scored."""
        ...

    @property
    def context(self) -> int:
        """How many last frames of a piece are kept for the next piece."""
        ...

    @property
    def working_size(self) -> int:
        """The shorter side, in pixels, to which larger frames are shrunk."""
        ...

    @property
    def lost(self) -> str:
        """The reason of a clip whose terms are not finite."""
        ...

    def stride(self, fps: float, frames: int) -> int:
        """Return every how many frames the reward measures."""
        ...

    def resume(self, samples: Samples, state: Any, old: int) -> tuple[Tensor, Any]:
        """Return the features of the frames after the first `old`, and the state."""
        ...

    def terms_of_clip(self, features: Tensor, about: About) -> Tensor:
        """Return the terms of the whole clip from its features."""
        ...


ENOUGH = 24  # shrunk frames that a lane scores at a time
MOST_HELD = 3 * 2**29  # bytes of frames that may be held back at the start of a clip
# The kind of a lane: its stride, and the shorter side of its frames if they are shrunk.
_Kind = tuple[int, "int | None"]


class Stream:
    """A scorer of one long clip for several rewards, as `Reward.stream` returns for one.

    Frames are dealt out to lanes. There is one lane for each phase of each stride (see
    `Reward.stride`) and each size at which a reward measures; rewards of the same stride
    and size share a lane, and so the flow. The first frames are held back until there are
    enough for the largest stride, because a clip that turns out to be short is not taken
    apart.

    Call `update` for each piece in the order of time, then `result`.
    """

    def __init__(
        self,
        rewards: Mapping[str, Streamed],
        fps: float,
        prompt: str,
        reference: Tensor | None = None,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        self.rewards, self.fps = dict(rewards), fps
        self.prompt = prompt
        self.given: dict[str, Any] = {"reference": reference, "meta": [meta] if meta else ()}
        # The length of the clip is not known yet. 1 << 62 frames are long enough for any
        # stride; `result` chooses the strides again if the clip turns out to be short.
        self.strides = {name: reward.stride(fps, 1 << 62) for name, reward in rewards.items()}
        self.frames_needed = max(self.strides.values()) * LONGEST
        self.held: list[Tensor] = []
        self.sides = {
            name: reward.working_size if reward.shrinks else None
            for name, reward in rewards.items()
        }
        self.lanes: dict[_Kind, list[_Lane]] = {}
        self.seen = 0
        self.why: dict[str, str | None] = dict.fromkeys(rewards)

    @torch.no_grad()
    def update(self, frames: Tensor) -> None:
        """Take the next frames of the clip, (F, C, H, W), float in [0, 1] or uint8."""
        samples = self._samples(frames)
        self._refuse(samples)
        self.seen += len(frames)
        if not self.lanes:
            if self.seen < self.frames_needed:
                self._hold(frames)
                return
            if self.held:  # otherwise avoid the copy, which takes as long as decoding
                samples = self._samples(torch.cat([*self.held, frames]))
            self.lanes, self.held = self._open(self.strides), []
        _deal(self.lanes, samples, self.seen - samples.video.shape[1])

    def _hold(self, frames: Tensor) -> None:
        """Keep frames for later; raise MemoryError where they take too much memory."""
        needed = frames.element_size() * frames[0].numel() * self.seen
        if needed > MOST_HELD:
            raise TooLarge(
                f"expected frames of which {self.frames_needed} in a row, half a second, fit "
                f"{MOST_HELD / 2**30:g} GiB; got {frames.shape[-1]} x {frames.shape[-2]} at "
                f"{self.fps:g} a second: shrink them, or lower the rate"
            )
        # a clone, because the caller may overwrite its buffer
        self.held.append(frames.clone())

    @torch.no_grad()
    def result(self) -> dict[str, Score]:
        """Return the score of each reward for all frames so far, B = 1."""
        lanes = self.lanes
        strides = (
            self.strides
            if lanes
            else {name: r.stride(self.fps, self.seen) for name, r in self.rewards.items()}
        )
        if not lanes and self.held:
            lanes = self._open(strides)
            _deal(lanes, self._samples(torch.cat(self.held)), 0)
        kinds = {name: (strides[name], self.sides[name]) for name in self.rewards}
        return {
            name: self._score(name, reward, lanes.get(kinds[name], []))
            for name, reward in self.rewards.items()
        }

    def _samples(self, frames: Tensor) -> Samples:
        """Return frames as Samples of one clip."""
        return Samples(frames[None], [self.prompt], self.fps, **self.given)

    def _open(self, strides: Mapping[str, int]) -> dict[_Kind, list[_Lane]]:
        """Open the lanes of the rewards that can score the clip."""
        groups: dict[_Kind, dict[str, Streamed]] = {}
        for name, reward in self.rewards.items():
            if self.why[name] is None:
                groups.setdefault((strides[name], self.sides[name]), {})[name] = reward
        return {
            kind: [_Lane(group, kind[1]) for _ in range(kind[0])] for kind, group in groups.items()
        }

    def _refuse(self, samples: Samples) -> None:
        """Note why a reward cannot score these frames, and drop it from its lanes."""
        for name, reward in self.rewards.items():
            self.why[name] = (
                self.why[name] or refusals(samples, 0, reward.least_side, first=self.seen)[0]
            )
        for lane in (lane for lanes in self.lanes.values() for lane in lanes):
            lane.rewards = {
                name: reward for name, reward in lane.rewards.items() if self.why[name] is None
            }

    def _score(self, name: str, reward: Streamed, lanes: list[_Lane]) -> Score:
        """Return the score of one reward from its lanes."""
        why = self.why[name]
        if why is None and self.seen < reward.needed:
            why = too_short(reward.needed, self.seen)
        if why is not None:
            curve = torch.full((1, max(self.seen, 1)), torch.nan)
            return Score(curve[:, 0].clone(), curve, reward.time_support, why=[why])
        curve = interleave([lane.curve(name) for lane in lanes])
        return score_of_curves(curve, reward.time_support, [None], [0], reward.lost)


class _Lane:
    """A lane keeps the frames and the features of one phase.

    Each piece is scored together with the last `context` frames of the piece before, which
    its first terms read; of earlier frames only the features are kept. So the numbers are
    those of `forward` on the whole clip. Where frames are shrunk, they are gathered until
    there are ENOUGH, so that the overlap of the pieces costs little time.
    """

    def __init__(self, rewards: Mapping[str, Streamed], side: int | None) -> None:
        self.rewards, self.side = dict(rewards), side
        self.context = max((reward.context for reward in rewards.values()), default=0)
        self.tail: Tensor | None = None
        self.waiting: list[Samples] = []
        self.about: About | None = None
        self.features: dict[str, list[Tensor]] = {name: [] for name in rewards}
        self.state: dict[str, Any] = dict.fromkeys(rewards)

    def update(self, samples: Samples) -> None:
        """Take the next frames of this phase."""
        self.about = samples.about
        if self.side is not None:
            samples = Samples(samples.small(self.side).contiguous(), samples.prompts, samples.fps)
        self.waiting.append(samples)
        if self.side is None or sum(part.video.shape[1] for part in self.waiting) >= ENOUGH:
            self.flush()

    def flush(self) -> None:
        """Compute the features of the frames that wait."""
        if not self.waiting:
            return
        samples, self.waiting = _joined(self.tail, self.waiting), []
        old, frames = 0 if self.tail is None else self.tail.shape[1], samples.video.shape[1]
        for name, reward in self.rewards.items():
            # a reward of less context than lookahead keeps the frames that it needs in its state
            if frames > min(reward.lookahead, reward.context):
                kept, self.state[name] = reward.resume(samples, self.state[name], old)
                self.features[name].append(kept)
        self.tail = samples.video[:, max(0, frames - self.context) :].clone()

    def curve(self, name: str) -> Tensor:
        """Return the curve of the reward `name` over the frames of this phase."""
        self.flush()
        assert self.about is not None  # `update` has set it: no lane is without frames here
        reward = self.rewards[name]
        terms = reward.terms_of_clip(torch.cat(self.features[name], 1), self.about)
        return curve_of_terms(terms, reward.lookahead)


class Single:
    """A stream of one reward, with a Score as its result."""

    def __init__(self, reward: Streamed, fps: float, prompt: str) -> None:
        self.stream = Stream({"only": reward}, fps, prompt)

    def update(self, frames: Tensor) -> None:
        """Take the next frames of the clip, (F, C, H, W), float in [0, 1] or uint8."""
        self.stream.update(frames)

    def result(self) -> Score:
        """Return the score of all frames so far, B = 1."""
        return self.stream.result()["only"]


def _joined(tail: Tensor | None, parts: list[Samples]) -> Samples:
    """Join several pieces into one, after the frames `tail` of the piece before."""
    before = [] if tail is None or not tail.shape[1] else [tail]
    if len(parts) == 1 and not before:
        return parts[0]
    return Samples(
        torch.cat([*before, *(part.video for part in parts)], 1), parts[0].prompts, parts[0].fps
    )


def _deal(lanes: Mapping[_Kind, list[_Lane]], samples: Samples, start: int) -> None:
    """Give each frame to its lane of every stride.

    `start` is the number of the first frame.
    """
    for (stride, _), phases in lanes.items():
        for phase, lane in enumerate(phases):
            first = (phase - start) % stride
            if first < samples.video.shape[1]:
                lane.update(samples if stride == 1 else samples.every(stride, first))
