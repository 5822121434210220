"""A prompt file: plain UTF-8 text, one prompt a line; lines that begin with # are comments."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from vidrl.prompt import Prompt

__all__ = ["BadPrompts", "Prompt", "comments", "differences", "notes", "read"]
MARK = "\ufeff"  # the byte-order mark that some editors put at the beginning of a file
COLUMNS = {"prompt", "prompts", "caption", "captions", "text"}  # a table's names for what vidrl calls a prompt


class BadPrompts(ValueError):
    """A prompt file that cannot be used; the message names the line and the cure."""


def read(path: str | Path) -> list[str]:
    """The prompts of a file in its order, without comment lines.

    Only line feeds and carriage returns end a line, so that a prompt may hold U+2028 and other rare separators. Raises
    `BadPrompts` for a file that is missing, empty or not UTF-8, for a blank line, and for a table (CSV, TSV, JSON).
    """
    lines = _lines(path)
    prompts = [line for line in lines if not line.startswith("#")]
    if not prompts:
        raise BadPrompts(f"prompt file {path} is empty: expected one prompt a line")
    if "" in prompts:
        raise BadPrompts(f"prompt file {path}, line {lines.index('') + 1} is blank: expected one prompt a line; "
                         "delete the line")
    _no_table(path, prompts[0], lines.index(prompts[0]) + 1)
    return prompts


def comments(path: str | Path) -> int:
    """How many lines of a prompt file are comments."""
    return sum(line.startswith("#") for line in _lines(path))


def notes(training: str | Path, held_out: str | Path, n: int, others: Sequence[str] = ()) -> list[str]:
    """What a person should know of a run's two prompt files; the first `n` held-out prompts are evaluated on.

    `training` "" is none; `others` are prompts that are trained on and stand in no prompt file.
    """
    found = {name: comments(name) for name in dict.fromkeys((str(training), str(held_out))) if name}
    told = [f"{name}: {count} lines begin with #: they are comments, not prompts"
            for name, count in found.items() if count]
    trained, measured = {*(read(training) if str(training) else ()), *others}, read(held_out)[:n]
    shared = sum(prompt in trained for prompt in measured)
    if shared:
        same = bool(str(training)) and Path(training).resolve() == Path(held_out).resolve()
        told.append(f"{'data.prompts and data.held_out are one file: ' if same else ''}{shared} of {len(measured)} "
                    "held-out prompts are trained on as well, so that the held-out measures do not show how the model "
                    "does on prompts that it was not trained on")
    return told


def differences(old: Sequence[str], new: Sequence[str]) -> str:
    """In what two lists of prompts differ, in one line; empty where they are equal.

    >>> differences(["a cat", "a dog"], ["a dog", "a cow"])
    "2 prompts -> 2 prompts; no longer there: 'a cat'; new: 'a cow'"
    >>> differences(["a cat", "a dog"], ["a dog", "a cat"])
    '2 prompts -> the same prompts in another order'
    """
    if list(old) == list(new):
        return ""
    if sorted(old) == sorted(new):
        return f"{len(old)} prompts -> the same prompts in another order"
    gone, added = ([one for one in dict.fromkeys(a) if one not in set(b)] for a, b in ((old, new), (new, old)))
    told = [f"; {what}: {_few(which)}" for what, which in (("no longer there", gone), ("new", added)) if which]
    return f"{len(old)} prompts -> {len(new)} prompts{''.join(told)}"


def _few(prompts: Sequence[str]) -> str:
    more = f" and {len(prompts) - 3} more" if len(prompts) > 3 else ""
    return ", ".join(repr(prompt) for prompt in prompts[:3]) + more


def _lines(path: str | Path) -> list[str]:
    try:
        text = Path(path).read_text(encoding="utf-8")  # every end of line arrives here as a line feed
    except (OSError, UnicodeDecodeError) as error:
        raise BadPrompts(f"prompt file {path}: expected a UTF-8 text file, one prompt a line, but {error}") from error
    return [line.strip().strip(MARK).strip() for line in text.removesuffix("\n").split("\n")] if text else []


def _no_table(path: str | Path, first: str, line: int) -> None:
    """Raise where the first prompt is the header of a table, or a JSON object or list."""
    kind = "the header of a table" if _is_header(first) else "JSON" if _is_json(first) else ""
    if kind:
        raise BadPrompts(f"prompt file {path}, line {line}: expected plain text, one prompt a line, got {kind}, "
                         f"{first[:60]!r}: write the prompts alone into a text file, one a line")


def _is_header(line: str) -> bool:
    """Whether short names stand between separators, and one of them means a prompt."""
    cells = [cell.strip().strip("\"'").strip() for cell in re.split(r"[,;\t|]", line)]
    return all(re.fullmatch(r"\w*(?:[ ._-]\w+)?", cell) for cell in cells) and bool({*map(str.lower, cells)} & COLUMNS)


def _is_json(line: str) -> bool:
    if line[:1] not in ("{", "["):
        return False
    try:
        return isinstance(json.loads(line), (dict, list))
    except json.JSONDecodeError:
        return line in ("{", "[")
