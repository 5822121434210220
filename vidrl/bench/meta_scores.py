"""Compute the dims' values on each clip under every corruption, stored clip by clip.

A run that was stopped continues with the first clip that is not stored.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidrl.audit.battery import UNTOUCHED
from vidrl.audit.clips import Clip
from vidrl.bench.cache import write_atomic
from vidrl.rewards import Reward, Samples
from vidrl.synthetic.corruptions import corrupt

ENCODING_STRENGTH = 0.5  # of the re-encoding that every clip gets, sound or corrupted
NULLS = 4  # sound versions of a clip, re-encoded with different blocks
# Errors that rewards raise without their weights or for clips that they cannot score.
REWARD_ERRORS = (ImportError, OSError, RuntimeError, ValueError, MemoryError)


@dataclass(frozen=True)
class Step:
    """One version of a clip: a corruption of some strength, then a re-encoding.

    Without a name the clip is sound; `seed` chooses the blocks of the re-encoding.
    """

    name: str
    strength: float
    seed: int

    @property
    def key(self) -> str:
        """Return the step's name in the files: `freeze 0.5`, or `saved 0` for a sound version.

        >>> Step("freeze", 0.5, 9).key, Step("", 0.0, 2).key
        ('freeze 0.5', 'saved 2')
        """
        return f"{self.name} {self.strength:g}" if self.name else f"saved {self.seed}"

    def apply(self, video: Tensor) -> Tensor | None:
        """Return the clip after this step, None if the corruption changed nothing."""
        corrupted = corrupt(video, self.name, self.strength, self.seed) if self.name else video
        if self.name and float((corrupted - video).abs().mean()) <= UNTOUCHED:
            return None
        return corrupt(corrupted, "reencode", ENCODING_STRENGTH, self.seed)


def plan(corruptions: Mapping[str, Sequence[float]]) -> list[Step]:
    """Return all versions of a clip: the sound ones, then each corruption at its strengths.

    >>> [step.key for step in plan({"freeze": [0.5, 1.0]})][3:]
    ['saved 3', 'freeze 0.5', 'freeze 1']
    """
    sound = [Step("", 0.0, seed) for seed in range(NULLS)]
    return sound + [
        Step(name, s, 1000 + k) for k, name in enumerate(corruptions) for s in corruptions[name]
    ]


@dataclass(frozen=True)
class Row:
    """The values of one clip by dim and step, and the reasons for missing ones.

    A value is None where there is none; `group` is the source video.
    """

    name: str
    group: str  # the source video: clips of one video are one group
    real: bool
    values: dict[str, dict[str, float | None]]
    why: dict[str, dict[str, str]]

    def value(self, dim: str, step: str) -> float:
        """Return the value of a dim at a step, NaN where there is none."""
        found = self.values[dim].get(step)
        return math.nan if found is None else found


def score_clip(
    clip: Clip,
    rewards: Mapping[str, Reward],
    steps: Sequence[Step],
    folder: Path | None,
    stamps: Mapping[str, str],
    tell: Callable[[str], None] = lambda step: None,
) -> Row:
    """Return the row of a clip, computing only the dims that `folder` does not hold.

    `stamps` identifies what a dim's numbers depend on; stored numbers with another stamp
    are computed again.
    """
    path = folder / f"{_identity(clip, steps)}.json" if folder else None
    stored = _read(path)
    missing = {
        name: reward
        for name, reward in rewards.items()
        if stored.get(name, {}).get("stamp") != stamps[name]
    }
    if missing:
        values, why = _compute(clip, missing, steps, tell)
        stored |= {
            name: {"stamp": stamps[name], "values": values[name], "why": why[name]}
            for name in missing
        }
        _write(path, stored)
    return Row(
        clip.name,
        source_video(clip),
        clip.truth is None,
        {name: stored[name]["values"] for name in rewards},
        {name: stored[name]["why"] for name in rewards},
    )


def source_video(clip: Clip) -> str:
    """Return the video that a piece was cut from; a scene is a source by itself."""
    return clip.name if clip.truth is not None else clip.name.rpartition(" from ")[0] or clip.name


def _compute(
    clip: Clip, rewards: Mapping[str, Reward], steps: Sequence[Step], tell: Callable[[str], None]
) -> tuple[dict[str, dict[str, float | None]], dict[str, dict[str, str]]]:
    """Return values and reasons of the dims at all steps."""
    values: dict[str, dict[str, float | None]] = {name: {} for name in rewards}
    why: dict[str, dict[str, str]] = {name: {} for name in rewards}
    for step in steps:
        tell(step.key)
        version = step.apply(clip.video)
        # One Samples for all dims, so that they share one optical flow.
        samples = Samples(version[None], [clip.prompt], clip.fps) if version is not None else None
        for name, reward in rewards.items():
            value, reason = _ask(reward, samples) if samples else (None, "untouched")
            values[name][step.key] = value
            why[name] |= {step.key: reason} if reason else {}
    return values, why


@torch.no_grad()
def _ask(reward: Reward, samples: Samples) -> tuple[float | None, str | None]:
    """Return a reward's value, or the reason why there is none."""
    try:
        score = reward(samples)
    except REWARD_ERRORS as error:
        return None, f"unscored: {error}"
    value = float(score.value[0])
    return (
        (value, None)
        if math.isfinite(value)
        else (None, score.why[0] or "unscored: NaN or infinity")
    )


def _identity(clip: Clip, steps: Sequence[Step]) -> str:
    """Return a hash of the clip's pixels, prompt and rate, and of the plan."""
    facts = json.dumps(
        [
            clip.name,
            clip.prompt,
            clip.fps,
            list(clip.video.shape),
            ENCODING_STRENGTH,
            UNTOUCHED,
            [[step.name, step.strength, step.seed] for step in steps],
        ]
    )
    pixels = np.ascontiguousarray(clip.video.numpy())
    return hashlib.sha256(facts.encode() + pixels.tobytes()).hexdigest()[:16]


def _read(path: Path | None) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path else {}
    except (OSError, ValueError):  # missing or damaged: computed again
        return {}


def _write(path: Path | None, held: Mapping[str, Any]) -> None:
    if path is None:
        return
    write_atomic(path, json.dumps(held, ensure_ascii=False, allow_nan=False))
