"""A clip and what is told of it, on one time axis: the player, the frames, and the lanes
drawn under them."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from ..run_folder import Row, Run

MOST = 17  # frames shown of a clip
HEIGHT = 72  # pixels of a shown frame, at most


def player(path: Path | None) -> str:
    """The clip itself, playing over and over, or the image; None is a clip that is not
    there, see `Run.clip`."""
    from vidrl.rewards._files.media import kind

    if path is None:
        return '<div class="missing">clip missing</div>'
    data = base64.b64encode(path.read_bytes()).decode()
    if kind(path) == "png":
        return f'<img class="still" alt="" src="data:image/png;base64,{data}">'
    return f'<video src="data:video/mp4;base64,{data}" autoplay loop muted playsinline></video>'


def given(run: Run, row: Row, *folder: str) -> str:
    """What the clip of a row was made from beside the text: the image, and the other
    references by name; "" for none.

    The image lies in that folder of the run.
    """
    told = row.get("references")
    if not isinstance(told, Mapping):
        return ""
    path = run.picture(*folder, row["reference"]) if row.get("reference") else None
    data = base64.b64encode(path.read_bytes()).decode() if path else ""
    words = ", ".join(f"{name}: {value}" for name, value in told.items())
    return beside(f"data:image/png;base64,{data}" if data else "", words)


def beside(source: str, words: str) -> str:
    """What a clip was made from: the picture at the address `source`, if there is one, and
    words on it."""
    image = f'<img alt="the image that was given" src="{escape(source)}">' if source else ""
    return f'<figure class="given">{image}<figcaption>given {escape(words)}</figcaption></figure>'


def film(path: Path | None) -> str:
    """The clip's frames side by side, each over its own stretch of the time axis; "" for an
    image, or no readable file.

    A long clip shows 17 of its frames, evenly spaced.
    """
    from vidrl.rewards.video import Unreadable

    try:
        shown, size = (
            _thumbnails(path) if path and path.is_file() and path.suffix != ".png" else ([], 1.0)
        )
    except Unreadable:
        return ""
    if len(shown) < 2:
        return ""
    width = 100 / len(shown)
    pictures = "".join(
        f'<img class="frame" alt="" title="frame {at}" style="--x:{i * width:.3f}%;--w:{width:.3f}%" '
        f'src="data:image/jpeg;base64,{data}">'
        for i, (at, data) in enumerate(shown)
    )
    return f'<div class="film" style="--a:{len(shown) * size:.3f}">{pictures}</div>'


def _thumbnails(path: Path) -> tuple[list[tuple[int, str]], float]:
    """Number and JPEG of each frame that is shown, and width over height."""
    from vidrl.rewards.video import Video

    clip = Video(path)
    count = min(MOST, clip.frames)
    chosen = [int((i + 0.5) * clip.frames / count) for i in range(count)]
    frames = (frame for piece in clip.pieces() for frame in piece)
    shown = [
        (at, _jpeg(frame.permute(1, 2, 0).numpy()))
        for at, frame in enumerate(frames)
        if at in chosen
    ]
    return shown, clip.size[0] / clip.size[1]


def _jpeg(picture: object) -> str:
    import cv2
    import numpy as np

    frame = np.asarray(picture)[..., ::-1]
    scale = min(1.0, HEIGHT / frame.shape[0])
    small = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return base64.b64encode(
        cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()
    ).decode()


def lane(name: str, body: str, top: str = "", bottom: str = "") -> str:
    """One row under the film: its name (HTML) in the gutter, what is drawn beside it, and
    the ends of its scale."""
    if not body:
        return ""
    ends = "".join(
        f'<span class="{place}">{text}</span>'
        for place, text in (("top", top), ("bottom", bottom))
        if text
    )
    return f'<div class="lane"><div class="name">{name}{ends}</div><div class="track">{body}</div></div>'


def lanes(rows: Iterable[str], spans: Sequence[tuple[int, int]], length: int) -> str:
    """Rows on one time axis, with the segments' borders through all of them, and the
    playing clip's place."""
    borders = "".join(
        f'<i style="left:{100 * start / length:.3f}%"></i>'
        for start, _ in spans
        if 0 < start < length
    )
    return f'<div class="lanes">{"".join(rows)}<div class="rules">{borders}<u class="playhead"></u></div></div>'


def breaking(name: str) -> str:
    """A name, escaped, that may break between its words."""
    return escape(name).replace("_", "_<wbr>")


def frames(span: Sequence[int]) -> str:
    """A segment in words.

    >>> frames((5, 9)), frames((0, 1))
    ('frames 5 to 8', 'frame 0')
    """
    start, end = int(span[0]), int(span[1]) - 1
    return f"frames {start} to {end}" if end > start else f"frame {start}"
