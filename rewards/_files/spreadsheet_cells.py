"""Cells of a table that no spreadsheet takes for a formula, and what was meant by them when
they are read again.

A spreadsheet runs a cell that begins with =, +, - or @, and so it does where these come
after a tab or a line end, or after characters that nobody sees, which it takes away: blanks
of every width, zero-width spaces, byte order marks.
"""

from __future__ import annotations

import unicodedata

# where spreadsheets begin a formula
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")  # letters and signs that are drawn as nothing
# Unicode's classes of separators, of control and format characters, of marks on a letter
UNSEEN = ("Z", "C", "M")


def is_formula(text: str) -> bool:
    """Whether a spreadsheet may run this text as a formula; wide and small forms of the
    four signs count as well.

    >>> [is_formula(text) for text in ("=1+1", " \\ufeff＝1", "\\ta", "a = b", "-", "")]
    [True, True, True, False, True, False]
    """
    for sign in text:
        if sign in FORMULA:
            return True
        if sign not in BLANK and not unicodedata.category(sign).startswith(UNSEEN):
            return unicodedata.normalize("NFKC", sign)[0] in FORMULA
    return False


def escape_formula(value: object) -> object:
    """A value as a cell that no spreadsheet runs: text that may be a formula gets an
    apostrophe, numbers stay numbers.

    >>> escape_formula("=cmd"), escape_formula("\\u00a0@x"), escape_formula("a cat"), escape_formula(-0.5), escape_formula(None)
    ("'=cmd", "'\\xa0@x", 'a cat', -0.5, None)
    """
    return f"'{value}" if isinstance(value, str) and is_formula(value.lstrip("'")) else value


def unescape_formula(text: str) -> str:
    """The text of a cell without the apostrophe that `escape_formula` put before it.

    >>> unescape_formula(escape_formula("=a")), unescape_formula(escape_formula("'=a")), unescape_formula("'quoted'")
    ('=a', "'=a", "'quoted'")
    """
    return text[1:] if text.startswith("'") and is_formula(text.lstrip("'")) else text
