"""decord as a reader, where PyAV is not installed, for the files of which it gives the
frames that are shown.

decord 0.6 counts the frames that an edit list hides, gives copies for those that it cannot
decode, and misplaces frames in transport streams and in .avi files with frames that depend
on later ones. Such files are refused, with the cure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .containers import Unreadable, container_of, describe_other_file, why_cut_off
from .frame_times import usable_times

LONGEST = 1e9  # seconds: a time stamp beyond is none
CURE = "PyAV reads it: pip install av"


class Decord:
    """A file as decord reads it: `size` (width, height), `times` in seconds, `stated`
    frames a second, `notes`."""

    name = "decord"

    def __init__(self, path: Path, check: Callable[[tuple[int, int]], None]) -> None:
        self.notes, self.tick = list[str](), 0.0
        if container_of(path) not in ("mp4", "matroska", "avi"):
            raise Unreadable(
                describe_other_file(path)
                or f"decord alone does not read such a file exactly. {CURE}"
            )
        if (why := why_cut_off(path)) is not None:
            raise Unreadable(f"it is cut off: {why}. {CURE} up to there")
        self.reader = _opened(path)
        self.stated = float(self.reader.get_avg_fps())
        first = _first(self.reader)
        if first.shape[2] != 3:  # decord 0.6 takes the padding of some widths below 64 for channels
            raise Unreadable(
                f"decord reads frames of this width with {first.shape[2]} channels. {CURE}"
            )
        self.size = (first.shape[1], first.shape[0])
        check(self.size)
        self.times = self._times(container_of(path))
        self.tick = 1e-3 if container_of(path) == "matroska" else 0.0
        _check_mirror(path)
        self.reader.seek(0)

    def _times(self, container: str) -> list[float]:
        times = [float(t) for t in self.reader.get_frame_timestamp(range(len(self.reader)))[:, 0]]
        # of some .mkv it makes up stamps of 1e15 seconds
        if any(not abs(t) < LONGEST for t in times):
            raise Unreadable(f"decord reads time stamps that cannot be. {CURE}")
        keys = list(self.reader.get_key_indices())
        if times[0] < 0 or keys[:1] != [0] or container == "avi" and len(keys) != len(times):
            raise Unreadable(f"decord alone does not tell which of its frames are shown. {CURE}")
        times, told = usable_times(times, self.stated)
        self.notes += [told] if told else []
        return times

    def pieces(self, length: int) -> Iterator[Tensor]:
        """The frames in order, `length` at a time."""
        for start in range(0, len(self.times), length):
            batch = self.reader.get_batch(range(start, min(start + length, len(self.times))))
            # the bridge is process-wide
            array = batch.asnumpy() if hasattr(batch, "asnumpy") else np.asarray(batch)
            yield torch.from_numpy(array).permute(0, 3, 1, 2)


def _opened(path: Path) -> Any:
    _bind_png()
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    try:
        return decord.VideoReader(str(path.absolute()), num_threads=1, fault_tol=1)
    # its errors are RuntimeError and DECORDError, with a stack of C++ frames
    except Exception as error:
        raise Unreadable(f"decord finds no video stream that it can decode. {CURE}") from error


def _first(reader: Any) -> np.ndarray:
    """The first frame (H, W, 3): what cannot be decoded must show now."""
    try:
        return reader[0].asnumpy()
    except RuntimeError as error:
        raise Unreadable(f"decord finds no first frame. {CURE}") from error


@cache
def _bind_png() -> None:
    """Let OpenCV find its zlib, which it looks for at its first PNG: after decord it would
    find decord's, and fail."""
    import cv2

    cv2.imdecode(cv2.imencode(".png", np.zeros((1, 1, 3), np.uint8))[1], cv2.IMREAD_COLOR)


def _check_mirror(path: Path) -> None:
    """decord turns pictures by quarters, and mirrors none: the matrix of a track's head
    (tkhd) mirrors if its determinant is negative. Edit lists (elst) of several entries hide
    frames or repeat them."""
    if container_of(path) != "mp4":
        return
    for name, body in _boxes(path):
        if name == b"tkhd":
            matrix = np.frombuffer(body[-44:-8], ">i4").astype(float)
            if len(matrix) == 9 and matrix[0] * matrix[4] - matrix[1] * matrix[3] < 0:
                raise Unreadable(f"decord does not mirror pictures as this file asks for. {CURE}")
        if name == b"elst" and int.from_bytes(body[4:8], "big") > 1:
            raise Unreadable(f"decord does not follow the edit list of this file. {CURE}")


def _boxes(
    path: Path, names: tuple[bytes, ...] = (b"tkhd", b"elst")
) -> Iterator[tuple[bytes, bytes]]:
    """The boxes of these names in the index of an .mp4, each with its bytes after the
    length and the name."""
    with open(path, "rb") as file:
        at, size = 0, path.stat().st_size
        while at + 8 <= size:
            file.seek(at)
            head = file.read(16)
            length = int.from_bytes(head[:4], "big")
            length = int.from_bytes(head[8:16], "big") if length == 1 else length or size - at
            if head[4:8] == b"moov":
                file.seek(at)
                yield from _inside(file.read(length), names)
            if length < 8:
                return
            at += length


def _inside(data: bytes, names: tuple[bytes, ...]) -> Iterator[tuple[bytes, bytes]]:
    for name in names:
        at = data.find(name)
        while at >= 4:
            yield name, data[at + 4 : at - 4 + int.from_bytes(data[at - 4 : at], "big")]
            at = data.find(name, at + 4)
