"""Score video files, folders and tensors: one row a clip, and no clip is left out."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._scoring.left_out import left_out
from .._scoring.long_clips import Stream
from .._scoring.plain import as_reward
from ..base import Reward, Samples, Score
from ..compose import leaves, score_from_leaves
from ..video import Film, Unreadable, Video, find
from .memory import MEMORY, is_out_of_memory, out_of_memory_reason
from .pictures import numbered_pictures

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


def score(
    clips: Tensor | Paths,
    reward: Reward,
    prompts: list[str] | None = None,
    fps: float | None = None,
) -> list[dict[str, Any]]:
    """Score files, folders or a tensor (B, F, C, H, W) with its `fps`; return one row a clip.

    The rows are those of `score_files`. `prompts` are one a clip of a tensor, or one a
    file. Raises ValueError for a tensor without `fps`.

    >>> from vidrl.rewards.flicker import Flicker
    >>> score(torch.full((2, 5, 3, 32, 32), 0.5), Flicker(), fps=8.0)[0]["frames"]
    5
    """
    if not isinstance(clips, Tensor):
        listed = [clips] if isinstance(clips, (str, os.PathLike)) else list(clips)
        files = list(find(listed))
        asked = dict(zip(map(str, files), prompts, strict=True)) if prompts is not None else None
        return list(score_files(files, {"reward": reward}, asked))
    if fps is None:
        raise ValueError(
            "expected fps, frames a second, with a tensor, got none: score(video, reward, fps=8.0)"
        )
    result = as_reward(reward)(
        Samples(clips, prompts if prompts is not None else [""] * len(clips), fps)
    )
    size = [clips.shape[-1], clips.shape[-2]]
    facts = {"path": None, "fps": float(fps), "size": size, "frames": clips.shape[1], "note": None}
    return [row(facts, {"reward": result}, i) for i in range(len(clips))]


def score_files(
    paths: Iterable[str | os.PathLike[str]],
    rewards: Mapping[str, Reward],
    prompts: Mapping[str, str] | None = None,
    jobs: int = 0,
    timeout: float | None = None,
    memory: int | None = MEMORY,
    fps: float | None = None,
) -> Iterator[dict[str, Any]]:
    """Score files and the videos in folders, in pieces of constant memory; yield one row a clip.

    A row is `{"path", "fps", "size": [width, height], "frames", "value": {reward: number},
    "parts": {reward: {part: number}}, "curve": {reward: [a number a frame]}, "note",
    "why"}`. A missing number is None, and `why` is the reason or None. `note` is a remark
    or None: that the file is cut off, that its frame rate varies, or that a composite
    leaves parts out of an image. A file that cannot be read is a row with its reason. All
    rewards of a row share one optical flow. `prompts` maps paths to prompts. `fps` is the
    rate of folders of numbered pictures, 8 by default.

    `jobs` processes of one thread each score in the same order. A file that crashes its
    process or takes longer than `timeout` seconds is a row with its reason, and so is a
    file that needs more than `memory` bytes (4 GiB) in addition to what its process has
    when it is ready; the other files go on. Only Linux enforces the limit of memory, and it
    is not used for rewards of trained networks, whose weights are large. `jobs=0` scores in
    this process, without a limit of time or memory.
    """
    rewards = {name: as_reward(reward, name) for name, reward in rewards.items()}
    asked = ((path, (prompts or {}).get(str(path), "")) for path in find(paths))
    if jobs == 0:
        yield from (_score_file(path_and_prompt, rewards, fps) for path_and_prompt in asked)
        return
    from .workers import map_in_processes

    learned = any(
        leaf.learned for name, reward in rewards.items() for leaf in leaves(name, reward).values()
    )
    work = partial(_score_file, rewards=dict(rewards), fps=fps)
    for done in map_in_processes(work, asked, jobs, timeout, None if learned else memory):
        facts = _unknown(done.task[0])
        yield done.result if done.why is None else _lost(facts, rewards, f"unreadable: {done.why}")


def row(
    facts: Mapping[str, Any], scores: Mapping[str, Score], i: int, whole: str | None = None
) -> dict[str, Any]:
    """Return clip `i` of scores as a row; `whole` is a reason that holds for all rewards."""
    reasons = [
        f"{name}: {s.why[i]}" if len(scores) > 1 else s.why[i]
        for name, s in scores.items()
        if s.why[i]
    ]
    left = [
        f"{name}: {', '.join(out)} need more frames than an image has, and are left out"
        for name, s in scores.items()
        if not s.why[i] and (out := left_out(s))
    ]
    return {
        **facts,
        "note": "; ".join([*filter(None, [facts.get("note")]), *left]) or None,
        "value": {name: _number(s.value[i]) for name, s in scores.items()},
        "parts": {
            name: {part: _number(p.value[i]) for part, p in s.parts.items()}
            for name, s in scores.items()
        },
        "curve": {
            name: None if s.frames is None else [_number(x) for x in s.frames[i]]
            for name, s in scores.items()
        },
        "why": whole or ("; ".join(str(r) for r in reasons) or None),
    }


def _score_file(
    asked: tuple[Path, str], rewards: Mapping[str, Reward], fps: float | None = None
) -> dict[str, Any]:
    """Score one file and return its row, with a reason if it cannot be read or scored."""
    path, prompt = asked
    facts = _unknown(path)
    try:
        video = _opened(path, fps)
        facts |= {
            "fps": video.fps,
            "size": list(video.size),
            "frames": video.frames,
            "note": "; ".join(video.notes) or None,
        }
        return row(facts, _stream(video, rewards, prompt), 0)
    except (_NoFile, Unreadable) as error:
        return _lost(facts, rewards, f"unreadable: {error}")
    # Rewards raise ValueError for clips that they cannot score. Any other error, such as missing
    # weights, is a fault of the set-up and is raised.
    except ValueError as error:
        return _lost(facts, rewards, f"unscored: {error}")
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return _lost(facts, rewards, f"unreadable: {out_of_memory_reason(error)}")


def _unknown(path: Path) -> dict[str, Any]:
    """Return the facts of a row whose file is not read yet."""
    return {"path": str(path), "fps": None, "size": None, "frames": None, "note": None}


class _NoFile(Exception):
    """A path that cannot be opened; an OSError of a reward is no fault of the file."""


def _opened(path: Path, fps: float | None) -> Film:
    """Open a file as a film with even frame times; raise _NoFile if it cannot be opened."""
    try:
        if path.is_dir() and not numbered_pictures(path):
            raise FileNotFoundError(f"expected videos in the folder {path}, found none")
        return Video(path, fps).even()
    except OSError as error:
        raise _NoFile(str(error)) from error


def _lost(facts: Mapping[str, Any], rewards: Mapping[str, Reward], why: str) -> dict[str, Any]:
    """Return the row of a file that has no scores, with the reason `why`."""
    return row(facts, {name: _none(reward) for name, reward in rewards.items()}, 0, why)


def _stream(video: Film, rewards: Mapping[str, Reward], prompt: str) -> dict[str, Score]:
    """Score one clip, B = 1: in pieces if all rewards can, else as a whole."""
    single = {
        key: leaf for name, reward in rewards.items() for key, leaf in leaves(name, reward).items()
    }
    if any(not leaf.streams for leaf in single.values()):
        samples = Samples(video.read()[None], [prompt], video.fps)
        return {name: reward(samples) for name, reward in rewards.items()}
    stream = Stream(single, video.fps, prompt)
    for piece in video.pieces():
        stream.update(piece)
    found = stream.result()
    return {name: score_from_leaves(name, reward, found) for name, reward in rewards.items()}


def _none(reward: Reward) -> Score:
    """Return a score of NaN for one clip."""
    return Score(torch.full((1,), math.nan), None, reward.time_support)


def _number(x: Tensor) -> float | None:
    """Return a finite number, else None, which JSON can hold."""
    return float(x) if math.isfinite(x) else None
