"""The words of others, made safe to show."""

from __future__ import annotations

LONGEST = 500  # characters


def printable(text: str, longest: int = LONGEST) -> str:
    """A text of another machine as one line of printable characters, at most `longest` of
    its own.

    A terminal obeys escape codes, which can hide or forge lines; here each character that
    cannot be printed is written as its escape, and spaces and ends of lines are one space.

    >>> printable("a\\n\\x1b[31mred \\u202eback")
    'a \\\\x1b[31mred \\\\u202eback'
    """
    words = " ".join(text[: 4 * longest].split())
    kept = words[:longest] + ("..." if len(words) > longest else "")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in kept)
