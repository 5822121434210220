"""Read a file as the clip that is measured: a video or a single image, under a protocol.

Shapes: F frames, C channels, H W pixels; frames are uint8 RGB (F, 3, H, W).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vidrl.bench.file_format import file_format
from vidrl.bench.protocol import Protocol, selected_frames
from vidrl.rewards._files.pictures import is_still
from vidrl.rewards.video import LARGEST, Unreadable, Video


class Clip:
    """A file as it is measured under a protocol.

    `fps`, `size` (width, height) and `frames` (their number) are those that are measured.
    `reader` names the decoder, `note` says what a reader of the numbers should know of the
    file, or is None, `written` says how the file was written, see
    `vidrl.bench.file_format`.

    The file is decoded only when its frames are first read. Raises FileNotFoundError and
    Unreadable.
    """

    def __init__(self, path: Path, protocol: Protocol) -> None:
        self.protocol = protocol
        self.note: str | None = None
        if is_still(path):
            picture = read_image(path)
            times, fps = [0.0], 1.0
            size = (picture.shape[3], picture.shape[2])
            self._pieces: Callable[[], Iterator[Tensor]] = lambda: iter([picture])
            self.reader = "opencv"
        else:
            video = Video(path, protocol.fps or None).even()
            self.note = "; ".join(video.notes) or None
            times, fps = video.times, video.fps
            size = video.size
            self._pieces, self.reader = video.pieces, video.reader
        self.written = file_format(path, size, len(times))
        self.chosen = protocol.chosen(len(times), fps)
        self.fps, self.frames = protocol.rate(fps), len(self.chosen)
        scale = min(1.0, protocol.side / min(size)) if protocol.side else 1.0
        self.size = (round(size[0] * scale), round(size[1] * scale))

    def pieces(self) -> Iterator[Tensor]:
        """Yield the frames in order, in pieces, so that memory does not grow with length.

        Raises Unreadable midway if the rest of the file is damaged.
        """
        for piece in selected_frames(self._pieces(), self.chosen):
            yield self.protocol.small(piece)

    def read(self) -> Tensor:
        """Return all frames, (F, 3, H, W)."""
        return torch.cat(list(self.pieces()))


def read_image(path: Path) -> Tensor:
    """Read a picture as a clip of one frame, uint8 (1, 3, H, W).

    Raises FileNotFoundError and Unreadable.
    """
    import cv2

    if not path.is_file():
        raise FileNotFoundError(f"expected an image, found none at {path}")
    picture = (
        cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR) if path.stat().st_size else None
    )
    if picture is None:
        raise Unreadable(f"expected an image, could not read {path}")
    if picture.shape[0] * picture.shape[1] > LARGEST:
        raise Unreadable(
            f"expected an image of up to {LARGEST} pixels, got {picture.shape[1]} x "
            f"{picture.shape[0]} in {path}"
        )
    return torch.from_numpy(np.ascontiguousarray(picture[..., ::-1])).permute(2, 0, 1)[None]
