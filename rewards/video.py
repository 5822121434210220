"""Video files in and out: decord reads, PyAV where decord cannot, PyAV writes; and scores of whole folders.

Shapes: F frames, H W pixels; frames are uint8 RGB, (F, 3, H, W).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidrl.extras import install

SUFFIXES = (".mp4", ".webm", ".avi", ".mkv", ".mov", ".m4v", ".gif")
PIECE = 32  # frames, at most
BUDGET = 2**28  # bytes of a piece: large frames come in shorter pieces
LARGEST = 2**26  # pixels of a frame: 8192 x 8192
LONGEST = 1e9  # seconds: a time stamp beyond is none
_CODECS = {".mp4": "libx264", ".mkv": "libx264", ".mov": "libx264", ".webm": "libvpx-vp9", ".avi": "mpeg4"}


class Unreadable(ValueError):
    """A file that no reader could read as video."""


class Video:
    """An open video file: `size` (width, height), `frames`, `times` (seconds, one a frame), `fps`, `reader`.

    decord opens it, or PyAV where decord cannot (AV1, processors without a decord wheel). Nothing is decoded before
    it is asked for. Raises FileNotFoundError, or Unreadable with what both readers said.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"expected a video file, found none at {self.path}")
        self._source = _open(self.path)
        self.reader = self._source.name
        self.size, self.times = self._source.size, self._source.times
        self.frames = len(self.times)
        if self.frames == 0:
            raise Unreadable(f"expected a video with frames, got none in {self.path}")
        _check_size(self.size, self.path)

    @property
    def fps(self) -> float:
        """Frames a second: by the time stamps, or what the file states where there is one frame."""
        return rate(self.times) or self._source.stated or 1.0

    def pieces(self, length: int = 0) -> Iterator[Tensor]:
        """The frames in order, `length` at a time, so that memory is that of a piece. Raises Unreadable midway.

        0: 32, and fewer of large ones.
        """
        length = length or max(1, min(PIECE, BUDGET // (3 * self.size[0] * self.size[1])))
        try:
            yield from self._source.pieces(length)
        except Exception as error:  # each reader has errors of its own
            raise Unreadable(f"{self.path} breaks off: {_brief(error)}") from error

    def read(self) -> Tensor:
        """All frames, uint8 (F, 3, H, W). Raises MemoryError where the machine cannot hold them."""
        _check_room(3 * self.frames * self.size[0] * self.size[1], self.path)
        return torch.cat(list(self.pieces()))


def read(path: str | os.PathLike[str]) -> tuple[Tensor, float]:
    """All frames of a file, uint8 (F, 3, H, W), and its frames a second."""
    video = Video(path)
    return video.read(), video.fps


def write(path: str | os.PathLike[str], video: Tensor, fps: float, lossless: bool = False) -> Path:
    """Write a clip (F, C, H, W), float in [0, 1] or uint8, C = 1 or 3, as .mp4, .mkv, .mov (H.264), .webm or .avi.

    `lossless` keeps every bit (RGB H.264 or FFV1, which browsers do not play). The file appears whole or not at all.
    Raises ValueError for another shape, suffix or rate, ImportError without PyAV.

    >>> import tempfile
    >>> file = write(tempfile.mkdtemp() + "/clip.mkv", torch.rand(5, 3, 32, 48), fps=8.0, lossless=True)
    >>> read(file)[0].shape, read(file)[1]
    (torch.Size([5, 3, 32, 48]), 8.0)
    """
    path = Path(path)
    frames = _bytes(video, fps, path)
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        _encode(part, frames, fps, lossless)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


def rate(times: list[float]) -> float | None:
    """Frames a second by their time stamps; None where they do not tell.

    >>> rate([0.0, 0.125, 0.25]), rate([0.0])
    (8.0, None)
    """
    span = times[-1] - times[0] if times else 0.0
    if len(times) < 2 or not span > 0:
        return None
    return float(Fraction((len(times) - 1) / span).limit_denominator(1001))


def find(paths: Iterable[str | os.PathLike[str]]) -> Iterator[Path]:
    """Files as they are given, folders replaced by the videos in them, at any depth, in order of name."""
    for path in map(Path, paths):
        if not path.is_dir():
            yield path
            continue
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
        yield from inside or [path]


# --- readers ---------------------------------------------------------------------------------------------------------


def _open(path: Path) -> _Decord | _PyAV:
    said = []
    for reader in (_Decord, _PyAV):
        try:
            return reader(path)
        except Exception as error:  # noqa: BLE001  each reader has errors of its own; both are told if none can
            said.append(f"{reader.name}: {_brief(error)}")
    raise Unreadable(f"expected a video, could not read {path}: {'; '.join(said)}. Play or re-encode it to see.")


def _check_size(size: tuple[int, int], path: Path) -> None:
    if not 0 < size[0] * size[1] <= LARGEST:
        raise Unreadable(f"expected frames of up to {LARGEST} pixels, got {size[0]} x {size[1]} in {path}: shrink "
                         "them, or mend a broken header")


def _check_room(needed: int, path: Path) -> None:
    pages = getattr(os, "sysconf_names", {}).get("SC_PHYS_PAGES")
    if pages is not None and needed > (room := os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")):
        raise MemoryError(f"{path} needs {needed / 1e9:.0f} GB as a whole, this machine has {room / 1e9:.0f}: score it "
                          "by rewards that take clips in pieces, or cut it")


def _brief(error: BaseException) -> str:
    """The first line of a message; decord appends a stack of C++ frames."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


class _Decord:
    name = "decord"

    def __init__(self, path: Path) -> None:
        _bind_png()
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        self.reader = decord.VideoReader(str(path), num_threads=1)
        self.stated = float(self.reader.get_avg_fps())
        first = self.reader[0].asnumpy()  # what cannot be decoded must show now, while PyAV can still be asked
        if first.shape[2] != 3:  # decord 0.6 takes the padding of some widths below 64 for channels
            raise ValueError(f"frames of this width come with {first.shape[2]} channels")
        self.size = (first.shape[1], first.shape[0])
        self.times = [float(t) for t in self.reader.get_frame_timestamp(range(len(self.reader)))[:, 0]]
        if any(not abs(t) < LONGEST for t in self.times):  # of some .mkv it makes up stamps of 1e15 seconds
            raise ValueError("time stamps that cannot be")
        self.reader.seek(0)

    def pieces(self, length: int) -> Iterator[Tensor]:
        for start in range(0, len(self.times), length):
            batch = self.reader.get_batch(range(start, min(start + length, len(self.times))))
            array = batch.asnumpy() if hasattr(batch, "asnumpy") else np.asarray(batch)  # the bridge is process-wide
            yield torch.from_numpy(array).permute(0, 3, 1, 2)


@cache
def _bind_png() -> None:
    """Let OpenCV find its zlib, which it looks for at its first PNG: after decord it would find decord's, and fail."""
    import cv2

    cv2.imdecode(cv2.imencode(".png", np.zeros((1, 1, 3), np.uint8))[1], cv2.IMREAD_COLOR)


class _PyAV:
    name = "PyAV"

    def __init__(self, path: Path) -> None:
        self.av, self.path = _av(), path
        with self.av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError("no video stream")
            stream = container.streams.video[0]
            self.stated = float(stream.average_rate or 0)
            self.size = (stream.width, stream.height)
            _check_size(self.size, path)
            stamps = sorted(p.pts for p in container.demux(stream) if p.pts is not None and p.size)
            self.times = [float(pts * stream.time_base) for pts in stamps]
        next(self.pieces(1))

    def pieces(self, length: int) -> Iterator[Tensor]:
        batch: list[np.ndarray] = []
        with self.av.open(str(self.path)) as container:
            for frame in container.decode(video=0):
                batch.append(frame.to_ndarray(format="rgb24"))
                if len(batch) == length:
                    yield _stack(batch)
                    batch = []
        if batch:
            yield _stack(batch)


def _stack(frames: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2)


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise ImportError(f"PyAV is needed here: pip install av, or {install('train')}") from error
    return av


# --- writing ---------------------------------------------------------------------------------------------------------


def _bytes(video: Tensor, fps: float, path: Path) -> np.ndarray:
    """Frames as uint8 (F, H, W, 3)."""
    if video.dim() != 4 or video.shape[1] not in (1, 3) or 0 in video.shape:
        raise ValueError(f"expected a clip (frames, 1 or 3 channels, height, width), got shape {tuple(video.shape)}")
    if path.suffix.lower() not in _CODECS:
        raise ValueError(f"expected a file name ending in {', '.join(_CODECS)}, got {path.name!r}")
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"expected fps to be a positive number, got {fps!r}")
    video = video.detach().cpu()
    if video.is_floating_point():
        video = (video.float().nan_to_num().clamp(0, 1) * 255).round()
    return video.to(torch.uint8).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()


def _encode(path: Path, frames: np.ndarray, fps: float, lossless: bool) -> None:
    av = _av()
    odd = any(side % 2 for side in frames.shape[1:3])
    codec, pixels, options = _settings(path.suffix.lower(), lossless, odd)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=options)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pixels
        stream.thread_count = 1  # the same bytes on every machine
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def _settings(suffix: str, lossless: bool, odd: bool) -> tuple[str, str, dict[str, str]]:
    """Codec, pixel format and options; half-resolution colour cannot hold an odd side."""
    if lossless and suffix == ".webm":
        raise ValueError("expected .mp4, .mkv, .mov or .avi for a lossless file, got .webm")
    if lossless and suffix == ".avi":
        return "ffv1", "bgr0", {}
    if lossless:
        return "libx264rgb", "rgb24", {"qp": "0"}
    pixels, codec = "yuv444p" if odd and suffix != ".avi" else "yuv420p", _CODECS[suffix]
    if codec == "libx264":  # its tree of blocks reads memory nobody wrote, and one file in a hundred would differ
        return codec, pixels, {"crf": "16", "x264-params": "mbtree=0"}
    return codec, pixels, {"crf": "16"} if codec == "libvpx-vp9" else {"qscale": "3"}
