"""Read videos with PyAV: the frames that ffmpeg shows, turned upright.

The frames are those of `ffmpeg -i FILE -map 0:V:0 -fps_mode passthrough`.

Shapes: H W pixels; frames are uint8 (F, 3, H, W).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidrl.lookup.extras import install

from .containers import Unreadable, why_cut_off
from .frame_times import STATED, choose_stamps, fill_missing, usable_times
from .memory import is_out_of_memory

# What FFmpeg may take a file for. Playlists and their like are left out, because they name
# other files and addresses.
FORMATS = (
    "mov,matroska,avi,gif,apng,mpegts,mpeg,mpegvideo,m4v,h264,hevc,obu,av1,ivf,flv,asf,ogg,"
    "yuv4mpegpipe,nut,mxf,rm,dv,wtv"
)
COVER = 0x400  # FFmpeg's flag AV_DISPOSITION_ATTACHED_PIC of a stream
WITHOUT_TIMES = 0x80  # FFmpeg's flag AVFMT_NOTIMESTAMPS of a container
# Containers and codecs in which each packet is one frame that is shown, so that the times can
# be read from the packets. Other files are decoded once only to count frames and times.
LISTED = {"mov", "matroska"}
CODECS = {"h264", "hevc", "vp9", "av1", "ffv1", "mjpeg", "prores", "png", "rawvideo"}


class PyAV:
    """A file that PyAV reads: its `size`, `times`, `stated` rate and `notes`.

    `size` is (width, height), `times` are in seconds, `stated` is the frame rate that the
    file states. `check` is called with the size before anything is decoded, and raises if
    it is too large.
    """

    name = "PyAV"

    def __init__(self, path: Path, check: Callable[[tuple[int, int]], None]) -> None:
        self.path, self.notes = path, list[str]()
        self.damaged = 0  # packets that could not be decoded
        self.av = import_av()
        with self._stream() as (container, stream):
            # Some headers state no size; then the first frame shows it.
            self.sized = bool(stream.width and stream.height)
            if self.sized:
                check((stream.width, stream.height))
            self.tick, self.stated = float(stream.time_base or 0), _stated(container, stream)
            self.decode_times = container.format.name == "avi"
            self.stamps: list[int | None] | None = _of_packets(container, stream)
        first = self._first()
        self.turn = turn_of_frame(first)
        self._whole = (first.width, first.height)
        self.size = (
            self._whole if self.turn is None else self.turn(np.empty(self._whole[::-1])).shape[::-1]
        )
        check(self.size)
        # Packets do not show the frames of this file, or list frames that are cut off: all
        # frames are decoded once to count them.
        self.counted = self.stamps is None or why_cut_off(path) is not None
        if self.counted:
            self.stamps = choose_stamps(list(self._counted()), self.decode_times)
        assert self.stamps is not None
        self._set_times()

    def pieces(self, length: int) -> Iterator[Tensor]:
        """Yield the frames in order, `length` at a time.

        Raises Unreadable if the frames are not those that were counted when the file was
        opened.
        """
        pixels, number = _Pixels(self.av), 0
        turn = self.turn or (lambda picture: picture)
        piece = self._piece(length)
        for frame in self._frames():
            self._expect(frame, number)
            piece[number % length] = turn(pixels.of(frame))
            number += 1
            if number % length == 0:
                yield torch.from_numpy(piece).permute(0, 3, 1, 2)
                piece = self._piece(length)
        if number % length:
            yield torch.from_numpy(piece[: number % length]).permute(0, 3, 1, 2)
        if number != len(self.times):
            raise Unreadable(f"{len(self.times)} frames are listed, and {number} can be decoded")

    def _piece(self, length: int) -> np.ndarray:
        """Return an empty array for at most `length` frames."""
        return np.empty((min(length, len(self.times)), self.size[1], self.size[0], 3), np.uint8)

    def _expect(self, frame: Any, number: int) -> None:
        """Raise Unreadable if a frame is not the one that was counted at this number."""
        self._same_size(frame)
        assert self.stamps is not None
        if number >= len(self.stamps) or not self.counted and frame.pts != self.stamps[number]:
            raise Unreadable(
                f"frame {number} is not the one that is listed: part of the file is damaged"
            )

    def _first(self) -> Any:
        """Return the first frame; raise Unreadable with the likely reason if there is none."""
        first = next(self._frames(), None)
        if first is None:
            why = why_cut_off(self.path)
            size = (
                ""
                if self.sized
                else ": its header states no size, or a larger one than can be read"
            )
            raise Unreadable(
                f"it is cut off before its first frame: {why}"
                if why
                else f"no frame can be decoded{size}"
            )
        return first

    def _counted(self) -> Iterator[tuple[int | None, int | None]]:
        """Yield the stamps of all frames and of their packets, by decoding them."""
        for frame in self._frames():
            self._same_size(frame)
            yield frame.pts, frame.dts

    def _same_size(self, frame: Any) -> None:
        """Raise Unreadable if the size of the frames changes."""
        if (frame.width, frame.height) != self._whole:
            raise Unreadable(
                f"the size of its frames changes from {self._whole[0]} x {self._whole[1]} to "
                f"{frame.width} x {frame.height}: cut it there, or scale it to one size"
            )

    def _set_times(self) -> None:
        """Set `times` from the stamps, and add the notes about times and damage."""
        stamps = [math.nan if stamp is None else stamp * self.tick for stamp in self.stamps or []]
        self.times, note = usable_times(fill_missing(stamps, self.stated), self.stated)
        if note is not None:
            self.notes.append(note)
        why = why_cut_off(self.path)
        if why is not None:
            self.notes.append(f"cut off after {_seconds(self.times):.1f} s: {why}")
        elif self.damaged:
            self.notes.append(f"damaged: {self.damaged} packets could not be decoded")

    def _frames(self) -> Iterator[Any]:
        """Yield the shown frames in order; skip packets that cannot be decoded, as ffmpeg does."""
        self.damaged = 0
        with self._stream() as (container, stream):
            for packet in _packets(self.av, container, stream):
                try:
                    yield from packet.decode()
                except self.av.error.FFmpegError as error:
                    if is_out_of_memory(error):
                        raise
                    self.damaged += 1

    @contextmanager
    def _stream(self) -> Iterator[tuple[Any, Any]]:
        """Give the open container and its first video stream that is no cover picture."""
        with open_container(self.path) as container:
            films = film_streams(container)
            if not films:
                streams = {stream.type for stream in container.streams}
                what = "sound alone" if "audio" in streams else "nothing"
                cover = " with a cover picture" if container.streams.video else ""
                raise Unreadable(f"no video stream: it holds {what}{cover}")
            if films[0].codec_context is None:
                raise Unreadable("no decoder is known for its video stream")
            # With threads a decoder may report a damaged packet late, at another packet.
            films[0].thread_type = "NONE"
            yield container, films[0]


class _Pixels:
    """A converter of frames to RGB whose pixels are those of ffmpeg.

    PyAV scales the colours of an interlaced frame field by field, and takes the colours of
    more than 8 bits from another position than ffmpeg does. These frames go through
    ffmpeg's own filter.
    """

    def __init__(self, av: Any) -> None:
        from av.video.reformatter import VideoReformatter

        self.av, self.plain = av, VideoReformatter()
        self.graph: Any = None

    def of(self, frame: Any) -> np.ndarray:
        """Return a frame as uint8 (H, W, 3)."""
        if not frame.interlaced_frame and max(part.bits for part in frame.format.components) <= 8:
            return self.plain.reformat(frame, format="rgb24").to_ndarray()
        if self.graph is None:
            self.graph = self._graph(frame)
        self.graph.push(frame)
        return self.graph.pull().to_ndarray()

    def _graph(self, frame: Any) -> Any:
        """Build the filter graph that converts frames like this one."""
        graph = self.av.filter.Graph()
        start = graph.add_buffer(
            width=frame.width,
            height=frame.height,
            format=frame.format.name,
            time_base=frame.time_base or Fraction(1, 1000),
        )
        chain = [
            start,
            graph.add("scale", "interl=0"),
            graph.add("format", "rgb24"),
            graph.add("buffersink"),
        ]
        graph.link_nodes(*chain).configure()
        return graph


def import_av() -> Any:
    """Return the module of PyAV, or raise ImportError with the command that installs it."""
    try:
        import av
        import av.filter
    except ImportError as error:
        raise ImportError(f"PyAV is needed here: pip install av, or {install('train')}") from error
    return av


@contextmanager
def open_container(path: Path) -> Iterator[Any]:
    """Open a file with FFmpeg, which may read this file alone.

    FFmpeg follows neither other files nor addresses that the file names.
    """
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    with _named(path) as name, import_av().open(name, options=options) as container:
        yield container


def film_streams(container: Any) -> list[Any]:
    """Return the video streams that are no single picture attached to the film."""
    return [stream for stream in container.streams.video if not int(stream.disposition) & COVER]


@contextmanager
def _named(path: Path) -> Iterator[Any]:
    """Give the name of a file that FFmpeg opens literally.

    The name is "file:" and the absolute path, because FFmpeg gives a meaning to names like
    concat:a|b or %d. FFmpeg's interface needs UTF-8, so a name that is not UTF-8 is given
    as the open file.
    """
    name = os.path.abspath(path)
    try:
        name.encode()
    except UnicodeEncodeError:
        with open(path, "rb") as file:
            yield file
    else:
        yield f"file:{name}"


def _stated(container: Any, stream: Any) -> float:
    """Return the frame rate that a file states, 0 for none.

    The pictures' rate is used if the container stores no times or states an impossible
    rate.
    """
    context = stream.codec_context
    rates = [
        stream.average_rate,
        context.framerate if context else None,
        stream.guessed_rate,
        stream.base_rate,
    ]
    if container.format.flags & WITHOUT_TIMES:
        # Without time stamps the container's rate is only FFmpeg's default, 25: it comes last.
        rates = [*rates[1:], rates[0]]
    stated = [float(rate) for rate in rates if rate]
    return next((rate for rate in stated if rate <= STATED), next(iter(stated), 0.0))


def _packets(av: Any, container: Any, stream: Any) -> Iterator[Any]:
    """Yield the packets, then an empty one that makes the decoder deliver its last frames.

    If reading fails, the empty packet is still yielded, so that the frames so far are not
    lost.
    """
    try:
        yield from container.demux(stream)
    except av.error.FFmpegError as error:
        if is_out_of_memory(error):
            raise
        last = av.Packet()
        last.stream = stream
        yield last


def _of_packets(container: Any, stream: Any) -> list[int | None] | None:
    """Return the stamps of the frames from the packets, or None if packets may hide frames."""
    names = set(container.format.name.split(","))
    if not names & LISTED or stream.codec_context.codec.canonical_name not in CODECS:
        return None
    found: list[int] = []
    reordered = not stream.codec_context.has_b_frames
    for packet in container.demux(stream):
        if not packet.size:
            continue
        if (
            packet.pts is None
            or packet.is_discard
            or packet.is_corrupt
            or not (found or packet.is_keyframe)
        ):
            return None
        found.append(packet.pts)
        reordered = reordered or packet.pts != packet.dts
    # The stamps are trusted if all differ and the first packet is shown first. A codec with
    # reordered frames must have a packet whose times of decoding and of display differ.
    plain = len(set(found)) == len(found) and min(found, default=0) == next(iter(found), 0)
    return [*sorted(found)] if found and plain and reordered else None


def _seconds(times: list[float]) -> float:
    """Return how long the frames last; the last one lasts as long as the mean."""
    return (times[-1] - times[0]) * len(times) / max(1, len(times) - 1)


# --- upright


def turn_of_frame(frame: Any) -> Callable[[np.ndarray], np.ndarray] | None:
    """Return the function that turns pictures (H, W, ...) as the file asks for, None for none."""
    matrix = next(
        (bytes(data) for data in frame.side_data if data.type.name == "DISPLAYMATRIX"), None
    )
    return None if matrix is None else turn_of_matrix(np.frombuffer(matrix, np.int32)[:9])


def turn_of_matrix(matrix: np.ndarray) -> Callable[[np.ndarray], np.ndarray] | None:
    """Return the function that turns pictures as a display matrix (9 numbers) asks for.

    The rules are those of ffmpeg's get_rotation and configure_input_video_filter.

    >>> quarter = np.array([0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30])
    >>> turn_of_matrix(quarter)(np.array([[1, 2], [3, 4]])).tolist()
    [[3, 1], [4, 2]]
    """
    a, b, c, d = (float(matrix[i]) for i in (0, 1, 3, 4))
    wide, high = math.hypot(a, c), math.hypot(b, d)
    if not (wide and high):
        return None
    angle = round(math.degrees(math.atan2(b / high, a / wide))) % 360
    if angle == 0:
        return np.flipud if d < 0 else None
    if angle == 90:
        return _transposed if c > 0 else lambda picture: np.rot90(picture, -1)
    if angle == 180:
        return lambda picture: picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    if angle == 270:
        return (lambda picture: np.rot90(_transposed(picture), 2)) if c < 0 else np.rot90
    raise Unreadable(f"it is to be shown turned by {angle} degrees: write it again, turned")


def _transposed(picture: np.ndarray) -> np.ndarray:
    return picture.swapaxes(0, 1)
