"""A clip on a page: the player, its frames side by side, and what it was made from."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..render import macro
from ..run_folder import Row, Run

if TYPE_CHECKING:
    from markupsafe import Markup

TEMPLATE = "report/film.html"
MOST = 17  # frames that are shown of a clip
HEIGHT = 72  # pixels of a shown frame, at most


def player(path: Path | None) -> Markup:
    """Return the clip, playing over and over, or the image; None says that it is missing.

    `Run.clip` gives None for a file that is missing or must not be opened.
    """
    from vidrl.rewards._files.containers import container_of

    if path is None:
        return macro(TEMPLATE, "player", kind="", data="")
    return macro(TEMPLATE, "player", kind=container_of(path), data=_base64(path.read_bytes()))


def given(run: Run, row: Row, *folder: str) -> Markup | str:
    """Return what the clip of a row was made from besides the prompt; "" for nothing.

    That is the image, which is in that folder of the run, and other references by name.
    """
    references = row.get("references")
    if not isinstance(references, Mapping):
        return ""
    path = run.picture(*folder, row["reference"]) if row.get("reference") else None
    source = f"data:image/png;base64,{_base64(path.read_bytes())}" if path else ""
    words = ", ".join(f"{name}: {value}" for name, value in references.items())
    return macro(TEMPLATE, "given", source=source, words=words)


def film(path: Path | None) -> Markup | str:
    """Return the frames of a clip side by side, each over its own part of the time axis.

    A long clip shows 17 of its frames, evenly spaced. "" for an image, for a file that is
    missing and for a file that cannot be read.
    """
    from vidrl.rewards.video import Unreadable

    if path is None or not path.is_file() or path.suffix == ".png":
        return ""
    try:
        shown, aspect = _thumbnails(path)
    except Unreadable:
        return ""
    if len(shown) < 2:
        return ""
    width = 100 / len(shown)
    frames = [
        {"number": number, "left": i * width, "width": width, "data": data}
        for i, (number, data) in enumerate(shown)
    ]
    return macro(TEMPLATE, "film", aspect=len(shown) * aspect, frames=frames)


def borders(spans: Sequence[tuple[int, int]], length: int) -> list[float]:
    """Return where segments meet within a clip of `length` frames, in percent.

    >>> borders([(0, 1), (1, 4)], 4)
    [25.0]
    """
    return [100 * start / length for start, _ in spans if 0 < start < length]


def frames(span: Sequence[int]) -> str:
    """Return the frames of a segment [start, end) in words.

    >>> frames((5, 9)), frames((0, 1))
    ('frames 5 to 8', 'frame 0')
    """
    start, end = int(span[0]), int(span[1]) - 1
    return f"frames {start} to {end}" if end > start else f"frame {start}"


def _thumbnails(path: Path) -> tuple[list[tuple[int, str]], float]:
    """Return the number and JPEG of each shown frame, and the width of a frame over its height."""
    from vidrl.rewards.video import Video

    clip = Video(path)
    count = min(MOST, clip.frames)
    # the frame in the middle of each of `count` equal parts of the clip
    chosen = {int((i + 0.5) * clip.frames / count) for i in range(count)}
    frames = (frame for piece in clip.pieces() for frame in piece)
    shown = [
        (number, _jpeg(frame.permute(1, 2, 0).numpy()))
        for number, frame in enumerate(frames)
        if number in chosen
    ]
    return shown, clip.size[0] / clip.size[1]


def _jpeg(picture: object) -> str:
    """Return a picture (H, W, 3) of RGB bytes as a small JPEG in base64."""
    import cv2
    import numpy as np

    frame = np.asarray(picture)[..., ::-1]  # OpenCV writes BGR
    scale = min(1.0, HEIGHT / frame.shape[0])
    small = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return _base64(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes())


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
