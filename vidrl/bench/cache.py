"""What was measured is kept: one small file for each clip, dim and protocol, so that
nothing is measured twice.

A file is named by all that its numbers depend on: the bytes of the clip, of its reference
and its prompt where the dim reads them, the protocol, the dim, the device, and the code
that measures. It is written whole or not at all, and never changed. So several processes
and machines share a folder without locks: two that measure the same write the same file,
none overwrites another's, and whoever is killed loses at most the clip that it was at. (One
file a clip would have to be merged, which is where writers lose each other's rows.)
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from vidrl.bench import schema
from vidrl.bench.protocol import digest
from vidrl.rewards._files import atomic_file
from vidrl.rewards._files.containers import describe_non_file

FORMAT = 1
INDEX = "files.json"
RECENT = 2.0  # seconds: a file that changed so lately may change again under the same time stamp
ROW = schema.record(
    {},
    {
        **schema.MEASURED,
        "value": schema.maybe(schema.number),
        "why": schema.maybe(schema.text),
        "curve": schema.maybe(schema.many(schema.maybe(schema.number))),
    },
)
FIELDS = {
    "format",
    "key",
    "dim",
    "fps",
    "size",
    "frames",
    "reader",
    "note",
    "written",
    "value",
    "curve",
    "why",
}


class Cache:
    """A folder of measured rows. `corrupt` lists files that could not be read, and are
    measured again."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.corrupt: list[Path] = []

    def get(self, key: str) -> dict[str, Any] | None:
        """The row of a key; None where there is none, or none that can be read."""
        path = self._path(key)
        try:
            row = schema.parsed(path.read_bytes())
            ROW(row, "")
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            row = {}
        if set(row) >= FIELDS and row["format"] == FORMAT and row["key"] == key:
            return row
        self.corrupt.append(path)
        return None

    def put(self, key: str, row: Mapping[str, Any]) -> None:
        """Keep a row: readers see all of it or nothing."""
        text = json.dumps(
            {"format": FORMAT, "key": key, **row}, ensure_ascii=False, allow_nan=False
        )
        write_atomic(self._path(key), text)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def write_atomic(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all, whoever else writes it.

    A byte of a file name that is not UTF-8 is written as the escape of its surrogate, for
    example \\udce9. A JSON text with that escape is read back as the same file name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_file.write_bytes(path, text.encode("utf-8", "backslashreplace"))


def key(clip: str, dim: str, protocol: str, **others: Any) -> str:
    """The name of a row: 32 hex digits of all that its numbers depend on."""
    return digest([clip, dim, protocol, code_version(), others], 32)


@lru_cache
def code_version() -> str:
    """What measures: the text of the reward library, and the versions of what computes.
    Another code measures anew."""
    import cv2
    import numpy
    import torch

    import vidrl.rewards

    seen = hashlib.sha256(f"{torch.__version__} {numpy.__version__} {cv2.__version__}".encode())
    for path in sorted(Path(vidrl.rewards.__file__).parent.rglob("*.py")):
        seen.update(path.name.encode() + path.read_bytes())
    return seen.hexdigest()[:16]


def file_stamp(file: str | os.PathLike[str]) -> list[int]:
    """What changes whenever the bytes of a file change: size, times of change in
    nanoseconds, and inode.

    A copy or an archive may restore the size and the first time (mtime). No program can
    restore the second one (ctime), and a file that takes the place of another has an inode
    of its own. Raises OSError.
    """
    facts = os.stat(file)
    return [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino]


class Hashes:
    """SHA-256 of files, remembered in the cache's folder as long as `file_stamp` of the file
    stays the same.

    Several processes may remember at once: what one of them loses is hashed again, and no
    more.
    """

    def __init__(self, folder: str | os.PathLike[str] | None) -> None:
        self.path = Path(folder) / INDEX if folder is not None else None
        self.known = self._read()
        self.new: dict[str, list[Any]] = {}

    def of(self, file: Path) -> str:
        """16 hex digits of the bytes of a file, or of the names and bytes of the files in a
        folder. Raises OSError."""
        if file.is_dir():
            inside = [[one.name, self.of(one)] for one in sorted(file.iterdir()) if one.is_file()]
            return digest(inside, 16)
        if not file.is_file():  # to read a pipe would wait for ever
            raise FileNotFoundError(f"expected a file, found {describe_non_file(file)} at {file}")
        name, now, known = os.path.abspath(file), file_stamp(file), self.remembered(file)
        if known and known[1:] == now:
            return str(known[0])
        with open(file, "rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()[:16]
        if time.time() - max(now[1:3]) / 1e9 > RECENT:
            self.new[name] = [found, *now]
        return found

    def remembered(self, file: Path) -> list[Any] | None:
        """What is known of a file by its name: its hash, and its `file_stamp` when it was
        hashed; None for nothing."""
        name = os.path.abspath(file)
        return self.new.get(name) or self.known.get(name)

    def save(self) -> None:
        """Remember what was hashed, beside what others remembered meanwhile."""
        if self.path is not None and self.new:
            write_atomic(self.path, json.dumps(self._read() | self.new, ensure_ascii=False))
            self.new = {}

    def _read(self) -> dict[str, list[Any]]:
        try:
            found = json.loads(self.path.read_bytes()) if self.path is not None else {}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError):
            print(f"vidrl: {self.path} cannot be read: all files are hashed anew", file=sys.stderr)
            return {}
        sound = isinstance(found, dict)
        return (
            {k: v for k, v in found.items() if isinstance(v, list) and len(v) == 5} if sound else {}
        )
