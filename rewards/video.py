"""Reading and writing of video files: PyAV reads and writes them.

decord reads video files where PyAV is not installed, and OpenCV reads folders of pictures
as films. Shapes: F frames, H W pixels; frames are uint8 RGB, (F, 3, H, W).
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
PIECE = 32  # the most frames of a piece
BUDGET = 2**28  # the most bytes of a piece: large frames come in shorter pieces
LARGEST = 2**25  # the most pixels of a frame; 8K, 7680 x 4320, has a little less
STILL = 2.0  # grey levels of 255: pictures whose mean difference is smaller count as equal


class Source(Protocol):
    """The interface of the readers, which each open one file."""

    name: str
    size: tuple[int, int]
    times: list[float]
    tick: float  # the seconds to which the container rounds times
    stated: float  # the frames a second that the file states; 0 if it states none
    notes: list[str]

    def pieces(self, length: int) -> Iterator[Tensor]: ...


class Video:
    """An open video file, whose frames can be read whole or in pieces.

    `size` is (width, height), `frames` the number of frames, `times` their times in
    seconds, `fps` the frames a second, `reader` the name of the library that reads the
    file, and `notes` what a user should know about the file, for example that it is cut
    off.

    The frames are those that ffmpeg shows of the first video stream: the same number,
    order, times and orientation. PyAV opens the file; where PyAV is not installed, decord
    does, and refuses files that it does not read exactly. A folder of numbered pictures is
    a film of `fps` frames a second (8 if not given), and a single picture is a film of one
    frame.

    Raises FileNotFoundError, or Unreadable with the reason. A file whose frames are larger
    than 8K is refused before decoding.
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
        """Return the frames a second that the file states, if its time stamps agree.

        If the time stamps disagree, they decide. A file of one frame has the stated rate.
        """
        return _rate(self.times, self._source.stated, self._source.tick)

    def pieces(self, length: int = 0) -> Iterator[Tensor]:
        """Yield the frames in order, `length` at a time, so that memory is that of a piece.

        Length 0 means 32 frames, and fewer if they are large. Raises Unreadable in the
        middle of a broken file.
        """
        length = length or max(1, min(PIECE, BUDGET // (3 * self.size[0] * self.size[1])))
        try:
            yield from self._source.pieces(length)
        except Exception as error:  # PyAV, decord and OpenCV each raise different classes
            _raise_if_out_of_memory(error)
            raise Unreadable(f"{self.path} breaks off: {_brief(error)}") from error

    def read(self) -> Tensor:
        """Return all frames, uint8 (F, 3, H, W); raise MemoryError if they do not fit."""
        _check_room(3 * self.frames * self.size[0] * self.size[1], self.path)
        return torch.cat(list(self.pieces()))

    def even(self) -> Film:
        """Return the film as rewards measure it, with frames at equal distances in time.

        A file with a constant frame rate is returned as it is. A variable frame rate is
        resampled by the true times, see `_files.resampling`, and a note of the film says
        so. Of a film with a gap, the longest stretch is measured.
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
        """Return whether the pictures before and after a gap are equal, as in a held picture.

        The gap follows the frame whose place among the distinct times is `number`.
        """
        at = self.times.index(sorted(set(self.times))[number])
        first, second = islice((frame for piece in self.pieces(1) for frame in piece), at, at + 2)
        return bool((first.float() - second.float()).abs().mean() < STILL)


@dataclass(frozen=True)
class Film:
    """A film whose frames are at equal distances in time; rewards measure films.

    The fields are those of `Video`.
    """

    path: Path
    size: tuple[int, int]
    times: list[float]
    fps: float
    reader: str
    notes: list[str] = field(default_factory=list)
    pieces: Callable[..., Iterator[Tensor]] = field(default=lambda length=0: iter(()), repr=False)

    @property
    def frames(self) -> int:
        """Return the number of frames."""
        return len(self.times)

    def read(self) -> Tensor:
        """Return all frames, uint8 (F, 3, H, W); raise MemoryError if they do not fit."""
        _check_room(3 * self.frames * self.size[0] * self.size[1], self.path)
        return torch.cat(list(self.pieces()))


def read(path: str | os.PathLike[str]) -> tuple[Tensor, float]:
    """Return all frames of a file, uint8 (F, 3, H, W), and its frames a second."""
    video = Video(path)
    return video.read(), video.fps


def rate(times: list[float]) -> float | None:
    """Return the frames a second by time stamps, or None if these determine no rate.

    >>> rate([0.0, 0.125, 0.25]), rate([0.0])
    (8.0, None)
    """
    span = times[-1] - times[0] if times else 0.0
    if len(times) < 2 or not span > 0:
        return None
    # rates are fractions such as 30000 / 1001: this removes the rounding of time stamps
    return float(Fraction((len(times) - 1) / span).limit_denominator(1001))


def _rate(times: list[float], stated: float, tick: float) -> float:
    """Return the stated frames a second if the time stamps agree, else the rate by these.

    Time stamps agree if the length of the film differs by no more than their rounding,
    `tick`.

    >>> _rate([0.0, 0.063, 0.125, 0.188], stated=16.0, tick=0.001)
    16.0
    """
    found = rate(times)
    if found is None:
        return stated or 1.0
    span = times[-1] - times[0]
    agrees = stated > 0 and abs((len(times) - 1) / stated - span) <= 1.01 * tick
    return stated if agrees else found


# Opening


def _open(path: Path, fps: float | None) -> Source:
    """Return the reader of a file; raise Unreadable if the file is at fault."""
    try:
        if path.is_dir():
            return Pictures(path, _check_size, fps)
        return _reader(path)(path, _check_size)
    except Unreadable as error:
        raise Unreadable(f"expected a video, could not read {path}: {error}") from error
    except Exception as error:
        _raise_if_out_of_memory(error)
        if not type(error).__module__.startswith("av."):
            # errors of the operating system or of the installation explain themselves
            raise
        raise Unreadable(f"expected a video, could not read {path}: {_why(path)}") from error


def _reader(path: Path) -> Callable[[Path, Callable[[tuple[int, int]], None]], Source]:
    """Return the reader for the kind of file."""
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
    """Return why FFmpeg could not open a file.

    The file is of another kind, cut off, or of an unknown format.
    """
    cut = why_cut_off(path)
    return describe_other_file(path) or (
        f"it is cut off: {cut}" if cut else "it is of no known video format"
    )


def _raise_if_out_of_memory(error: Exception) -> None:
    """Raise MemoryError for an error that lack of memory caused, not the file."""
    if isinstance(error, MemoryError):
        raise error
    if is_out_of_memory(error):
        raise MemoryError from error


def _check_size(size: tuple[int, int]) -> None:
    """Raise Unreadable for frames that are empty or larger than 8K."""
    if not 0 < size[0] * size[1] <= LARGEST:
        raise Unreadable(
            f"expected frames of up to {LARGEST} pixels, got {size[0]} x {size[1]}: "
            "shrink them, or mend a broken header"
        )


def _check_room(needed: int, path: Path) -> None:
    """Raise TooLarge for a film that does not fit the memory, before it is decoded.

    Rewards hold the bytes and a copy in floats of four bytes: five times the bytes in all.
    """
    pages = getattr(os, "sysconf_names", {}).get("SC_PHYS_PAGES")
    if pages is not None and 5 * needed > (room := os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")):
        raise TooLarge(
            f"{path} needs {needed / 1e9:.0f} GB as a whole, this machine has {room / 1e9:.0f}, "
            "and rewards take five times as much: "
            "score it by rewards that take clips in pieces, or cut it"
        )


def _brief(error: BaseException) -> str:
    """Return the first line of an error's message; decord appends a stack of C++ frames."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


def _about(film: Video, stretch: list[float], wanted: list[float]) -> str:
    """Describe which stretch and times of a film of variable frame rate are measured."""
    # a measured time within 1 ms of a time of the file shows a frame of the file
    own = sum(min(abs(time - given) for given in stretch) < 1e-3 for time in wanted)
    frames = f"{len(wanted)} frames at {rate(wanted) or film.fps:g} a second, {own} of them its own"
    rest = "" if own == len(wanted) else ", the others moved along the flow"
    cut = (
        ""
        if len(stretch) == len(set(film.times))
        else (
            "; a gap without frames ends the stretch that is measured, "
            f"from {stretch[0]:.2f} to {stretch[-1]:.2f} s"
        )
    )
    return f"its frame rate varies: measured are {frames}{rest}{cut}"
