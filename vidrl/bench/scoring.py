"""The dims of one clip: on one decode and one flow, in pieces of constant memory, each row
kept as soon as it is there.

This is what runs in a worker process. It raises nothing that a clip or a reward is at fault
for: that becomes `why`.
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
from vidrl.rewards.compose import gathered, leaves
from vidrl.rewards.video import Unreadable

Row = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """A clip and, by the names of the dims that it still lacks, the keys that their rows
    are kept under."""

    item: Item
    keys: Mapping[str, str]


@dataclass
class Outcome:
    """What is known of a clip: its facts, a row a dim, or why it could not be read."""

    facts: Row = field(default_factory=dict)
    rows: dict[str, Row] = field(default_factory=dict)
    why: str | None = None


class Measurer:
    """Measures the dims that a task asks for, and keeps what is sure in the cache; rewards
    are built at first use."""

    def __init__(
        self,
        dims: Sequence[Dim],
        protocol: Protocol,
        cache: Path | None = None,
        device: str = "cpu",
    ) -> None:
        self.dims = {dim.name: dim for dim in dims}
        self.protocol, self.cache, self.device = (
            protocol,
            Cache(cache) if cache is not None else None,
            device,
        )
        self.rewards: dict[str, Reward | str] = {}  # or why it cannot be built

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
        # rewards' own errors are caught one by one
        except (OSError, Unreadable, MemoryError) as error:
            done.why = f"unreadable: {error or 'out of memory'}"
        return done

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"rewards": {}}

    def _measure(self, clip: Clip, task: Task, done: Outcome) -> None:
        built = {name: self._reward(name) for name in task.keys}
        done.rows |= {
            name: unscored_row(reward) for name, reward in built.items() if isinstance(reward, str)
        }
        rewards = {name: reward for name, reward in built.items() if isinstance(reward, Reward)}
        given = self._given(task.item, rewards, done)
        for group in decode_groups(
            {name: reward for name, reward in rewards.items() if name not in done.rows}
        ):
            for name, said in score_separately_on_error(
                group, lambda part: self._scores(clip, part, given)
            ).items():
                done.rows[name] = score_row(said) if isinstance(said, Score) else unscored_row(said)
                if (
                    self.cache is not None
                    and isinstance(said, Score)
                    and is_cacheable(done.rows[name], rewards[name])
                ):
                    self.cache.put(task.keys[name], {"dim": name, **done.facts, **done.rows[name]})

    def _reward(self, name: str) -> Reward | str:
        if name not in self.rewards:
            self.rewards[name] = build_reward(self.dims[name], self.device)
        return self.rewards[name]

    def _given(self, item: Item, rewards: Mapping[str, Reward], done: Outcome) -> Row:
        """What rewards get beside the pixels; those that read a reference which cannot be
        read have their reason."""
        readers = [name for name in rewards if self.dims[name].reads("reference")]
        whole = any(
            not leaf.streams for name in readers for leaf in leaves(name, rewards[name]).values()
        )
        reference = None
        if item.reference is not None and readers:
            try:
                reference = read_reference(item.reference, self.protocol, whole)[None].to(
                    self.device
                )
            except (OSError, ValueError, MemoryError) as error:
                done.rows |= {
                    name: unscored_row(f"unscored: its reference: {error}") for name in readers
                }
        return {"prompt": item.prompt, "reference": reference, "meta": item.meta}

    def _scores(self, clip: Clip, rewards: Mapping[str, Reward], given: Row) -> dict[str, Score]:
        """Scores of one clip, B = 1: in pieces where the rewards can, whole where one
        cannot."""
        with torch.no_grad():
            if all(
                leaf.streams
                for name, reward in rewards.items()
                for leaf in leaves(name, reward).values()
            ):
                return self._in_pieces(clip, rewards, given)
            meta = [given["meta"]] if given["meta"] else ()
            video = clip.read()[None].to(self.device)
            samples = Samples(video, [given["prompt"]], clip.fps, given["reference"], meta)
            return {name: reward(samples) for name, reward in rewards.items()}

    def _in_pieces(self, clip: Clip, rewards: Mapping[str, Reward], given: Row) -> dict[str, Score]:
        parts = {name: leaves(name, reward) for name, reward in rewards.items()}
        single, same = without_duplicate_rewards(
            {key: leaf for part in parts.values() for key, leaf in part.items()}
        )
        stream = Stream(single, clip.fps, given["prompt"], given["reference"], given["meta"])
        for piece in clip.pieces():
            stream.update(piece.to(self.device))
        found = stream.result()
        return {
            name: gathered(name, reward, {key: found[same[key]] for key in parts[name]})
            for name, reward in rewards.items()
        }


# --- rewards
# ---------------------------------------------------------------------------------------------------------


def build_reward(dim: Dim, device: str = "cpu") -> Reward | str:
    """The reward of a dim, or why there is none; one of a trained network is tried on a
    small clip, so that weights which are missing show at once, and not clip by clip."""
    try:
        reward = dim.build().to(device).eval()
        if any(leaf.learned for leaf in leaves(dim.name, reward).values()):
            with torch.no_grad():
                reward(trial_samples(device))
        return reward
    except Exception as error:  # noqa: BLE001  one dim's error must not end the others; its text is reported
        return f"unscored: {error_text(error)}"


def trial_samples(device: str = "cpu") -> Samples:
    """Four frames of noise with all that a reward may ask for."""
    video = torch.randint(
        0, 256, (1, 4, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    return Samples(video, ["a red circle moves left"], 8.0, video).to(device)


def without_duplicate_rewards(
    rewards: Mapping[str, Reward],
) -> tuple[dict[str, Reward], dict[str, str]]:
    """One of each kind, and for each name the one that stands for it: a composite's part
    may be a dim as well."""
    first: dict[Any, str] = {}
    same = {name: first.setdefault(_kind(reward) or name, name) for name, reward in rewards.items()}
    return {name: rewards[name] for name in dict.fromkeys(same.values())}, same


def _kind(reward: Reward) -> str | None:
    """A key that is equal for two rewards with equal results; None if that cannot be
    known."""
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
    """Those that take a clip in pieces, which share one decode and one flow; each of the
    others by itself."""
    streams = {
        name: all(leaf.streams for leaf in leaves(name, reward).values())
        for name, reward in rewards.items()
    }
    together = {name: reward for name, reward in rewards.items() if streams[name]}
    return [together] * bool(together) + [
        {name: rewards[name]} for name, can in streams.items() if not can
    ]


def score_separately_on_error(
    rewards: Mapping[str, Reward], score: Callable[[Mapping[str, Reward]], dict[str, Score]]
) -> dict[str, Score | str]:
    """The scores of rewards taken together; where one fails, of each alone, so that it
    spoils none of the others."""
    try:
        return {**score(rewards)}
    except Unreadable:
        raise
    except Exception as error:  # noqa: BLE001  a reward may raise anything; the error's text is reported
        if len(rewards) == 1:
            return {name: f"unscored: {error_text(error)}" for name in rewards}
        return {
            name: said
            for one in rewards
            for name, said in score_separately_on_error({one: rewards[one]}, score).items()
        }


def error_text(error: BaseException) -> str:
    """What an error says, on one line; errors that say nothing by themselves with their
    type."""
    text = " ".join(str(error).split())[:500]
    if isinstance(error, MemoryError):
        return text or "out of memory"
    plain = isinstance(error, (ValueError, RuntimeError, ImportError, OSError)) and text
    return text if plain else f"{type(error).__name__}: {text}"


# --- rows
# ------------------------------------------------------------------------------------------------------------


def score_row(score: Score) -> Row:
    """A clip's score as it is kept: a number that is not there is None, and `why` says the
    reason."""
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
    """Whether a row may be cached: a number, or a reason in the clip itself, not in a
    server or a GPU."""
    return (
        row["value"] is not None or str(row["why"]).startswith("inapplicable") or not reward.learned
    )


def unscored_row(why: str) -> Row:
    return {"value": None, "curve": None, "why": why}


def finite_number(x: Tensor) -> float | None:
    return float(x) if math.isfinite(x) else None


def round_curve_value(x: float | None) -> float | None:
    """Six digits: curves are to be looked at, and long.

    >>> round_curve_value(-0.051234567)
    -0.0512346
    """
    return None if x is None else float(f"{x:.6g}")


def read_reference(path: Path, protocol: Protocol, whole: bool) -> Tensor:
    """The frames of a reference: an image as it is; of a video, under the protocol, all or
    the first."""
    if is_still(path):
        return read_image(path)
    clip = Clip(path, protocol)
    return clip.read() if whole else next(clip.pieces())[:1]
