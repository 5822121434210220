"""Read prompt files: UTF-8 text with a prompt a line, or a table.

Lines of a text file that begin with # are comments. A table (.csv, .tsv, .jsonl, .json,
.parquet) has a column `prompt`, and may have columns of references, such as `image` and
`negative_prompt`: see `vidrl.data.prompt.Prompt`. Relative paths start in the table's
folder.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from vidrl.lookup.grammar import counted
from vidrl.rewards._files.tables import SUFFIXES

from . import clip_files, prompt_tables
from .prompt import Prompt, is_file, of
from .prompt_tables import BadPrompts, File, listed, rows

__all__ = [
    "BadPrompts",
    "File",
    "Prompt",
    "as_text",
    "comments",
    "differences",
    "notes",
    "read",
    "rows",
    "table",
]
MARK = "\ufeff"  # the byte-order mark that some editors put at the beginning of a file
# a table's names for what vidrl calls a prompt
COLUMNS = {"prompt", "prompts", "caption", "captions", "text"}


def read(path: str | Path, strict: bool = False) -> list[str]:
    """Return the prompts of a file in order, without comments; a table gives `Prompt`s.

    Raises the errors of `table`; with `strict`, raises BadPrompts if a row of a table would
    be left out.
    """
    found = table(path)
    if strict and found.left_out:
        raise BadPrompts(
            f"prompt file {path}: data.strict expects every row to be usable, but "
            f"{len(found.left_out)} are not:{listed(found.left_out)}"
        )
    return found.prompts


def table(path: str | Path) -> File:
    """Return the prompts of a file, and which rows of a table are left out: see `File`.

    Of a text file, only line feeds and carriage returns end a line, so that a prompt may
    hold U+2028 and other rare separators. A row of a table is left out where it has no
    prompt, repeats another row, lacks a file that other rows have, or names a file that is
    not there or cannot be read. Raises `BadPrompts` for a file that is missing, empty or
    not UTF-8; for a blank line of a text file, and for a table in it; for a column of a
    table that is neither the prompt nor a reference, a value of another kind, and a path
    that leads out of the folder of the table.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "prompts.jsonl"
    >>> row = '{"prompt": "a cat runs", "negative_prompt": "blur"}'
    >>> _ = file.write_text(row + '\\n{"prompt": ""}\\n')
    >>> found = table(file)
    >>> found.prompts, found.left_out
    ([Prompt('a cat runs', {'negative_prompt': 'blur'})], ['line 2 has no prompt'])
    """
    file = Path(path)
    return (
        prompt_tables.read(file) if file.suffix.lower() in SUFFIXES else File(_text_prompts(file))
    )


def as_text(prompts: Sequence[str]) -> tuple[str, str]:
    """Return prompts as a prompt file: its suffix and its content.

    The file is plain text, or JSON lines if plain lines cannot hold the prompts. Files are
    named by absolute paths, so that the prompt file may be in any folder.

    >>> as_text(["a cat", "a dog"])
    ('.txt', 'a cat\\na dog\\n')
    """
    if not any(
        of(prompt)
        or prompt.startswith("#")
        or "\n" in prompt
        or "\r" in prompt
        or prompt != prompt.strip()
        for prompt in prompts
    ):
        return ".txt", "".join(f"{prompt}\n" for prompt in prompts)
    rows = (
        {
            "prompt": str(prompt),
            **{
                name: os.path.abspath(value) if is_file(name) else value
                for name, value in of(prompt).items()
            },
        }
        for prompt in prompts
    )
    return ".jsonl", "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)


def comments(path: str | Path) -> int:
    """Return the number of comment lines of a prompt file; a table has none."""
    return (
        0
        if Path(path).suffix.lower() in SUFFIXES
        else sum(line.startswith("#") for line in _lines(path))
    )


def notes(
    training: str | Path, held_out: str | Path, n: int, others: Sequence[str] = ()
) -> list[str]:
    """Return notes on a run's two prompt files to show to the user.

    The first `n` held-out prompts are evaluated. `training` may be ""; `others` are prompts
    that are trained on and are in no prompt file.
    """
    found = {name: comments(name) for name in dict.fromkeys((str(training), str(held_out))) if name}
    messages = [
        f"{name}: {count} lines begin with #: they are comments, not prompts"
        for name, count in found.items()
        if count
    ]
    messages += [remark for name in found for remark in _remarks(name)]
    trained, measured = {*(read(training) if str(training) else ()), *others}, read(held_out)[:n]
    shared = sum(prompt in trained for prompt in measured)
    if shared:
        same = bool(str(training)) and Path(training).resolve() == Path(held_out).resolve()
        messages.append(
            f"{'data.prompts and data.held_out are one file: ' if same else ''}{shared} of "
            f"{len(measured)} held-out prompts are trained on as well, so that the held-out "
            "measures do not show how the model does on prompts that it was not trained on"
        )
    return messages


def differences(old: Sequence[str], new: Sequence[str]) -> str:
    """Describe in one line how two lists of prompts differ; empty if they are equal.

    >>> differences(["a cat", "a dog"], ["a dog", "a cow"])
    "2 prompts -> 2 prompts; no longer there: 'a cat'; new: 'a cow'"
    >>> differences(["a cat", "a dog"], ["a dog", "a cat"])
    '2 prompts -> the same prompts in another order'
    """
    if list(old) == list(new):
        return ""
    if Counter(old) == Counter(new):
        return f"{len(old)} prompts -> the same prompts in another order"
    removed, added = (
        [prompt for prompt in dict.fromkeys(a) if prompt not in set(b)]
        for a, b in ((old, new), (new, old))
    )
    messages = [
        f"; {what}: {_first_three(which)}"
        for what, which in (("no longer there", removed), ("new", added))
        if which
    ]
    return f"{len(old)} prompts -> {len(new)} prompts{''.join(messages)}"


def _first_three(prompts: Sequence[str]) -> str:
    """Return the first three prompts as text, and the number of the others."""
    more = f" and {len(prompts) - 3} more" if len(prompts) > 3 else ""
    return ", ".join(repr(prompt) for prompt in prompts[:3]) + more


def _text_prompts(path: Path) -> list[str]:
    """Return the prompts of a text file; raise BadPrompts for blank lines."""
    lines = _lines(path)
    prompts = [line for line in lines if not line.startswith("#")]
    if not prompts:
        raise BadPrompts(f"prompt file {path} is empty: expected one prompt a line")
    if "" in prompts:
        raise BadPrompts(
            f"prompt file {path}, line {lines.index('') + 1} is blank: expected one prompt a line; "
            "delete the line"
        )
    _refuse_table(path, prompts[0], lines.index(prompts[0]) + 1)
    return prompts


def _remarks(path: str) -> list[str]:
    """Return notes on how a table was read."""
    found = table(path)
    rows = counted(len(found.left_out), "rows are left out")
    lost = f"{path}: {rows}: {clip_files.shown(found.left_out)}"
    return [*found.notes, *([lost] if found.left_out else [])]


def _lines(path: str | Path) -> list[str]:
    """Return the lines of a text file without surrounding spaces and byte-order marks."""
    try:
        # read_text converts every end of line to a line feed
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadPrompts(
            f"prompt file {path}: expected a UTF-8 text file, one prompt a line, but {error}"
        ) from error
    return (
        [line.strip().strip(MARK).strip() for line in text.removesuffix("\n").split("\n")]
        if text
        else []
    )


def _refuse_table(path: str | Path, first: str, line: int) -> None:
    """Raise BadPrompts if a text file's first prompt is a table's header or JSON."""
    kind = "the header of a table" if _is_header(first) else "JSON" if _is_json(first) else ""
    if kind:
        raise BadPrompts(
            f"prompt file {path}, line {line}: expected plain text, one prompt a line, got "
            f"{kind}, {first[:60]!r}: write the prompts alone into a text file, one a line, or "
            "give the table its suffix, .csv or .jsonl"
        )


def _is_header(line: str) -> bool:
    """Return whether a line has short names between separators, one of which means a prompt."""
    cells = [cell.strip().strip("\"'").strip() for cell in re.split(r"[,;\t|]", line)]
    return all(re.fullmatch(r"\w*(?:[ ._-]\w+)?", cell) for cell in cells) and bool(
        {*map(str.lower, cells)} & COLUMNS
    )


def _is_json(line: str) -> bool:
    """Return whether a line begins a JSON object or list."""
    if line[:1] not in ("{", "["):
        return False
    try:
        return isinstance(json.loads(line), (dict, list))
    except json.JSONDecodeError:
        return line in ("{", "[")
