"""Store what was measured, one small file for each clip, dim and protocol.

The name of a file is a hash of all that its numbers depend on: the bytes of the clip; the
reference and the prompt where the dim reads them; the protocol; the dim; the device; and
the code that measures. A file is written whole or not at all, and is never changed.

So several processes and machines share a folder without locks: two processes that measure
the same write the same file, and no process overwrites another's numbers. A process that is
killed loses at most the clip that it was working on. One file for each clip would have to
be merged when a dim is added, and concurrent merges lose rows.
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

FORMAT = 1  # of a row's file; another number is measured again
INDEX = "files.json"  # the remembered hashes of files
# Seconds. A file that changed so recently may change again within the resolution of its
# time stamp, so its hash is not remembered.
RECENT = 2.0
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
    """A folder of measured rows.

    `corrupt` lists the files that could not be read; their rows are measured again.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.corrupt: list[Path] = []

    def get(self, key: str) -> dict[str, Any] | None:
        """Return the row of a key, or None if no valid file has it."""
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
        """Store a row atomically: readers see the whole row or none."""
        text = json.dumps(
            {"format": FORMAT, "key": key, **row}, ensure_ascii=False, allow_nan=False
        )
        write_atomic(self._path(key), text)

    def _path(self, key: str) -> Path:
        """Return the file of a key; two hex digits name a folder, so that no folder is huge."""
        return self.folder / key[:2] / f"{key}.json"


def write_atomic(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all, also with several writers.

    A byte of a file name that is not UTF-8 is written as the escape of its surrogate, for
    example \\udce9. A JSON text with that escape is read back as the same file name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_file.write_bytes(path, text.encode("utf-8", "backslashreplace"))


def key(clip: str, dim: str, protocol: str, **others: Any) -> str:
    """Return the name of a row: 32 hex digits of all that its numbers depend on."""
    return digest([clip, dim, protocol, code_version(), others], 32)


@lru_cache
def code_version() -> str:
    """Return a hash of the reward library's source and of the versions of what it computes with.

    It is part of every key: after a change of the code, clips are measured again.
    """
    import cv2
    import numpy
    import torch

    import vidrl.rewards

    hasher = hashlib.sha256(f"{torch.__version__} {numpy.__version__} {cv2.__version__}".encode())
    for path in sorted(Path(vidrl.rewards.__file__).parent.rglob("*.py")):
        hasher.update(path.name.encode() + path.read_bytes())
    return hasher.hexdigest()[:16]


def file_stamp(file: str | os.PathLike[str]) -> list[int]:
    """Return numbers that change whenever the bytes of a file change.

    They are size, modification and change time in nanoseconds, and inode. A copy or an
    archive may restore the size and the modification time (mtime). No program can set the
    change time (ctime), and a file that replaces another one has its own inode. Raises
    OSError.
    """
    facts = os.stat(file)
    return [facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino]


class Hashes:
    """SHA-256 hashes of files, remembered while the `file_stamp` of a file stays the same.

    They are stored in the cache's folder, because hashing gigabytes of clips takes minutes.
    Several processes may store at once: an entry that one of them loses is only hashed
    again.
    """

    def __init__(self, folder: str | os.PathLike[str] | None) -> None:
        self.path = Path(folder) / INDEX if folder is not None else None
        self.known = self._read()
        self.new: dict[str, list[Any]] = {}

    def of(self, file: Path) -> str:
        """Return 16 hex digits of a file's bytes, or of a folder's files and their names.

        Raises OSError.
        """
        if file.is_dir():
            children = sorted(child for child in file.iterdir() if child.is_file())
            return digest([[child.name, self.of(child)] for child in children], 16)
        if not file.is_file():  # reading a pipe would wait for ever
            raise FileNotFoundError(f"expected a file, found {describe_non_file(file)} at {file}")
        name, now = os.path.abspath(file), file_stamp(file)
        entry = self.remembered(file)
        if entry and entry[1:] == now:
            return str(entry[0])
        with open(file, "rb") as opened:
            digits = hashlib.file_digest(opened, "sha256").hexdigest()[:16]
        if time.time() - max(now[1:3]) / 1e9 > RECENT:
            self.new[name] = [digits, *now]
        return digits

    def remembered(self, file: Path) -> list[Any] | None:
        """Return [hash, *stamp when it was hashed] of a file, None if it was never hashed."""
        name = os.path.abspath(file)
        return self.new.get(name) or self.known.get(name)

    def save(self) -> None:
        """Store the new hashes together with those that other processes stored meanwhile."""
        if self.path is not None and self.new:
            write_atomic(self.path, json.dumps(self._read() | self.new, ensure_ascii=False))
            self.new = {}

    def _read(self) -> dict[str, list[Any]]:
        """Return the stored hashes by file; none, with a message, if the index is damaged."""
        try:
            entries = json.loads(self.path.read_bytes()) if self.path is not None else {}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError):
            print(f"vidrl: {self.path} cannot be read: all files are hashed again", file=sys.stderr)
            return {}
        is_table = isinstance(entries, dict)
        return (
            # an entry is the hash and the four numbers of `file_stamp`
            {k: v for k, v in entries.items() if isinstance(v, list) and len(v) == 5}
            if is_table
            else {}
        )
