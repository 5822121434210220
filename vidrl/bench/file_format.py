"""How a file was written: container, codec, pixel format and bits per pixel, which can
decide a comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vidrl.rewards._files.pictures import is_still
from vidrl.rewards._files.reading import film_streams, open_container

# by the names that ffmpeg has for them
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
    """How a file of `frames` pictures of `size` (width, height) was written.

    `{"container", "codec", "pixels", "bits"}`: `pixels` is ffmpeg's name of the pixel
    format, `bits` the bits of a pixel of a frame. PyAV reads them. Without PyAV, or where
    it cannot, the container is told by the file's ending, `bits` by the size of the whole
    file, and the others are None. Raises OSError.
    """
    codec = (
        _container_by_suffix(path) if is_still(path) else None
    )  # of a picture the ending names the codec
    found = _by_header(path) or {
        "container": _container_by_suffix(path),
        "codec": codec,
        "pixels": None,
        "bytes": None,
    }
    count = found.pop("bytes") or _bytes(path)
    return found | {"bits": float(f"{8 * count / (size[0] * size[1] * max(1, frames)):.4g}")}


def _by_header(path: Path) -> Format | None:
    """What PyAV reads in the header; `bytes` are those of the pictures, without sound,
    where the header states them."""
    try:
        with open_container(path) as container:
            stream = film_streams(container)[0]
            context, seconds = (
                stream.codec_context,
                float((stream.duration or 0) * (stream.time_base or 0)),
            )
            name = container.format.name.removesuffix("_pipe")  # as ffmpeg calls pictures
            return {
                "container": CONTAINERS.get(name, name.partition(",")[0]),
                "codec": context.codec.canonical_name,
                "pixels": context.pix_fmt,
                "bytes": (stream.bit_rate or 0) * seconds / 8,
            }
    except Exception:  # noqa: BLE001  the clip itself was read; facts of its file that PyAV cannot read are None
        return None


def _bytes(path: Path) -> int:
    return (
        sum(one.stat().st_size for one in path.iterdir() if one.is_file())
        if path.is_dir()
        else path.stat().st_size
    )


def _container_by_suffix(path: Path) -> str:
    if path.is_dir():
        return "pictures"
    suffix = path.suffix.lower()
    return SUFFIX_CONTAINERS.get(suffix, suffix.removeprefix("."))
