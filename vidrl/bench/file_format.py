"""Read how a file was written: container, codec, pixel format and bits per pixel.

These can decide a comparison: a coarse quantiser hides flicker, and a sharp one shows it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vidrl.rewards._files.pictures import is_still
from vidrl.rewards._files.reading import film_streams, open_container

# ffmpeg names a container by the list of formats that its reader accepts.
CONTAINERS = {"mov,mp4,m4a,3gp,3g2,mj2": "mp4", "matroska,webm": "matroska"}
SUFFIX_CONTAINERS = {
    ".mp4": "mp4",
    ".mov": "mp4",
    ".m4v": "mp4",
    ".mkv": "matroska",
    ".webm": "matroska",
}
Format = dict[str, Any]


def file_format(path: Path, size: tuple[int, int], frames: int) -> Format:
    """Return how a file of `frames` pictures of `size` (width, height) was written.

    The result is {"container", "codec", "pixels", "bits"}: `pixels` is ffmpeg's name of the
    pixel format, `bits` the bits of one pixel of one frame. PyAV reads them. Without PyAV,
    or if it fails, the container follows from the file's suffix, `bits` from the size of
    the file, and the others are None. Raises OSError.
    """
    codec = (
        _container_by_suffix(path) if is_still(path) else None
    )  # a picture's suffix names its codec
    found = _by_header(path) or {
        "container": _container_by_suffix(path),
        "codec": codec,
        "pixels": None,
        "bytes": None,
    }
    count = found.pop("bytes") or _bytes(path)
    return found | {"bits": float(f"{8 * count / (size[0] * size[1] * max(1, frames)):.4g}")}


def _by_header(path: Path) -> Format | None:
    """Return what PyAV reads in the header, None if it cannot.

    `bytes` are those of the pictures without the sound, 0 if the header does not state
    them.
    """
    try:
        with open_container(path) as container:
            stream = film_streams(container)[0]
            context = stream.codec_context
            seconds = float((stream.duration or 0) * (stream.time_base or 0))
            name = container.format.name.removesuffix("_pipe")  # as ffmpeg calls pictures
            return {
                "container": CONTAINERS.get(name, name.partition(",")[0]),
                "codec": context.codec.canonical_name,
                "pixels": context.pix_fmt,
                "bytes": (stream.bit_rate or 0) * seconds / 8,
            }
    except Exception:  # noqa: BLE001  the facts are optional: the clip itself was read
        return None


def _bytes(path: Path) -> int:
    """Return the size of a file, or of the files in a folder."""
    return (
        sum(one.stat().st_size for one in path.iterdir() if one.is_file())
        if path.is_dir()
        else path.stat().st_size
    )


def _container_by_suffix(path: Path) -> str:
    """Return the container that a file's suffix names; "pictures" for a folder."""
    if path.is_dir():
        return "pictures"
    suffix = path.suffix.lower()
    return SUFFIX_CONTAINERS.get(suffix, suffix.removeprefix("."))
