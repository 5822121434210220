"""Files that appear whole or not at all, in folders that others may write to.

Until a file is whole it has a name that nobody can tell before, and it is opened only if
nothing has that name. In a shared folder another person could otherwise put a link of that
name there, and we would overwrite what the link leads to. The last step puts the file in
place of whatever has the wanted name; a link of that name is replaced, not followed.
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

PARTIAL = ".partial-"  # how the names of unfinished files begin


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A new open file that takes the place of `path` at the end, or goes away where
    something was raised.

    Its mode is that of any new file.
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
    """The same for a library that writes by name: where it is to write, in a private folder
    beside `path`."""
    with new_files(path.parent) as folder:
        yield folder / path.name


@contextmanager
def new_files(folder: Path) -> Iterator[Path]:
    """A private folder whose files take their places in `folder` at the end, with the mode
    of any new file."""
    private = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=folder))  # its owner alone may enter it
    try:
        yield private
        made = sorted(path for path in private.iterdir() if path.is_file())
        (private / PARTIAL).touch()
        for file in made:
            file.chmod((private / PARTIAL).stat().st_mode & 0o777)
            os.replace(file, folder / file.name)
    finally:
        shutil.rmtree(private, ignore_errors=True)


def write_bytes(path: Path, content: bytes) -> Path:
    """Write a file whole; return its path.

    >>> folder = Path(tempfile.mkdtemp())
    >>> write_bytes(folder / "a.txt", b"whole").read_bytes(), [path.name for path in folder.iterdir()]
    (b'whole', ['a.txt'])
    """
    with new_file(path) as file:
        file.write(content)
    return path


def refuse_link(path: str, flags: int) -> int:
    """An opener for `open`, for files that are appended to or held: a link is refused, as
    it may lead anywhere."""
    try:
        return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise OSError(
            errno.ELOOP, "expected a file of this folder, found a link: remove the link", str(path)
        ) from None
