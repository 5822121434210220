"""Escape the characters that control a terminal in everything that commands print.

File names, prompts, and messages of libraries and of other machines may hold escape codes,
which move the cursor, hide or forge lines, or set the title of the window, and marks that
reverse the direction of a text. Names of files and prompts occur in many messages, so the
characters are escaped in the two streams that all messages pass through.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# C0 and C1 controls without tab and line feed, a carriage return inside a line, and marks
# that change the direction of a text
CONTROLS = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]|(?<=[^\n])\r(?!\n|$)"
)
# what tqdm writes, in a call of its own, to redraw a bar above another bar
CURSOR_UP = re.compile("(\x1b\\[A)+")


def plain(text: str) -> str:
    r"""Return the text with its terminal controls escaped.

    A carriage return at the start of the text stays, because progress bars begin with it.

    Example:
        >>> plain("a\x1b[2J\tb\r\n"), plain("\r3 of 5"), plain("ok\rforged \u202e")
        ('a\\x1b[2J\tb\r\n', '\r3 of 5', 'ok\\rforged \\u202e')
    """
    return CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class Plain:
    """A text stream that escapes terminal controls and passes the text to another stream."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text and return its length."""
        self._stream.write(text if CURSOR_UP.fullmatch(text) else plain(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write the lines."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def plainly() -> Iterator[None]:
    """Escape terminal controls in standard output and standard error inside the context."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = Plain(sys.stdout), Plain(sys.stderr)  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def console(stream: Any) -> Any:
    """Return a rich console that draws on the stream, with colours if it is a terminal.

    The console writes past `Plain`, which would escape the console's own colours: escape
    each text with `printable` before the console gets it.
    """
    from rich.console import Console

    file = stream._stream if isinstance(stream, Plain) else stream
    return Console(file=file, highlight=False)


def printable(text: str, encoding: str | None) -> str:
    """Return the text with escapes for terminal controls and for what the encoding lacks.

    Example:
        >>> printable("caf\\udce9 \\x1b[2J", "utf-8")
        'caf\\\\udce9 \\\\x1b[2J'
    """
    encoding = encoding or "utf-8"
    return plain(text).encode(encoding, "backslashreplace").decode(encoding)
