"""Find the clips that a file of judgments names, and write those that it embeds."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from vidrl.rewards._files.atomic_file import write_bytes
from vidrl.rewards._files.finding import inside
from vidrl.rewards._files.pictures import IMAGES
from vidrl.rewards.video import SUFFIXES, find


class Clips:
    """The folder of the clips of a file, and the folder for clips that the file embeds.

    A clip is found by its path in `folder`, or, for addresses and ids, by its name at any
    depth. Relative paths stay inside the folder; absolute paths may lead anywhere.
    """

    def __init__(self, folder: Path, media: Path | None = None, pictures: bool = False) -> None:
        self.folder = folder
        self.media = media
        self._suffixes = frozenset(IMAGES) if pictures else frozenset(SUFFIXES)
        self._names: dict[str, list[Path]] | None = None
        self._known: dict[tuple[str, str], str] = {}  # the paths that were found before
        self.embedded_left_out = 0
        self.ambiguous: set[str] = set()  # names that several files below the folder have

    def path(self, name: Any, other: str = "") -> str:
        """Return the path of a clip, or the path where it was expected.

        An address, and a name without a suffix, is searched by name at any depth; with
        `other` any name is, and so is `other`. Raises ValueError for no name, and for a path
        that leads out of the folder.
        """
        if not isinstance(name, str) or not name.strip() or "\0" in name:
            raise ValueError(f"expected the path of a clip, got {_shown(name)}")
        key = (name, other)
        if key not in self._known:
            self._known[key] = self._find(name.strip(), other)
        return self._known[key]

    def _find(self, name: str, other: str) -> str:
        """Return the path of a clip that was not searched before."""
        address = "://" in name
        name = file_name(name) if address else name
        direct = str(inside(self.folder, name))
        if os.path.exists(direct):
            return direct
        searched = bool(address or other or not Path(name).suffix)
        found = (self._by_name(word) for word in (name, other) if word and searched)
        return os.path.normpath(next((path for path in found if path), direct))

    def embedded(self, content: bytes, name: str) -> str:
        """Return the path of a clip that the file embeds, written to `media` if there is one.

        Two clips of one name and different content get two files: the name of the second one
        has a part of its SHA-256, and no file that is there is written over. Without `media` the
        clip is searched by its name, and counted in `embedded_left_out` if it is not there.
        """
        if self.media is None:
            path = self.path(name, name)
            self.embedded_left_out += not os.path.isfile(path)
            return path
        plain = os.path.basename(name)
        if plain in ("", os.curdir, os.pardir):
            raise ValueError(f"expected the name of an embedded clip, got {name!r}")
        self.media.mkdir(parents=True, exist_ok=True)
        file = Path(os.path.normpath(self.media / plain))
        if file.exists() and not _holds(file, content):
            sha256 = hashlib.sha256(content).hexdigest()
            file = file.with_name(f"{file.stem}-{sha256[:16]}{file.suffix}")
        if not file.exists():
            write_bytes(file, content)
        return str(file)

    def _by_name(self, word: str) -> Path | None:
        """Return the clip of that name at any depth, with or without the same suffix."""
        found = self._below().get(Path(word).stem, [])
        found = [path for path in found if path.suffix == Path(word).suffix] or found
        if len(found) > 1:
            self.ambiguous.add(word)
        return found[0] if found else None

    def _below(self) -> dict[str, list[Path]]:
        """Return the clips at any depth of the folder, by their names without suffix."""
        if self._names is None:
            if self._suffixes == frozenset(SUFFIXES):
                listed = find([self.folder]) if self.folder.is_dir() else []
            else:
                listed = sorted(self.folder.rglob("*"))
            self._names = {}
            for path in listed:
                if path.suffix.lower() in self._suffixes:
                    self._names.setdefault(path.stem, []).append(path)
        return self._names


def _holds(path: Path, content: bytes) -> bool:
    """Return whether a file has this content."""
    return path.stat().st_size == len(content) and path.read_bytes() == content


def file_name(address: str) -> str:
    """Return the file's name at the end of an address.

    >>> file_name("https://hf.co/datasets/x/resolve/main/videos/a%20b.mp4?download=true")
    'a b.mp4'
    """
    return unquote(urlsplit(address).path).rsplit("/", 1)[-1]


def content_name(content: bytes, suffix: str) -> str:
    """Return a file name for an embedded clip that has none: its SHA-256."""
    return f"{hashlib.sha256(content).hexdigest()[:32]}{suffix}"


def _shown(value: Any) -> str:
    """Return a cell for a message."""
    return "nothing" if value in (None, "") else repr(str(value)[:60])
