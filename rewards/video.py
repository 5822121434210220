"""Video files in and out: PyAV reads and writes, decord reads where PyAV is not installed,
OpenCV films of pictures.

Shapes: F frames, H W pixels; frames are uint8 RGB, (F, 3, H, W).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ._files.containers import (
    Unreadable,
    container_of,
    describe_non_file,
    describe_other_file,
    is_animated,
    why_cut_off,
)
from ._files.decord_reader import Decord
from ._files.finding import SUFFIXES, find
from ._files.memory import TooLarge, is_out_of_memory
from ._files.pictures import Animation, Picture, Pictures, is_still
from ._files.reading import PyAV, import_av
from ._files.writing import suffix, write

__all__ = ["SUFFIXES", "Film", "Unreadable", "Video", "find", "rate", "read", "suffix", "write"]
PIECE = 32  # frames, at most
BUDGET = 2**28  # bytes of a piece: large frames come in shorter pieces
LARGEST = 2**25  # pixels of a frame: 8K, 7680 x 4320, has a little less
STILL = 2.0  # levels of 255: pictures that differ by less on the mean stand still


class Source(Protocol):
    """What a reader makes of a file."""

    name: str
    size: tuple[int, int]
    times: list[float]
    tick: float  # seconds to which the container rounds times
    stated: float  # frames a second, as the file says; 0 for nothing
    notes: list[str]

    def pieces(self, length: int) -> Iterator[Tensor]: ...


class Video:
    """An open video file: `size` (width, height), `frames`, `times` (seconds, one a frame),
    `fps`, `reader`, `notes`.

    Its frames are those that ffmpeg shows of its first video stream, in number, order, time
    and orientation. PyAV opens it; decord does where PyAV is not installed, and refuses the
    files that it does not read exactly. A folder of numbered pictures is a film of `fps`
    frames a second, 8 where none is given; a single picture is a film of one frame. `notes`
    say what to know of the file, as that it was cut off. Raises FileNotFoundError, or
    Unreadable with the reason; nothing is decoded of a file whose frames are larger than
    8K.
    """

    def __init__(self, path: str | os.PathLike[str], fps: float | None = None) -> None:
        self.path = Path(path)
        if fps is not None and not 0 < fps < math.inf:
            raise ValueError(f"expected fps, frames a second, to be a positive number, got {fps!r}")
        if not (self.path.is_file() or self.path.is_dir()):
            raise FileNotFoundError(
                f"expected a video file, found {describe_non_file(self.path)} at {self.path}"
            )
        self._source = _open(self.path, fps)
        self.reader, self.notes = self._source.name, self._source.notes
        self.size, self.times = self._source.size, self._source.times
        self.frames = len(self.times)

    @property
    def fps(self) -> float:
        """Frames a second: what the file states if its time stamps agree, else by these; of
        one frame, as stated."""
        return _rate(self.times, self._source.stated, self._source.tick)

    def pieces(self, length: int = 0) -> Iterator[Tensor]:
        """The frames in order, `length` at a time, so that memory is that of a piece.
        Raises Unreadable midway.

        0: 32, and fewer of large ones.
        """
        length = length or max(1, min(PIECE, BUDGET // (3 * self.size[0] * self.size[1])))
        try:
            yield from self._source.pieces(length)
        except Exception as error:  # each reader has errors of its own
            _raise_if_out_of_memory(error)
            raise Unreadable(f"{self.path} breaks off: {_brief(error)}") from error

    def read(self) -> Tensor:
        """All frames, uint8 (F, 3, H, W). Raises MemoryError where the machine cannot hold
        them."""
        _check_room(3 * self.frames * self.size[0] * self.size[1], self.path)
        return torch.cat(list(self.pieces()))

    def even(self) -> Film:
        """The film as it is measured, its frames equally far apart in time.

        Where the file's are, they are these. A variable frame rate is brought to an even
        one by true times, see `_resample`; what is done is a note of the film. A film with
        a gap is measured on its longest stretch.
        """
        from ._files import resampling

        times, tick = sorted(set(self.times)), self._source.tick
        if resampling.is_even(self.times, tick):
            return Film(
                self.path, self.size, self.times, self.fps, self.reader, self.notes, self.pieces
            )
        first, end = resampling.longest_stretch(times, self._stays)
        wanted = resampling.even_times(times[first:end], tick)
        notes = [*self.notes, _about(self, times[first:end], wanted)]
        return Film(
            self.path,
            self.size,
            wanted,
            rate(wanted) or self.fps,
            self.reader,
            notes,
            lambda length=0: resampling.resample(self.pieces(length), self.times, wanted),
        )

    def _stays(self, number: int) -> bool:
        """Whether the picture after a gap looks as the one before; `number` counts
        different times."""
        at = self.times.index(sorted(set(self.times))[number])
        first, second = islice((frame for piece in self.pieces(1) for frame in piece), at, at + 2)
        return bool((first.float() - second.float()).abs().mean() < STILL)


@dataclass(frozen=True)
class Film:
    """Frames equally far apart in time: what rewards measure of a file. Its fields are
    those of Video."""

    path: Path
    size: tuple[int, int]
    times: list[float]
    fps: float
    reader: str
    notes: list[str] = field(default_factory=list)
    pieces: Callable[..., Iterator[Tensor]] = field(default=lambda length=0: iter(()), repr=False)

    @property
    def frames(self) -> int:
        """How many."""
        return len(self.times)

    def read(self) -> Tensor:
        """All frames, uint8 (F, 3, H, W). Raises MemoryError where the machine cannot hold
        them."""
        _check_room(3 * self.frames * self.size[0] * self.size[1], self.path)
        return torch.cat(list(self.pieces()))


def read(path: str | os.PathLike[str]) -> tuple[Tensor, float]:
    """All frames of a file, uint8 (F, 3, H, W), and its frames a second."""
    video = Video(path)
    return video.read(), video.fps


def rate(times: list[float]) -> float | None:
    """Frames a second by their time stamps; None where they do not tell.

    >>> rate([0.0, 0.125, 0.25]), rate([0.0])
    (8.0, None)
    """
    span = times[-1] - times[0] if times else 0.0
    if len(times) < 2 or not span > 0:
        return None
    return float(Fraction((len(times) - 1) / span).limit_denominator(1001))


def _rate(times: list[float], stated: float, tick: float) -> float:
    """Frames a second: as stated where all frames but for the rounding of times last so
    long, else by the times.

    >>> _rate([0.0, 0.063, 0.125, 0.188], stated=16.0, tick=0.001)
    16.0
    """
    found = rate(times)
    if found is None:
        return stated or 1.0
    span = times[-1] - times[0]
    agrees = stated > 0 and abs((len(times) - 1) / stated - span) <= 1.01 * tick
    return stated if agrees else found


# --- opening
# ---------------------------------------------------------------------------------------------------------


def _open(path: Path, fps: float | None) -> Source:
    """The reader of a file. What is wrong with the file becomes Unreadable, with a reason
    in words."""
    try:
        if path.is_dir():
            return Pictures(path, _check_size, fps)
        return _reader(path)(path, _check_size)
    except Unreadable as error:
        raise Unreadable(f"expected a video, could not read {path}: {error}") from error
    except Exception as error:
        _raise_if_out_of_memory(error)
        if not type(error).__module__.startswith("av."):
            raise  # of the operating system or the installation, which say what is wrong
        raise Unreadable(f"expected a video, could not read {path}: {_why(path)}") from error


def _reader(path: Path) -> Callable[[Path, Callable[[tuple[int, int]], None]], Source]:
    if is_still(path):
        return Picture
    if container_of(path) == "webp" and is_animated(path):
        return Animation
    try:
        import_av()
    except ImportError:
        return Decord
    return PyAV


def _why(path: Path) -> str:
    """What FFmpeg could not open is something else, or was cut off, or is of no known
    format."""
    cut = why_cut_off(path)
    return describe_other_file(path) or (
        f"it is cut off: {cut}" if cut else "it is of no known video format"
    )


def _raise_if_out_of_memory(error: Exception) -> None:
    """Raise MemoryError for an error from lack of memory, which is no fault of the file."""
    if isinstance(error, MemoryError):
        raise error
    if is_out_of_memory(error):
        raise MemoryError from error


def _check_size(size: tuple[int, int]) -> None:
    if not 0 < size[0] * size[1] <= LARGEST:
        raise Unreadable(
            f"expected frames of up to {LARGEST} pixels, got {size[0]} x {size[1]}: shrink them, or mend "
            "a broken header"
        )


def _check_room(needed: int, path: Path) -> None:
    """Refuse what does not fit, before it is decoded; rewards hold the bytes, and the same
    as floats of four bytes."""
    pages = getattr(os, "sysconf_names", {}).get("SC_PHYS_PAGES")
    if pages is not None and 5 * needed > (room := os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")):
        raise TooLarge(
            f"{path} needs {needed / 1e9:.0f} GB as a whole, this machine has {room / 1e9:.0f}, and "
            "rewards take five times as much: score it by rewards that take clips in pieces, or cut it"
        )


def _brief(error: BaseException) -> str:
    """The first line of a message; decord appends a stack of C++ frames."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


def _about(film: Video, stretch: list[float], wanted: list[float]) -> str:
    """What is measured of a film whose frames are not equally far apart."""
    own = sum(min(abs(time - one) for one in stretch) < 1e-3 for time in wanted)
    made = f"{len(wanted)} frames at {rate(wanted) or film.fps:g} a second, {own} of them its own"
    rest = "" if own == len(wanted) else ", the others moved along the flow"
    cut = (
        ""
        if len(stretch) == len(set(film.times))
        else (
            f"; a gap without frames ends the stretch that is measured, from {stretch[0]:.2f} to {stretch[-1]:.2f} s"
        )
    )
    return f"its frame rate varies: measured are {made}{rest}{cut}"
