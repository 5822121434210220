"""Write files that appear complete or not at all, in folders that others may write to.

Until a file is complete it has a random name, and it is opened only if nothing has that
name. In a shared folder another person could otherwise create a link with a predictable
name, and the write would overwrite the link's target. The last step replaces whatever has
the wanted name; a link of that name is replaced, not followed.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

PARTIAL = ".partial-"  # the prefix of the names of unfinished files


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Open a new file that replaces `path` when the block ends, or vanishes if the block raises.

    The file has the mode of any new file.
    """
    part = path.with_name(f"{PARTIAL}{secrets.token_hex(8)}{path.suffix}")
    try:
        with open(part, "xb+") as file:
            yield file
        os.replace(part, path)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()


@contextmanager
def new_path(path: Path) -> Iterator[Path]:
    """Give a private path for a library that writes by name; move the file at the end."""
    with new_files(path.parent) as folder:
        yield folder / path.name


@contextmanager
def new_files(folder: Path) -> Iterator[Path]:
    """Give a private folder whose files move to `folder` at the end, with the mode of new files."""
    private = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=folder))  # only its owner may enter it
    try:
        yield private
        files = sorted(path for path in private.iterdir() if path.is_file())
        # A fresh file shows the mode that the user's umask gives; libraries may have chosen a
        # stricter one.
        (private / PARTIAL).touch()
        for file in files:
            file.chmod((private / PARTIAL).stat().st_mode & 0o777)
            os.replace(file, folder / file.name)
    finally:
        shutil.rmtree(private, ignore_errors=True)


def write_bytes(path: Path, content: bytes) -> Path:
    """Write a complete file and return its path.

    >>> folder = Path(tempfile.mkdtemp())
    >>> write_bytes(folder / "a.txt", b"content").read_bytes()
    b'content'
    >>> [path.name for path in folder.iterdir()]
    ['a.txt']
    """
    with new_file(path) as file:
        file.write(content)
    return path


def refuse_link(path: str, flags: int) -> int:
    """Open a file for `open(opener=...)`, refusing a link, whose target may be anywhere.

    This is for files that are appended to or locked, which cannot be replaced atomically.
    """
    try:
        return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise OSError(
            errno.ELOOP, "expected a file of this folder, found a link: remove the link", str(path)
        ) from None
