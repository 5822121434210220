"""Score the dims of one clip with one decoding and one optical flow.

This code runs in a worker process. Clips are scored in pieces, so that memory does not grow
with length, and each row is stored as soon as it is computed. Errors that a clip or a
reward causes are not raised: they become the reason `why` of the row.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidrl.bench.cache import Cache
from vidrl.bench.clip import Clip, read_image
from vidrl.bench.dims import Dim
from vidrl.bench.items import Item
from vidrl.bench.protocol import Protocol
from vidrl.rewards._files.pictures import is_still
from vidrl.rewards._scoring.long_clips import Stream
from vidrl.rewards.base import Reward, Samples, Score
from vidrl.rewards.compose import leaves, score_from_leaves
from vidrl.rewards.video import Unreadable

Row = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """A clip and the dims that it lacks, as {name: cache key}."""

    item: Item
    keys: Mapping[str, str]


@dataclass
class Outcome:
    """What is known of a clip: its facts, a row for each dim, or why it could not be read."""

    facts: Row = field(default_factory=dict)
    rows: dict[str, Row] = field(default_factory=dict)
    why: str | None = None


class Measurer:
    """A callable that measures the dims of a task and stores lasting rows in the cache.

    Rewards are built at first use, in the worker process: networks are not pickled.
    """

    def __init__(
        self,
        dims: Sequence[Dim],
        protocol: Protocol,
        cache: Path | None = None,
        device: str = "cpu",
    ) -> None:
        self.dims = {dim.name: dim for dim in dims}
        self.protocol, self.device = protocol, device
        self.cache = Cache(cache) if cache is not None else None
        self.rewards: dict[str, Reward | str] = {}  # a text says why it cannot be built

    def __call__(self, task: Task) -> Outcome:
        done = Outcome()
        try:
            clip = Clip(task.item.path, self.protocol)
            done.facts = {
                "fps": clip.fps,
                "size": list(clip.size),
                "frames": clip.frames,
                "reader": clip.reader,
                "note": clip.note,
                "written": clip.written,
            }
            self._measure(clip, task, done)
        # An error of a reward is caught in `_measure`, so that the other dims are still scored.
        except (OSError, Unreadable, MemoryError) as error:
            done.why = f"unreadable: {error or 'out of memory'}"
        return done

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"rewards": {}}

    def _measure(self, clip: Clip, task: Task, done: Outcome) -> None:
        """Score the dims of a clip, group by group, and store the rows."""
        built = {name: self._reward(name) for name in task.keys}
        done.rows |= {
            name: unscored_row(reward) for name, reward in built.items() if isinstance(reward, str)
        }
        rewards = {name: reward for name, reward in built.items() if isinstance(reward, Reward)}
        inputs = self._given(task.item, rewards, done)
        for group in decode_groups(
            {name: reward for name, reward in rewards.items() if name not in done.rows}
        ):
            for name, result in score_separately_on_error(
                group, lambda part: self._scores(clip, part, inputs)
            ).items():
                done.rows[name] = (
                    score_row(result) if isinstance(result, Score) else unscored_row(result)
                )
                if (
                    self.cache is not None
                    and isinstance(result, Score)
                    and is_cacheable(done.rows[name], rewards[name])
                ):
                    self.cache.put(task.keys[name], {"dim": name, **done.facts, **done.rows[name]})

    def _reward(self, name: str) -> Reward | str:
        if name not in self.rewards:
            self.rewards[name] = build_reward(self.dims[name], self.device)
        return self.rewards[name]

    def _given(self, item: Item, rewards: Mapping[str, Reward], done: Outcome) -> Row:
        """Return what rewards get besides the pixels.

        If a reference cannot be read, the dims that read references get the reason as their
        row.
        """
        dims_with_reference = [name for name in rewards if self.dims[name].reads("reference")]
        all_frames = any(
            not leaf.streams
            for name in dims_with_reference
            for leaf in leaves(name, rewards[name]).values()
        )
        reference = None
        if item.reference is not None and dims_with_reference:
            try:
                reference = read_reference(item.reference, self.protocol, all_frames)[None].to(
                    self.device
                )
            except (OSError, ValueError, MemoryError) as error:
                done.rows |= {
                    name: unscored_row(f"unscored: its reference: {error}")
                    for name in dims_with_reference
                }
        return {"prompt": item.prompt, "reference": reference, "meta": item.meta}

    def _scores(self, clip: Clip, rewards: Mapping[str, Reward], inputs: Row) -> dict[str, Score]:
        """Return scores of one clip, B = 1: in pieces if all rewards can, else of all frames."""
        with torch.no_grad():
            if all(
                leaf.streams
                for name, reward in rewards.items()
                for leaf in leaves(name, reward).values()
            ):
                return self._in_pieces(clip, rewards, inputs)
            meta = [inputs["meta"]] if inputs["meta"] else ()
            video = clip.read()[None].to(self.device)
            samples = Samples(video, [inputs["prompt"]], clip.fps, inputs["reference"], meta)
            return {name: reward(samples) for name, reward in rewards.items()}

    def _in_pieces(
        self, clip: Clip, rewards: Mapping[str, Reward], inputs: Row
    ) -> dict[str, Score]:
        """Return scores of a clip that is read in pieces; equal parts are computed once."""
        parts = {name: leaves(name, reward) for name, reward in rewards.items()}
        unique, representative = without_duplicate_rewards(
            {key: leaf for part in parts.values() for key, leaf in part.items()}
        )
        stream = Stream(unique, clip.fps, inputs["prompt"], inputs["reference"], inputs["meta"])
        for piece in clip.pieces():
            stream.update(piece.to(self.device))
        found = stream.result()
        return {
            name: score_from_leaves(
                name, reward, {key: found[representative[key]] for key in parts[name]}
            )
            for name, reward in rewards.items()
        }


# --- rewards --------------------------------------------------------------------------


def build_reward(dim: Dim, device: str = "cpu") -> Reward | str:
    """Return the reward of a dim, or the reason why it cannot be built.

    A learned reward is tried on a small clip, so that missing weights are found at once and
    not at every clip.
    """
    try:
        reward = dim.build().to(device).eval()
        if any(leaf.learned for leaf in leaves(dim.name, reward).values()):
            with torch.no_grad():
                reward(trial_samples(device))
        return reward
    except Exception as error:  # noqa: BLE001  one dim's error must not end the others
        return f"unscored: {error_text(error)}"


def trial_samples(device: str = "cpu") -> Samples:
    """Return four frames of noise with everything that a reward may read."""
    video = torch.randint(
        0, 256, (1, 4, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return Samples(video, ["a red circle moves left"], 8.0, video).to(device)


def without_duplicate_rewards(
    rewards: Mapping[str, Reward],
) -> tuple[dict[str, Reward], dict[str, str]]:
    """Return one reward of each kind, and the name of the kept one for each name.

    A dim may also be a part of a composite dim; then it is computed once.
    """
    first: dict[Any, str] = {}
    same = {name: first.setdefault(_kind(reward) or name, name) for name, reward in rewards.items()}
    return {name: rewards[name] for name in dict.fromkeys(same.values())}, same


def _kind(reward: Reward) -> str | None:
    """Return a key that is equal for rewards with equal results, None if that is unknown."""
    plain = {
        key: value
        for key, value in vars(reward).items()
        if not key.startswith("_") and key != "training"
    }
    try:
        return (
            json.dumps([type(reward).__module__, type(reward).__qualname__, plain])
            if not reward.learned
            else None
        )
    except TypeError:
        return None


def decode_groups(rewards: Mapping[str, Reward]) -> list[dict[str, Reward]]:
    """Split rewards into groups that share one decoding.

    All rewards that take a clip in pieces form one group, which also shares the optical
    flow. Each of the others is a group of its own.
    """
    streams = {
        name: all(leaf.streams for leaf in leaves(name, reward).values())
        for name, reward in rewards.items()
    }
    streaming = {name: reward for name, reward in rewards.items() if streams[name]}
    return [streaming] * bool(streaming) + [
        {name: rewards[name]} for name, can in streams.items() if not can
    ]


def score_separately_on_error(
    rewards: Mapping[str, Reward], score: Callable[[Mapping[str, Reward]], dict[str, Score]]
) -> dict[str, Score | str]:
    """Return the scores of rewards computed together, or each alone if one of them fails.

    So a failing reward does not take the others' numbers with it.
    """
    try:
        return {**score(rewards)}
    except Unreadable:
        raise
    except Exception as error:  # noqa: BLE001  a reward may raise anything
        if len(rewards) == 1:
            return {name: f"unscored: {error_text(error)}" for name in rewards}
        return {
            name: result
            for name in rewards
            for name, result in score_separately_on_error({name: rewards[name]}, score).items()
        }


def error_text(error: BaseException) -> str:
    """Return an error's text on one line; with its type if the text says too little."""
    text = " ".join(str(error).split())[:500]
    if isinstance(error, MemoryError):
        return text or "out of memory"
    plain = isinstance(error, (ValueError, RuntimeError, ImportError, OSError)) and text
    return text if plain else f"{type(error).__name__}: {text}"


