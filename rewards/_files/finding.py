"""Find the clips of a folder, and the files that look like media but are no clips.

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
PICTURES = (".webp", ".png")  # clips only if the file is animated


def find(paths: Iterable[str | os.PathLike[str]]) -> Iterator[Path]:
    """Yield files as given, and for each folder the clips in it, at any depth, in order of name.

    A clip is a video file by its suffix, an animated .webp or .png, or a folder that holds
    nothing but numbered pictures of one film. In a folder without clips, each image is a
    clip of one frame; a folder without images either is yielded itself.
    """
    for path in map(Path, paths):
        if path.is_dir():
            yield from clips_in(path) or images_in(path) or [path]
        else:
            yield path


def clips_in(folder: Path) -> list[Path]:
    """Return the clips of a folder, at any depth, in order of name; skip hidden files."""
    files = _visible(folder)
    homes = {file.parent for file in files if file.suffix.lower() in IMAGES}
    return sorted(
        [
            *(file for file in files if is_clip(file)),
            *(home for home in homes if numbered_pictures(home)),
        ]
    )


def images_in(folder: Path) -> list[Path]:
    """Return the images of a folder, at any depth, in order of name; skip hidden files."""
    return [file for file in _visible(folder) if is_still(file)]


def skipped_media(folder: Path) -> list[Path]:
    """Return the files of a folder that look like media but are no clip nor part of a clip."""
    clips = set(clips_in(folder)) or set(images_in(folder))
    return [
        file
        for file in _visible(folder)
        if not clips & {file, file.parent} and file.suffix.lower() != ".ts" and _is_media(file)
    ]


def describe_skipped(files: list[Path], where: str | os.PathLike[str]) -> str | None:
    """Return a note that counts the skipped files and names the first, or None without files."""
    if not files:
        return None
    kinds = ", ".join(sorted({file.suffix.lower() for file in files}))
    return (
        f"left out: {len(files)} files of {where} that are no clips ({kinds}), the first is "
        f"{files[0].name}"
    )


def is_clip(file: Path) -> bool:
    """Return whether a file counts as a clip: by its suffix, and in doubt by its bytes."""
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES or file.is_dir():
        return False
    try:
        if suffix in PICTURES:
            return file.is_file() and is_animated(file)
        if suffix == ".ts" and file.is_file():  # TypeScript has the same suffix
            with open(file, "rb") as opened:
                return is_transport(opened.read(HEAD))
    # A video file that cannot be opened stays a clip, so that its row states the reason.
    except OSError:
        return suffix not in PICTURES
    return True


def _visible(folder: Path) -> list[Path]:
    """Return all files below a folder whose relative path has no part that begins with a dot."""
    found = (path for path in folder.rglob("*") if not path.is_dir())
    return sorted(
        path
        for path in found
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def _is_media(file: Path) -> bool:
    """Return whether the suffix of a file is one of videos or images."""
    return str(mimetypes.guess_type(file.name)[0]).startswith(("video/", "image/"))


def inside(folder: Path, name: str) -> Path:
    """Return the path of a file that a table names: absolute, or inside the table's folder.

    Links are not followed. Raises ValueError for a relative path that leads out of the folder.

    >>> inside(Path("/data"), "clips/../a.mp4").as_posix()
    '/data/a.mp4'
    """
    if not os.path.isabs(name) and os.path.normpath(name).split(os.sep)[0] == os.pardir:
        raise ValueError(
            f"expected a path inside the folder of the table, got {name}: move the file there, or "
            "write its absolute path"
        )
    return Path(os.path.normpath(folder / name))
