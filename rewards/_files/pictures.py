"""Read films that are pictures: an animated WebP, or a folder of numbered pictures.

Shapes: F frames, H W pixels; frames are uint8 (F, 3, H, W). OpenCV decodes the pictures.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .containers import Unreadable, is_animated, why_cut_off

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
# Suffixes of files that may be in a folder of numbered pictures without changing its meaning.
BESIDE = (".txt", ".md", ".json", ".jsonl", ".csv", ".tsv", ".db", ".ini")
RATE = 8.0  # frames a second of numbered pictures, if the caller gives no rate


class Animation:
    """An animated WebP that is read as a film: `size`, `times`, `stated` rate and `notes`.

    `size` is (width, height), `times` are in seconds. `check` is called with the size and
    raises if it is too large.
    """

    name = "opencv"

    def __init__(self, path: Path, check: Callable[[tuple[int, int]], None]) -> None:
        import cv2

        if not hasattr(cv2, "imdecodeanimation"):
            raise Unreadable(f"an animated WebP needs OpenCV 4.11, this is {cv2.__version__}")
        self.data = np.fromfile(path, np.uint8)
        self.size, durations = _webp(self.data.tobytes())
        check(self.size)
        # OpenCV's decoder returns no frame at all of a file that is cut off.
        if (why := why_cut_off(path)) is not None:
            raise Unreadable(f"it is cut off after {sum(durations) / 1000:.1f} s: {why}")
        self.times = [start / 1000 for start in accumulate(durations[:-1], initial=0)]
        self.stated, self.tick = 0.0, 1e-3
        self.notes = list[str]()

    def pieces(self, length: int) -> Iterator[Tensor]:
        """Yield the frames in order, `length` at a time.

        Each piece is decoded from the start of the file, because OpenCV keeps no decoder
        between calls; only the piece is kept in memory.
        """
        import cv2

        for start in range(0, len(self.times), length):
            done, found = cv2.imdecodeanimation(
                self.data, start, min(length, len(self.times) - start)
            )
            if not done:
                raise Unreadable(f"frame {start} and those after it cannot be decoded")
            yield _tensor([picture[..., 2::-1] for picture in found.frames])


class Picture:
    """A file of one picture that is read as a film of one frame."""

    name = "opencv"

    def __init__(self, path: Path, check: Callable[[tuple[int, int]], None]) -> None:
        self.path, self.check = path, check
        found = read_picture(path, check)
        self.size = (found.shape[1], found.shape[0])
        self.times, self.notes = [0.0], list[str]()
        self.stated, self.tick = 1.0, 0.0

    def pieces(self, length: int) -> Iterator[Tensor]:
        """Yield the frame."""
        yield _tensor([read_picture(self.path, self.check)])


class Pictures:
    """A folder of numbered pictures that is read as one film of `fps` frames a second."""

    name = "opencv"

    def __init__(
        self, path: Path, check: Callable[[tuple[int, int]], None], fps: float | None = None
    ) -> None:
        self.files = numbered_pictures(path)
        if not self.files:
            raise Unreadable(
                "it is a folder, and holds other things than numbered pictures of one film"
            )
        self.stated, self.tick = fps or RATE, 0.0
        first = read_picture(self.files[0], check)
        self.size = (first.shape[1], first.shape[0])
        self.times = [i / self.stated for i in range(len(self.files))]
        origin = "as asked for" if fps else "as nothing says otherwise"
        self.notes = [
            f"{len(self.files)} numbered pictures are one film of {self.stated:g} frames a second, "
            f"{origin}; single images are named one by one, as FOLDER/*.png, or by a "
            "prompts.csv beside them"
        ]
        missing = [last for first, last in pairwise(map(_number, self.files)) if last != first + 1]
        if missing:
            self.notes.append(f"pictures are missing before number {missing[0]}")
        self.check = check

    def pieces(self, length: int) -> Iterator[Tensor]:
        """Yield the frames in order, `length` at a time; raise Unreadable for another size."""
        for start in range(0, len(self.files), length):
            yield _tensor([self._picture(file) for file in self.files[start : start + length]])

    def _picture(self, file: Path) -> np.ndarray:
        """Read one picture and check that its size is that of the film."""
        found = read_picture(file, self.check)
        if found.shape[1::-1] != self.size:
            raise Unreadable(
                f"{file.name} is {found.shape[1]} x {found.shape[0]}, and the first picture "
                f"{self.size[0]} x {self.size[1]}: one film has one size"
            )
        return found


def is_still(path: Path) -> bool:
    """Return whether a file is one picture: an image suffix, and no animated .png or .webp."""
    return path.suffix.lower() in IMAGES and not (path.is_file() and is_animated(path))


def numbered_pictures(folder: Path) -> list[Path]:
    """Return the pictures of a folder in order of number if they are one film, else nothing.

    A folder is a film if it holds only pictures of one name and suffix that end in
    different numbers, two or more. Hidden files, texts and tables, and files that Windows
    adds (Thumbs.db, desktop.ini) are ignored. Pictures that a table of prompts in the
    folder names one by one are images, and no film.
    """
    files = [file for file in folder.iterdir() if not file.name.startswith(".")]
    files = [file for file in files if file.suffix.lower() not in BESIDE]
    alike = {(file.suffix, re.sub(r"\d+$", "", file.stem)) for file in files}
    sound = (
        len(files) > 1 and len(alike) == 1 and all(re.search(r"\d$", file.stem) for file in files)
    )
    if (
        not sound
        or files[0].suffix.lower() not in IMAGES
        or not all(file.is_file() for file in files)
    ):
        return []
    ordered = sorted(files, key=_number)
    if _listed_in_table(folder, ordered[0].name):
        return []
    return ordered if len(set(map(_number, ordered))) == len(ordered) else []


def _listed_in_table(folder: Path, name: str) -> bool:
    """Return whether a table of prompts in the folder names a picture, as `vidrl sample` writes."""
    tables = [folder / f"prompts{suffix}" for suffix in (".csv", ".jsonl", ".tsv", ".json")]
    return any(name.encode() in table.read_bytes() for table in tables if table.is_file())


def read_picture(path: Path, check: Callable[[tuple[int, int]], None]) -> np.ndarray:
    """Return a picture as uint8 RGB (H, W, 3); raise FileNotFoundError or Unreadable."""
    import cv2

    if not path.is_file():
        raise FileNotFoundError(f"expected a picture, found none at {path}")
    found = (
        cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR) if path.stat().st_size else None
    )
    if found is None:
        raise Unreadable(f"expected a picture, could not read {path}")
    check((found.shape[1], found.shape[0]))
    return np.ascontiguousarray(found[..., ::-1])


def _number(file: Path) -> int:
    """Return the number at the end of a file's stem."""
    # `numbered_pictures` has checked that there is a number.
    return int(re.search(r"\d+$", file.stem)[0])  # type: ignore[index]


def _tensor(pictures: list[Any]) -> Tensor:
    """Stack pictures (H, W, 3) into a tensor (F, 3, H, W)."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def _webp(data: bytes) -> tuple[tuple[int, int], list[int]]:
    """Return the canvas size and each frame's duration in ms, from the chunks VP8X and ANMF."""
    size, durations = (0, 0), list[int]()
    at = 12  # after RIFF, the length and WEBP
    while at + 8 <= len(data):
        name, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        body = data[at + 8 : at + 8 + min(length, 24)]
        if name == b"VP8X":
            size = (
                1 + int.from_bytes(body[4:7], "little"),
                1 + int.from_bytes(body[7:10], "little"),
            )
        if name == b"ANMF" and at + 8 + length <= len(data):
            durations.append(int.from_bytes(body[12:15], "little"))
        at += 8 + length + length % 2
    if not durations:
        raise Unreadable("no frame of the animation is there")
    return size, durations