# --- rows -----------------------------------------------------------------------------


def score_row(score: Score) -> Row:
    """Return a clip's score as it is stored; None for a missing number, with the reason `why`."""
    value, curve = finite_number(score.value[0]), score.frames
    why = score.why[0] or (
        None if value is not None else "unscored: the reward returned NaN or infinity"
    )
    return {
        "value": value,
        "curve": None if curve is None else [round_curve_value(finite_number(x)) for x in curve[0]],
        "why": why,
    }


def is_cacheable(row: Row, reward: Reward) -> bool:
    """Return whether a row may be cached: a number, or a reason that lies in the clip.

    A failed server or a full GPU is no property of the clip; such a row is measured again.
    """
    return (
        row["value"] is not None or str(row["why"]).startswith("inapplicable") or not reward.learned
    )


def unscored_row(why: str) -> Row:
    """Return the row of a dim without a number."""
    return {"value": None, "curve": None, "why": why}


def finite_number(x: Tensor) -> float | None:
    """Return the value as a float, None for NaN and infinity."""
    return float(x) if math.isfinite(x) else None


def round_curve_value(x: float | None) -> float | None:
    """Round to six digits: curves are only plotted, and are long.

    >>> round_curve_value(-0.051234567)
    -0.0512346
    """
    return None if x is None else float(f"{x:.6g}")


def read_reference(path: Path, protocol: Protocol, all_frames: bool) -> Tensor:
    """Read the frames of a reference: an image as it is; of a video all frames or the first.

    A video is read under the protocol.
    """
    if is_still(path):
        return read_image(path)
    clip = Clip(path, protocol)
    return clip.read() if all_frames else next(clip.pieces())[:1]
