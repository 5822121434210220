"""The untouched clips of an audit are made here: synthetic scenes, and pieces of real videos."""

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
SHORTEST = 8


@dataclass(frozen=True)
class Clip:
    """A clip (F, C, H, W) in [0, 1] that has a prompt; `truth` is its scene, if it is synthetic.

    `source` names the video that the clip was cut from, because pieces of one video are not
    independent. "" for a clip that is its whole source.
    """

    name: str
    video: Tensor = field(repr=False)
    prompt: str = ""
    fps: float = 8.0
    truth: world.Clip | None = field(default=None, repr=False, compare=False)
    source: str = ""

    @property
    def origin(self) -> str:
        """Return the name of the video that the clip was cut from, or of the clip itself."""
        return self.source or self.name


@dataclass(frozen=True)
class Left:
    """A piece or a file that was left out of the audit, and why."""

    name: str
    why: str


def world_clips(
    count: int = 30, size: int = 64, frames: int = 17, fps: float = 8.0, seed: int = 0
) -> list[Clip]:
    """Render moving scenes that cover all motions, backgrounds, speeds, shapes and colours.

    The camera pans over every eighth scene.

    >>> len({clip.prompt for clip in world_clips(8, size=16)})
    8
    """
    if count < 1:
        raise ValueError(f"expected at least one clip, got {count}")
    return [rendered(scene(i), seed + i, size, frames, fps) for i in range(count)]


def scene(i: int) -> world.Scene:
    """Return scene `i` of the audit.

    56 neighbouring scenes contain every combination of motion, background and speed once.
    The multipliers below decouple the attributes: without them shape and background, say,
    would change together.
    """
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
    """Render a scene as a clip with its truth."""
    truth = world.render(scene, size, frames, fps, seed)
    return Clip(f"world {seed}: {truth.caption}", truth.video, truth.caption, fps, truth)


def file_clips(
    folder: str | os.PathLike[str],
    seconds: float = 2.0,
    side: int = 96,
    most: int = 4,
    limit: int = 64,
) -> tuple[list[Clip], list[Left]]:
    """Return pieces of the videos of a folder, and what was left out with the reasons.

    Args:
        folder: of videos; without videos, each image is a clip of one frame.
        seconds: about how long a piece lasts; it has 8 to 32 frames.
        side: to which the shorter side of a larger video is shrunk, pixels.
        most: pieces of one video, spread over its length.
        limit: pieces in all, because all stay in memory; further files are left out.

    A piece with a cut is left out: the hack `freeze` would repair the cut.
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
    """Yield pieces from the middles of `most` equal parts of a video."""
    video = files.Video(path)
    if video.frames == 1:
        yield Clip(path.name, shrunk(video.read(), side), "", video.fps, source=str(path))
        return
    length = max(SHORTEST, min(round(seconds * video.fps), LONGEST, video.frames))
    count = video.frames // length
    chosen = {int((i + 0.5) * count / min(most, count)) for i in range(min(most, count))}
    for i, piece in enumerate(video.pieces(length) if count else ()):
        if i in chosen and len(piece) == length:
            name = f"{path.name} from {i * length / video.fps:.1f} s"
            yield Clip(name, shrunk(piece, side), "", video.fps, source=str(path))


def shrunk(video: Tensor, side: int) -> Tensor:
    """Return a video of bytes as floats, its shorter side at most `side` and both sides even."""
    video, shorter = video.float() / 255, min(video.shape[-2:])
    if shorter <= side:
        return video
    size = [round(n * side / shorter / 2) * 2 for n in video.shape[-2:]]
    return interpolate(video, size, mode="bilinear", antialias=True, align_corners=False).clamp(
        0, 1
    )


def cut(video: Tensor) -> int | None:
    """Return the frame before which a clip is cut, or None.

    At a cut the picture changes far more than between any other two frames: by more than 8 %
    of full light, and by more than five times the median change.

    >>> import torch
    >>> cut(torch.cat([torch.zeros(4, 3, 32, 32), torch.ones(4, 3, 32, 32)]))
    4
    """
    small = interpolate(video, (16, 16), mode="area").mean(1)
    jump = small.diff(dim=0).abs().mean((1, 2))
    highest = int(jump.argmax()) if len(jump) else 0
    sure = len(jump) > 2 and jump[highest] > max(0.08, 5 * float(jump.median()))
    return highest + 1 if sure else None
