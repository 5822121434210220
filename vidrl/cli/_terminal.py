"""What commands print, without the characters that a terminal obeys.

File names, prompts, and messages of libraries and of other machines may hold escape codes,
which move the cursor, hide or forge lines, or set the title of the window; and marks that
reverse the direction of a text. They are printed as their escapes. Names of files and
prompts are in many messages, so that this is done where all of them pass.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# C0 and C1 without tab and end of line, a return amid a line, and marks of direction
OBEYED = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]|(?<=[^\n])\r(?!\n|$)"
)


def plain(text: str) -> str:
    r"""The text, in which what a terminal obeys stands as its escape; a return at the
    start, as of progress, stays.

    >>> plain("a\x1b[2J\tb\r\n"), plain("\r3 of 5"), plain("ok\rforged \u202e")
    ('a\\x1b[2J\tb\r\n', '\r3 of 5', 'ok\\rforged \\u202e')
    """
    return OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class Plain:
    """A text stream that writes `plain` text to another one, and is that one in all
    else."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text; return its length."""
        self._stream.write(plain(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write the lines."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def plainly() -> Iterator[None]:
    """Within, what goes to standard output and error is `plain`."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = Plain(sys.stdout), Plain(sys.stderr)  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
