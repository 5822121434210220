"""Which files of a folder are clips, and which look like media and are left out.

`vidrl score` and `vidrl bench` both find their clips here.
"""

from __future__ import annotations

import mimetypes
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from .containers import HEAD, is_animated, is_transport
from .pictures import IMAGES, is_still, numbered_pictures

SUFFIXES = (
    ".mp4",
    ".webm",
    ".avi",
    ".mkv",
    ".mov",
    ".m4v",
    ".gif",
    ".mpg",
    ".mpeg",
    ".m2v",
    ".vob",
    ".flv",
    ".f4v",
    ".wmv",
    ".asf",
    ".3gp",
    ".3g2",
    ".ogv",
    ".m2ts",
    ".mts",
    ".mxf",
    ".ts",
    ".y4m",
    ".h264",
    ".264",
    ".hevc",
    ".265",
    ".ivf",
    ".apng",
    ".webp",
    ".png",
)
PICTURES = (".webp", ".png")  # clips where they are animated


def find(paths: Iterable[str | os.PathLike[str]]) -> Iterator[Path]:
    """Files as they are given, folders replaced by the clips in them, at any depth, in
    order of name.

    A clip is a video file by its suffix, an animated .webp or .png, or a folder that holds
    nothing but numbered pictures of one film. Of a folder without any, the images are clips
    of one frame; a folder without these is itself given back.
    """
    for path in map(Path, paths):
        if path.is_dir():
            yield from clips_in(path) or images_in(path) or [path]
        else:
            yield path


def clips_in(folder: Path) -> list[Path]:
    """The clips of a folder, at any depth, in order of name; hidden files and folders do
    not count."""
    files = _visible(folder)
    homes = {file.parent for file in files if file.suffix.lower() in IMAGES}
    return sorted(
        [
            *(file for file in files if is_clip(file)),
            *(home for home in homes if numbered_pictures(home)),
        ]
    )


def images_in(folder: Path) -> list[Path]:
    """The images of a folder, at any depth, in order of name; hidden files and folders do
    not count."""
    return [file for file in _visible(folder) if is_still(file)]


def skipped_media(folder: Path) -> list[Path]:
    """The files of a folder that look like media, and are no clip nor part of one, in order
    of name."""
    clips = set(clips_in(folder)) or set(images_in(folder))
    return [
        file
        for file in _visible(folder)
        if not clips & {file, file.parent} and file.suffix.lower() != ".ts" and _is_media(file)
    ]


def describe_skipped(files: list[Path], where: str | os.PathLike[str]) -> str | None:
    """A note that names the first of them; None where there are none."""
    if not files:
        return None
    kinds = ", ".join(sorted({file.suffix.lower() for file in files}))
    return f"left out: {len(files)} files of {where} that are no clips ({kinds}), the first is {files[0].name}"


def is_clip(file: Path) -> bool:
    """Whether a file is taken for a clip: by its suffix, and where that is one of pictures
    or of texts, its bytes."""
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES or file.is_dir():
        return False
    try:
        if suffix in PICTURES:
            return file.is_file() and is_animated(file)
        if suffix == ".ts" and file.is_file():  # TypeScript has the same suffix
            with open(file, "rb") as opened:
                return is_transport(opened.read(HEAD))
    # what cannot be opened is a clip that cannot be read, and gets its reason there
    except OSError:
        return suffix not in PICTURES
    return True


def _visible(folder: Path) -> list[Path]:
    """Files, at any depth, no part of whose path below the folder begins with a dot."""
    found = (path for path in folder.rglob("*") if not path.is_dir())
    return sorted(
        path
        for path in found
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def _is_media(file: Path) -> bool:
    return str(mimetypes.guess_type(file.name)[0]).startswith(("video/", "image/"))
