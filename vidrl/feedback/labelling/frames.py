"""Turn clips of any format into files of pictures that each browser shows frame by frame.

A browser plays few formats, stops on no exact frame, and does not keep two <video> elements in
step. So the page draws pictures: each frame is one JPEG without colour subsampling, or one PNG
where frames are small, and a browser decodes them in time. A file of frames is a header of
four bytes with the length of a JSON text, the JSON text, and the pictures one after the other.
The JSON has `type`, `width`, `height`, `times` in seconds, `seconds`, and `sizes` in bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidrl.rewards import video
from vidrl.rewards._files.atomic_file import new_file

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 1  # of the files of frames
LARGEST_SIDE = 1280  # pixels; larger frames are shown smaller
MOST_PIXELS = 400_000_000  # of all frames of a clip: 430 frames of 1280 x 720
MOST = 1800  # frames of a clip: a minute of 30 frames a second
SMALL = 160  # pixels: frames of up to this side are kept exactly, as PNG
QUALITY = 95  # of a JPEG: about 45 dB on real video
PIECE = 1 << 20  # bytes of one read


class Vanished(OSError):
    """A clip that is not there any more, or that cannot be read any more."""


@dataclass(frozen=True)
class Frames:
    """A clip as the page shows it: the file of frames, and the facts that a record keeps."""

    file: Path
    sha256: str  # of the clip's own bytes
    seconds: float
    note: str = ""  # where the page shows the clip smaller than it is

    @property
    def receipt(self) -> str:
        """Return what comes with the frames and goes back with an answer (see `receipt`)."""
        return receipt(self.sha256)


class FrameFolder:
    """The files of frames of one store; each clip is decoded once.

    A file is named by the SHA-256 of the clip's content, so that a changed clip gets a new one.
    Several threads may ask for clips at the same time; two never decode the same clip at once.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._locks: dict[Path, threading.Lock] = {}
        self._known: dict[tuple[Path, Any], Frames] = {}
        self._guard = threading.Lock()

    def of(self, clip: Path, home: Path) -> Frames:
        """Return the frames of a clip, decoded now or before.

        Raises Vanished if the clip cannot be read, or if one of its files lies outside the
        folder `home` by now, through a link.
        """
        with self._guard:
            lock = self._locks.setdefault(clip, threading.Lock())
        with lock:
            try:
                _check_inside(clip, home)
                state = _state(clip)
                found = self._known.get((clip, state))
                if found is None or not found.file.is_file():  # the file may be deleted any time
                    found = self._known[clip, state] = self._prepare(clip)
            except (OSError, video.Unreadable) as error:
                raise Vanished(f"{clip}: {error}") from error
            return found

    def _prepare(self, clip: Path) -> Frames:
        sha256 = content_hash(clip)
        file = self.folder / f"{sha256}.{VERSION}.frames"
        if not file.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            with new_file(file) as opened:
                opened.write(pack(clip))
        with open(file, "rb") as opened:
            about = json.loads(opened.read(int.from_bytes(opened.read(4), "big")))
        return Frames(file, sha256, about["seconds"], about["note"])


def receipt(sha256: str) -> str:
    """Return the receipt of a clip, which only a page that got the clip's frames can know.

    The page sends receipts back with an answer, so that no answer counts on clips that were not
    delivered. A receipt follows from the clip's content alone: a restarted server, and a frame
    that a browser kept, need no memory of the delivery. The hash itself stays on the server.

    >>> receipt("00") == receipt("00") != receipt("01"), len(receipt("00"))
    (True, 32)
    """
    return hashlib.sha256(f"delivered:{sha256}".encode()).hexdigest()[:32]


def _check_inside(clip: Path, home: Path) -> None:
    """Raise OSError if a file of a clip is a link that leads out of a folder."""
    for file in _files(clip):
        if not file.resolve().is_relative_to(home.resolve()):
            raise OSError(f"expected a file inside {home}, found a link to {file.resolve()}")


def _state(clip: Path) -> tuple[Any, ...]:
    """Return what changes when a file or a folder of pictures changes."""
    return tuple((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in _files(clip))


def _files(clip: Path) -> list[Path]:
    return sorted(file for file in clip.iterdir() if file.is_file()) if clip.is_dir() else [clip]


def content_hash(clip: Path) -> str:
    """Return the SHA-256 of a file's bytes, or of the names and bytes of a folder's pictures."""
    found = hashlib.sha256()
    for file in _files(clip):
        if clip.is_dir():
            found.update(f"{file.name}\0{file.stat().st_size}\0".encode())
        with open(file, "rb") as opened:
            while piece := opened.read(PIECE):
                found.update(piece)
    return found.hexdigest()


def pack(clip: Path) -> bytes:
    """Return a clip's file of frames; raise OSError or Unreadable if the clip cannot be read."""
    film = video.Video(clip)
    size = shown_size(film.size, min(film.frames, MOST))
    suffix = ".png" if max(size) <= SMALL else ".jpg"
    pictures = list(
        islice((one for piece in film.pieces() for one in _encoded(piece, size, suffix)), MOST)
    )
    times = [time - film.times[0] for time in film.times[: len(pictures)]]
    about = {
        "type": "image/png" if suffix == ".png" else "image/jpeg",
        "width": size[0],
        "height": size[1],
        "times": [round(time, 6) for time in times],
        "seconds": round(times[-1] + 1 / film.fps, 6),
        "sizes": [len(picture) for picture in pictures],
        "note": _note(film, size),
    }
    header = json.dumps(about, separators=(",", ":")).encode()
    return b"".join([len(header).to_bytes(4, "big"), header, *pictures])


def _note(film: video.Video, size: tuple[int, int]) -> str:
    """Say what the page does not show of a film, "" if it shows all."""
    smaller = f"shown at {size[0]} x {size[1]} of {film.size[0]} x {film.size[1]} pixels"
    shorter = f"shown are the first {MOST} of {film.frames} frames"
    found = [smaller] * (size != tuple(film.size)) + [shorter] * (film.frames > MOST)
    return "; ".join(found)


def shown_size(size: tuple[int, int], frames: int) -> tuple[int, int]:
    """Return the width and height at which the frames of a clip are shown.

    >>> shown_size((832, 480), 81), shown_size((3840, 2160), 100), shown_size((1280, 720), 1800)
    ((832, 480), (1280, 720), (629, 354))
    """
    width, height = size
    scale = min(
        1.0, LARGEST_SIDE / max(size), math.sqrt(MOST_PIXELS / max(1, frames * width * height))
    )
    return max(1, round(width * scale)), max(1, round(height * scale))


def _encoded(piece: Tensor, size: tuple[int, int], suffix: str) -> Iterator[bytes]:
    """Yield the frames of a piece (n, 3, H, W) as files of pictures."""
    import cv2

    full = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
    options = {
        ".jpg": [cv2.IMWRITE_JPEG_QUALITY, QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, full],
        ".png": [cv2.IMWRITE_PNG_COMPRESSION, 1],
    }
    for frame in piece.permute(0, 2, 3, 1).flip(-1).contiguous().numpy():
        shown = frame
        if frame.shape[1::-1] != size:
            shown = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
        yield cv2.imencode(suffix, shown, options[suffix])[1].tobytes()
