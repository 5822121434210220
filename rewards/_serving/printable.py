"""Make texts from other machines safe to show in a terminal or a table."""

from __future__ import annotations

LONGEST = 500  # characters


def printable(text: str, longest: int = LONGEST) -> str:
    """Return a text of another machine as one printable line of at most `longest` characters.

    A terminal obeys escape codes, which can hide or forge lines. This function writes each
    character that cannot be printed as its escape and turns runs of white space into one
    space. A text that is cut off ends in "...".

    >>> printable("a\\n\\x1b[31mred \\u202eback")
    'a \\\\x1b[31mred \\\\u202eback'
    """
    # Only a prefix is split, so that a text of gigabytes costs no time. Four times the length
    # leaves room for white space that the join removes.
    line = " ".join(text[: 4 * longest].split())
    kept = line[:longest] + ("..." if len(line) > longest else "")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in kept)
