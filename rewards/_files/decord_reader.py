"""Read videos with decord, for machines without PyAV.

decord 0.6 counts frames that an edit list hides, returns copies in place of frames that it
cannot decode, and misplaces frames in transport streams and in .avi files with frames that
depend on later frames. Such files are refused, with the cure.
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

LONGEST = 1e9  # seconds: a larger time stamp is a fault of the reader
CURE = "PyAV reads it: pip install av"


class Decord:
    """A file that decord reads: its `size`, `times`, `stated` rate and `notes`.

    `size` is (width, height), `times` are in seconds, `stated` is the frame rate that the
    file states. `check` is called with the size and raises if it is too large.
    """

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
        """Return the frames' times; raise Unreadable if decord cannot tell which are shown."""
        times = [float(t) for t in self.reader.get_frame_timestamp(range(len(self.reader)))[:, 0]]
        # decord invents stamps of 1e15 seconds for some .mkv files.
        if any(not abs(t) < LONGEST for t in times):
            raise Unreadable(f"decord reads time stamps that cannot be. {CURE}")
        keys = list(self.reader.get_key_indices())
        if times[0] < 0 or keys[:1] != [0] or container == "avi" and len(keys) != len(times):
            raise Unreadable(f"decord alone does not tell which of its frames are shown. {CURE}")
        times, note = usable_times(times, self.stated)
        self.notes += [note] if note else []
        return times

    def pieces(self, length: int) -> Iterator[Tensor]:
        """Yield the frames in order, `length` at a time."""
        for start in range(0, len(self.times), length):
            batch = self.reader.get_batch(range(start, min(start + length, len(self.times))))
            # Other code may have set decord's process-wide bridge, which changes the type.
            array = batch.asnumpy() if hasattr(batch, "asnumpy") else np.asarray(batch)
            yield torch.from_numpy(array).permute(0, 3, 1, 2)


def _opened(path: Path) -> Any:
    """Open a file with decord; raise Unreadable without a video stream."""
    _bind_png()
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    try:
        return decord.VideoReader(str(path.absolute()), num_threads=1, fault_tol=1)
    # decord raises RuntimeError or DECORDError, with a stack of C++ frames in the message.
    except Exception as error:
        raise Unreadable(f"decord finds no video stream that it can decode. {CURE}") from error


def _first(reader: Any) -> np.ndarray:
    """Return the first frame (H, W, 3), so that a file that cannot be decoded fails at once."""
    try:
        return reader[0].asnumpy()
    except RuntimeError as error:
        raise Unreadable(f"decord finds no first frame. {CURE}") from error


@cache
def _bind_png() -> None:
    """Load OpenCV's zlib before decord's by writing a PNG.

    OpenCV looks for zlib at its first PNG. After decord has been loaded it would find
    decord's zlib, and fail.
    """
    import cv2

    cv2.imdecode(cv2.imencode(".png", np.zeros((1, 1, 3), np.uint8))[1], cv2.IMREAD_COLOR)


def _check_mirror(path: Path) -> None:
    """Raise Unreadable for mirrored pictures and for edit lists of several entries.

    decord turns pictures by quarters but mirrors none: the matrix in a track's header
    (tkhd) mirrors if its determinant is negative. Edit lists (elst) of several entries hide
    or repeat frames.
    """
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
    """Yield the boxes of these names in the index of an .mp4, each with its content."""
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
    """Yield the boxes of these names in the bytes of an index."""
    for name in names:
        at = data.find(name)
        while at >= 4:
            yield name, data[at + 4 : at - 4 + int.from_bytes(data[at - 4 : at], "big")]
            at = data.find(name, at + 4)
