"""Scoring one long clip in pieces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .base import Reward, Samples, Score, finish, refusals


class Stream:
    """The scorer that `Reward.stream` gives; several rewards share one flow.

    Pieces overlap by the frames that the next terms look back at, and nothing else of the past is kept. The numbers
    are those of `forward` on the whole clip, because a term looks at no more.
    """

    def __init__(self, rewards: Mapping[str, Reward], fps: float, prompt: str) -> None:
        self.rewards, self.fps, self.prompt = dict(rewards), fps, prompt
        self.context = max(reward.context for reward in rewards.values())
        self.tail: Tensor | None = None
        self.seen = 0
        self.terms: dict[str, list[Tensor]] = {name: [] for name in rewards}
        self.state: dict[str, Any] = dict.fromkeys(rewards)
        self.why: dict[str, str | None] = dict.fromkeys(rewards)

    @torch.no_grad()
    def update(self, frames: Tensor) -> None:
        """Take the next frames of the clip, (F, C, H, W), float in [0, 1] or uint8."""
        old = 0 if self.tail is None else len(self.tail)
        piece = frames if self.tail is None else torch.cat([self.tail, frames])
        samples = Samples(piece[None], [self.prompt], self.fps)
        self.seen += len(frames)
        for name, reward in self.rewards.items():
            self._take(name, reward, samples, old)
        self.tail = piece[max(0, len(piece) - self.context) :].clone()

    def result(self) -> dict[str, Score]:
        """The scores of all frames so far, B = 1."""
        return {name: self._score(name, reward) for name, reward in self.rewards.items()}

    def _take(self, name: str, reward: Reward, samples: Samples, old: int) -> None:
        if self.why[name] is None and samples.video.shape[1] > reward.reach:
            self.why[name] = refusals(samples, reward.reach + 1, reward.least_side)[0]
        if self.why[name] is None and samples.video.shape[1] > reward.reach:
            terms, self.state[name] = reward.resume(samples, self.state[name], old)
            self.terms[name].append(terms)

    def _score(self, name: str, reward: Reward) -> Score:
        why = self.why[name]
        if why is None and not self.terms[name]:
            why = f"inapplicable: needs a clip of at least {reward.reach + 1} frames, got {self.seen}"
        if why is not None:
            curve = torch.full((1, max(self.seen, 1)), torch.nan)
            return Score(curve[:, 0].clone(), curve, reward.support, why=[why])
        return finish(torch.cat(self.terms[name], 1), reward.reach, reward.support, [None], [0])


class Single:
    """A stream of one reward: `update(frames)`, `result() -> Score`."""

    def __init__(self, reward: Reward, fps: float, prompt: str) -> None:
        self.stream = Stream({"only": reward}, fps, prompt)

    def update(self, frames: Tensor) -> None:
        """Take the next frames of the clip, (F, C, H, W), float in [0, 1] or uint8."""
        self.stream.update(frames)

    def result(self) -> Score:
        """The score of all frames so far, B = 1."""
        return self.stream.result()["only"]
