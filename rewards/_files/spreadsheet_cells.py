"""Write cells that no spreadsheet runs as a formula, and read them back.

A spreadsheet runs a cell that begins with =, +, - or @. It does so too if one of these
signs follows a tab, a line end or invisible characters, which it strips: blanks of every
width, zero-width spaces, byte-order marks.
"""

from __future__ import annotations

import unicodedata

# The first characters of a formula, in narrow and wide form.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")  # letters and signs that are drawn as nothing
# Unicode's categories of separators, of control and format characters, of combining marks.
UNSEEN = ("Z", "C", "M")


def is_formula(text: str) -> bool:
    """Return whether a spreadsheet may run this text as a formula.

    Wide and small forms of the four signs count as well.

    >>> [is_formula(text) for text in ("=1+1", " \\ufeff＝1", "\\ta", "a = b", "-", "")]
    [True, True, True, False, True, False]
    """
    for sign in text:
        if sign in FORMULA:
            return True
        if sign not in BLANK and not unicodedata.category(sign).startswith(UNSEEN):
            # NFKC maps small and wide forms of a sign to the plain sign.
            return unicodedata.normalize("NFKC", sign)[0] in FORMULA
    return False


def escape_formula(value: object) -> object:
    """Return a value as a cell that no spreadsheet runs; numbers stay numbers.

    A text that may be a formula gets an apostrophe in front. So does such a text that
    begins with apostrophes already; otherwise `unescape_formula` could not restore it.

    >>> [escape_formula(value) for value in ("=cmd", "\\u00a0@x", "a cat", -0.5, None)]
    ["'=cmd", "'\\xa0@x", 'a cat', -0.5, None]
    """
    return f"'{value}" if isinstance(value, str) and is_formula(value.lstrip("'")) else value


def unescape_formula(text: str) -> str:
    """Return the text of a cell without the apostrophe that `escape_formula` put in front.

    >>> [unescape_formula(escape_formula(text)) for text in ("=a", "'=a", "'quoted'")]
    ['=a', "'=a", "'quoted'"]
    """
    return text[1:] if text.startswith("'") and is_formula(text.lstrip("'")) else text
