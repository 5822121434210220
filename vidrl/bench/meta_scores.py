"""Values of many dims on clips under every corruption, kept clip by clip, so that a run
goes on where it stopped."""

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

ENCODING_STRENGTH = 0.5  # strength of the re-encoding that every clip gets, sound or not
NULLS = 4  # sound versions of a clip: the same picture, saved with other blocks
# what a reward without its weights raises
REWARD_ERRORS = (ImportError, OSError, RuntimeError, ValueError, MemoryError)


@dataclass(frozen=True)
class Step:
    """One version of a clip: a corruption and its strength, then saved with the blocks of
    `seed`; no name: sound."""

    name: str
    strength: float
    seed: int

    @property
    def key(self) -> str:
        """Its name in the files: `freeze 0.5`, or `saved 0` for a sound one.

        >>> Step("freeze", 0.5, 9).key, Step("", 0.0, 2).key
        ('freeze 0.5', 'saved 2')
        """
        return f"{self.name} {self.strength:g}" if self.name else f"saved {self.seed}"

    def apply(self, video: Tensor) -> Tensor | None:
        """The clip so treated; None where the corruption changed nothing."""
        made = corrupt(video, self.name, self.strength, self.seed) if self.name else video
        if self.name and float((made - video).abs().mean()) <= UNTOUCHED:
            return None
        return corrupt(made, "reencode", ENCODING_STRENGTH, self.seed)


def plan(corruptions: Mapping[str, Sequence[float]]) -> list[Step]:
    """All versions of a clip: the sound ones, then each corruption at its strengths.

    >>> [step.key for step in plan({"freeze": [0.5, 1.0]})][3:]
    ['saved 3', 'freeze 0.5', 'freeze 1']
    """
    sound = [Step("", 0.0, seed) for seed in range(NULLS)]
    return sound + [
        Step(name, s, 1000 + k) for k, name in enumerate(corruptions) for s in corruptions[name]
    ]


@dataclass(frozen=True)
class Row:
    """What is known of one clip: `values` and `why` by dim and step; None where there is no
    value."""

    name: str
    group: str  # the source video: clips of one video are one group
    real: bool
    values: dict[str, dict[str, float | None]]
    why: dict[str, dict[str, str]]

    def value(self, dim: str, step: str) -> float:
        """NaN where there is none."""
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
    """The row of a clip: what `folder` holds of it, and the dims that it misses computed
    and put there.

    `stamps` says of each dim what its numbers hang on; another stamp is another number.
    """
    path = folder / f"{_identity(clip, steps)}.json" if folder else None
    held = _read(path)
    wanted = {
        name: reward
        for name, reward in rewards.items()
        if held.get(name, {}).get("stamp") != stamps[name]
    }
    if wanted:
        values, why = _compute(clip, wanted, steps, tell)
        held |= {
            name: {"stamp": stamps[name], "values": values[name], "why": why[name]}
            for name in wanted
        }
        _write(path, held)
    return Row(
        clip.name,
        source_video(clip),
        clip.truth is None,
        {name: held[name]["values"] for name in rewards},
        {name: held[name]["why"] for name in rewards},
    )


def source_video(clip: Clip) -> str:
    """The video that a piece is of; a scene stands for itself."""
    return clip.name if clip.truth is not None else clip.name.rpartition(" from ")[0] or clip.name


def _compute(
    clip: Clip, rewards: Mapping[str, Reward], steps: Sequence[Step], tell: Callable[[str], None]
) -> tuple[dict[str, dict[str, float | None]], dict[str, dict[str, str]]]:
    values: dict[str, dict[str, float | None]] = {name: {} for name in rewards}
    why: dict[str, dict[str, str]] = {name: {} for name in rewards}
    for step in steps:
        tell(step.key)
        made = step.apply(clip.video)
        # one flow for all dims
        samples = Samples(made[None], [clip.prompt], clip.fps) if made is not None else None
        for name, reward in rewards.items():
            value, reason = _ask(reward, samples) if samples else (None, "untouched")
            values[name][step.key] = value
            why[name] |= {step.key: reason} if reason else {}
    return values, why


@torch.no_grad()
def _ask(reward: Reward, samples: Samples) -> tuple[float | None, str | None]:
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
    """A hash of the pixels, the prompt, the rate and the plan."""
    told = json.dumps(
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
    return hashlib.sha256(told.encode() + pixels.tobytes()).hexdigest()[:16]


def _read(path: Path | None) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path else {}
    except (OSError, ValueError):  # not there, or written by half: it is made anew
        return {}


def _write(path: Path | None, held: Mapping[str, Any]) -> None:
    if path is None:
        return
    write_atomic(path, json.dumps(held, ensure_ascii=False, allow_nan=False))
