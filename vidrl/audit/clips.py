"""The clips an audit starts from: scenes of `vidrl.synthetic.world`, and pieces of real
videos."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor
from torch.nn.functional import interpolate

from vidrl.rewards import video as files
from vidrl.synthetic import world

MOVING = [motion for motion in world.MOTIONS if motion != "rest"]
LONGEST = 32  # frames of a piece


@dataclass(frozen=True)
class Clip:
    """One clip (F, C, H, W) in [0, 1] with its prompt; `truth` is the scene behind it,
    where there is one.

    `source` names the video that it is a piece of, because pieces of one video are not
    independent; "" for a clip that is all of its source.
    """

    name: str
    video: Tensor = field(repr=False)
    prompt: str = ""
    fps: float = 8.0
    truth: world.Clip | None = field(default=None, repr=False, compare=False)
    source: str = ""

    @property
    def origin(self) -> str:
        """The name of what the clip is from: its video, or itself."""
        return self.source or self.name


@dataclass(frozen=True)
class Left:
    """A piece or a file that is no clip of the audit, and why."""

    name: str
    why: str


def world_clips(
    count: int = 30, size: int = 64, frames: int = 17, fps: float = 8.0, seed: int = 0
) -> list[Clip]:
    """Moving scenes over all motions, backgrounds, speeds, shapes and colours; every eighth
    is panned over.

    >>> len({clip.prompt for clip in world_clips(8, size=16)})
    8
    """
    if count < 1:
        raise ValueError(f"expected at least one clip, got {count}")
    return [rendered(scene(i), seed + i, size, frames, fps) for i in range(count)]


def scene(i: int) -> world.Scene:
    """Scene `i` of the audit: 56 in a row meet every motion, background and speed once."""
    colours, speeds = list(world.COLOURS), list(world.SPEEDS)
    camera = ("left", "right")[i // 8 % 2] if i % 8 == 7 else "static"
    return world.Scene(
        world.SHAPES[(i + i // 4) % 4],
        colours[(5 * i + i // 6) % 6],
        MOVING[i % 7],
        speeds[(i // 7 + i // 28) % 2],
        world.BACKGROUNDS[i % 4],
        camera,
    )


def rendered(scene: world.Scene, seed: int, size: int, frames: int, fps: float) -> Clip:
    """A scene as a clip with its truth."""
    made = world.render(scene, size, frames, fps, seed)
    return Clip(f"world {seed}: {made.caption}", made.video, made.caption, fps, made)


def file_clips(
    folder: str | os.PathLike[str],
    seconds: float = 2.0,
    side: int = 96,
    most: int = 4,
    limit: int = 64,
) -> tuple[list[Clip], list[Left]]:
    """Up to `most` pieces of each video of a folder, spread over its length, and what is
    left out and why.

    Once there are `limit` pieces, which all stay in memory, the other files are left out.

    A piece lasts about `seconds`, at most 32 frames, with its shorter side shrunk to at
    most `side`. One that holds a cut is left out: freezing it would mend it. Of a folder
    without videos, each image is a clip of one frame.
    """
    found: list[Clip] = []
    left: list[Left] = []
    for path in files.find([folder]):
        if len(found) >= limit:
            left.append(Left(str(path), f"{limit} clips are enough"))
            continue
        try:
            pieces = list(_pieces(path, seconds, side, most))
        except (OSError, ValueError) as error:
            left.append(Left(str(path), f"unreadable: {error}"))
            continue
        cuts = [cut(piece.video) for piece in pieces]
        found += [piece for piece, at in zip(pieces, cuts, strict=True) if at is None]
        left += [
            Left(piece.name, f"holds a cut at its frame {at}")
            for piece, at in zip(pieces, cuts, strict=True)
            if at is not None
        ]
        left += [] if pieces else [Left(str(path), "shorter than 8 frames")]
    return found, left


def _pieces(path: Path, seconds: float, side: int, most: int) -> Iterator[Clip]:
    video = files.Video(path)
    if video.frames == 1:
        yield Clip(path.name, shrunk(video.read(), side), "", video.fps, source=str(path))
        return
    length = max(8, min(round(seconds * video.fps), LONGEST, video.frames))
    count = video.frames // length
    chosen = {int((i + 0.5) * count / min(most, count)) for i in range(min(most, count))}
    for i, piece in enumerate(video.pieces(length) if count else ()):
        if i in chosen and len(piece) == length:
            name = f"{path.name} from {i * length / video.fps:.1f} s"
            yield Clip(name, shrunk(piece, side), "", video.fps, source=str(path))


def shrunk(video: Tensor, side: int) -> Tensor:
    """As float with the shorter side at most `side`; sides even."""
    video, shorter = video.float() / 255, min(video.shape[-2:])
    if shorter <= side:
        return video
    size = [round(n * side / shorter / 2) * 2 for n in video.shape[-2:]]
    return interpolate(video, size, mode="bilinear", antialias=True, align_corners=False).clamp(
        0, 1
    )


def cut(video: Tensor) -> int | None:
    """The frame before which a clip is cut: its light moves far more there than at any time
    else.

    >>> import torch
    >>> cut(torch.cat([torch.zeros(4, 3, 32, 32), torch.ones(4, 3, 32, 32)]))
    4
    """
    small = interpolate(video, (16, 16), mode="area").mean(1)
    jump = small.diff(dim=0).abs().mean((1, 2))
    highest = int(jump.argmax()) if len(jump) else 0
    sure = len(jump) > 2 and jump[highest] > max(0.08, 5 * float(jump.median()))
    return highest + 1 if sure else None
