"""Scores clips by any reward, in batches of one shape; unscored clips keep their reason."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidrl.audit.clips import Clip
from vidrl.rewards import Samples
from vidrl.rewards._scoring.plain import as_reward
from vidrl.training.evaluate import score_each

Values = np.ndarray  # float64; NaN: not scored
PIXELS = 40_000_000  # numbers in one batch of clips, 160 MB


class Scorer:
    """A reward that scores many clips, and counts the clips and seconds."""

    def __init__(self, reward: Any, device: str = "cpu", batch: int = 0) -> None:
        self.reward = as_reward(reward).to(device).eval()
        self.device, self.batch = torch.device(device), batch
        self.clips, self.seconds = 0, 0.0
        self.grown: int | None = None  # bytes, over the first clips; set by `battery.run`

    def __call__(
        self, clips: Sequence[Clip], strict: bool = False
    ) -> tuple[Values, list[str | None]]:
        """Return values (N,) and why a clip has none; `strict` raises where a batch fails."""
        values = np.full(len(clips), np.nan)
        why: list[str | None] = [None] * len(clips)
        for rows in batches(clips, self.batch):
            found, reasons = self._score([clips[i] for i in rows], strict)
            values[rows] = found
            for i, reason in zip(rows, reasons, strict=True):
                why[i] = reason
        return values, why

    def _score(self, clips: Sequence[Clip], strict: bool) -> tuple[Values, list[str | None]]:
        """Score clips of one shape. A failing batch is unscored, unless `strict`."""
        samples = Samples(
            torch.stack([clip.video.to(self.device) for clip in clips]),
            [c.prompt for c in clips],
            clips[0].fps,
        )
        start = time.perf_counter()
        try:
            with torch.no_grad():
                score = score_each(self.reward, samples)
        except RuntimeError as error:
            if strict:
                raise
            return np.full(len(clips), np.nan), [f"unscored: {error}"] * len(clips)
        value = _numbers(score.value)
        self.seconds += time.perf_counter() - start
        self.clips += len(clips)
        return value, [_reason(number, why) for number, why in zip(value, score.why, strict=True)]


def _numbers(value: Tensor) -> Values:
    found = value.detach().double().cpu().numpy()
    return np.where(np.isfinite(found), found, np.nan)


def _reason(value: float, why: str | None) -> str | None:
    return None if np.isfinite(value) else why or "unscored: the reward returned NaN or infinity"


def batches(clips: Sequence[Clip], most: int = 0) -> list[list[int]]:
    """Return batches of clips by number: one shape and rate, and at most `most` clips each.

    A batch also has at most PIXELS numbers, so that it fits into memory.
    """

    def kind(i: int) -> tuple[tuple[int, ...], float]:
        return tuple(clips[i].video.shape), clips[i].fps

    found = []
    for (shape, _), group in groupby(sorted(range(len(clips)), key=kind), key=kind):
        rows = list(group)
        size = max(1, min(most or len(rows), PIXELS // int(np.prod(shape))))
        found += [rows[i : i + size] for i in range(0, len(rows), size)]
    return found
