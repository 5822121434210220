"""Read which prompt, seed and reference belong to which file, for `score` and `bench`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..video import find
from .tables import SUFFIXES, BadTable, Note, TableRow, read_table, read_text

# The names that a column may have, vidrl's own first. Letter case and outer blanks of a
# name are ignored.
COLUMNS = {
    "path": (
        "path",
        "file",
        "filename",
        "file_name",
        "filepath",
        "file_path",
        "video",
        "video_path",
        "video_file",
        "video_name",
        "clip",
        "clip_path",
    ),
    "prompt": (
        "prompt",
        "caption",
        "text",
        "text_prompt",
        "prompt_text",
        "prompt_en",
        "description",
    ),
    "seed": ("seed",),
    "reference": ("reference",),
}
LINES = (".txt", "")  # suffixes of a file that holds one prompt a line
NO_SEED = ("none", "null", "nan")  # how Python, JSON and pandas write a missing seed


@dataclass(frozen=True)
class Row:
    """A row that says which prompt, seed and reference belong to a file.

    `where` is the row's place in the table, such as "line 3". `meta` holds the columns of
    other names.
    """

    where: str
    path: str
    prompt: str = ""
    seed: int | None = None
    reference: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)


def read_rows(path: str | os.PathLike[str], note: Note = lambda text: None) -> list[Row]:
    """Return the rows of a .csv, .tsv, .jsonl, .json or .parquet table of clips.

    A row has a `path` and optionally `prompt`, `seed`, `reference` and columns of other
    names, which become `meta`. Usual names of columns, such as `video` and `caption`, are
    accepted; `note` is called with a remark on each of them.

    Raises BadTable for a file of another kind, a column that two names could be, a row
    without a path, a prompt that is not text, a seed that is no whole number, and a path
    that occurs twice; ImportError for .parquet without pyarrow.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "prompts.csv"
    >>> _ = file.write_text('Video; Caption\\n0.mp4; a dog\\n')
    >>> read_rows(file)[0].path, read_rows(file)[0].prompt
    ('0.mp4', 'a dog')
    """
    path = Path(path)
    listed = read_table(
        path, lambda names: any(_plain(name) in COLUMNS["path"] for name in names), note
    )
    if not listed:
        raise BadTable(f"expected rows with a path in {path}, found none")
    column = _columns(
        path, list(dict.fromkeys(name for _, cells in listed for name in cells)), note
    )
    found = [_row(path, entry, column, note) for entry in listed]
    _check_once(path, found)
    if "prompt" in column and (bare := sum(not row.prompt for row in found)):
        note(f"{path.name}: {bare} of {len(found)} rows have an empty prompt")
    return found


def read_prompts(
    path: str | os.PathLike[str], note: Note = lambda text: None
) -> dict[Path, str] | list[str]:
    """Return the prompts of a file: by path from a table, or a list from a .txt file.

    A table is read by `read_rows`; its paths are relative to its folder. A .txt file has
    one prompt a line. Raises what `read_rows` raises, and BadTable for a table without
    prompts and for a blank line between prompts.
    """
    path = Path(path)
    if path.suffix.lower() in LINES:
        return _lines(path)
    if path.suffix.lower() not in SUFFIXES:
        raise BadTable(
            f"expected prompts in a table ending in {', '.join(SUFFIXES)}, or one a line in a .txt "
            "file, "
            f"got {path.name!r}"
        )
    found = read_rows(path, note)
    if not any(row.prompt for row in found):
        raise BadTable(f"expected a column prompt in {path}, found no prompt in {len(found)} rows")
    return {Path(os.path.abspath(path.parent / row.path)): row.prompt for row in found}


def match_prompts(
    paths: Iterable[str | os.PathLike[str]], prompts: dict[Path, str] | list[str]
) -> tuple[list[Path], dict[str, str]]:
    """Return the files to score with their prompts; without paths, the files of the table.

    A file that the table does not name has the prompt "". Raises ValueError if the table
    names none of the files, or if the number of lines is not the number of files.
    """
    if isinstance(prompts, dict):
        files = list(find(paths)) or list(prompts)
        if files and not any(Path(os.path.abspath(file)) in prompts for file in files):
            raise ValueError(
                f"expected a table with a row for the files, got {len(prompts)} rows of other "
                "files, the "
                f"first of {next(iter(prompts), None)}, where the first file is {files[0]}: paths "
                "of a "
                "table are relative to the table"
            )
        return files, {str(file): prompts.get(Path(os.path.abspath(file)), "") for file in files}
    files = list(find(paths))
    if len(files) != len(prompts):
        raise ValueError(
            f"expected {len(files)} prompts, one a file in order of name, got {len(prompts)} "
            "lines: a "
            "table, .csv or .jsonl with path and prompt, says which is whose"
        )
    return files, dict(zip(map(str, files), prompts, strict=True))


def unmatched_paths(files: Iterable[Path], prompts: dict[Path, str] | list[str]) -> list[Path]:
    """Return the files that the table names and `files` does not contain."""
    given = {Path(os.path.abspath(file)) for file in files}
    return [path for path in prompts if path not in given] if isinstance(prompts, dict) else []


# --- columns


def _plain(name: str) -> str:
    """Normalise a column's name: small letters, no outer blanks, `_` for blanks and dashes."""
    return re.sub(r"[\s-]+", "_", name.strip().casefold())


def _columns(path: Path, names: Sequence[str], note: Note) -> dict[str, str]:
    """Return the table's name of each column that vidrl knows, by vidrl's name."""
    found = {}
    for wanted, usual in COLUMNS.items():
        able = [name for name in names if _plain(name) in usual]
        exact = [name for name in able if _plain(name) == wanted]
        chosen = exact or able
        if len(chosen) > 1:
            raise BadTable(
                f"expected one column of {wanted} in {path}, got "
                f"{' and '.join(map(repr, chosen))}: name "
                f"one of them {wanted}, and the others otherwise"
            )
        if chosen:
            found[wanted] = chosen[0]
            if not exact or len(able) > 1:
                note(f"{path.name}: the column {chosen[0].strip()!r} is read as the {wanted}")
    if "path" not in found:
        raise BadTable(
            f"expected a column path, or of a usual name as {', '.join(COLUMNS['path'][1:7])}, in "
            f"{path}, "
            f"got {', '.join(name.strip() for name in names) or 'nothing'}: name the columns, in "
            "the first "
            "line of a .csv or .tsv file"
        )
    return found


def _check_once(path: Path, found: Sequence[Row]) -> None:
    """Raise BadTable if two rows name the same file."""
    first: dict[str, Row] = {}
    for row in found:
        before = first.setdefault(os.path.abspath(path.parent / row.path), row)
        if before is not row:
            raise BadTable(
                f"{path}, {row.where}: {row.path} is on {before.where} already: keep one"
            )


# --- rows


def _row(path: Path, entry: TableRow, column: Mapping[str, str], note: Note) -> Row:
    """Check the cells of one row and return them as a Row."""
    where, cells = f"{path}, {entry[0]}", entry[1]
    values = {wanted: cells.get(name) for wanted, name in column.items()}
    name = values["path"]
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise BadTable(f"{where}: expected a path, got {name!r}")
    if "prompt" in column and column["prompt"] not in cells:
        raise BadTable(
            f"{where}: expected {column['prompt']!r} as in the other rows, got {', '.join(cells)}; "
            "write "
            "null for a clip without a prompt"
        )
    for wanted in ("prompt", "reference"):
        value = values.get(wanted)
        if value is not None and (
            not isinstance(value, str) or "\0" in value or wanted == "prompt" and _broken(value)
        ):
            raise BadTable(f"{where}: expected {wanted} to be text, got {value!r}")
    meta = {
        key.strip(): value
        for key, value in cells.items()
        if key not in column.values() and value is not None
    }
    return Row(
        entry[0],
        _slashes(path, name, note),
        values.get("prompt") or "",
        _seed(where, values.get("seed")),
        values.get("reference") or "",
        meta,
    )


def _broken(prompt: str) -> bool:
    """Return whether a text holds half of a UTF-16 pair, such as JSON's \\ud800.

    No file can hold such a text as UTF-8.
    """
    return re.search("[\ud800-\udfff]", prompt) is not None


def _slashes(path: Path, name: str, note: Note) -> str:
    """Return a path with Windows' backslashes as slashes, unless a file has exactly that name."""
    if "\\" not in name or os.sep == "\\" or (path.parent / name).exists():
        return name
    note(f"{path.name}: backslashes of paths are read as slashes, the first in {name}")
    return name.replace("\\", "/")


def _seed(where: str, seed: Any) -> int | None:
    """Return the seed of a cell, None for a missing one; raise BadTable for another value."""
    written = str(seed).strip()
    if seed is None or written.casefold() in NO_SEED:
        return None
    # pandas turns whole numbers into floats, "3.0", as soon as a column has a missing value.
    if isinstance(seed, bool) or not re.fullmatch(r"[+-]?\d{1,20}(\.0+)?", written):
        raise BadTable(f"{where}: expected seed to be a whole number or nothing, got {seed!r}")
    return int(written.split(".")[0])


def _lines(path: Path) -> list[str]:
    """Return the prompts of a file with one prompt a line; blank lines at the end do not count.

    Only line feeds and carriage returns end a line: `str.splitlines` would also split at
    U+2028 and its like, which may occur inside a prompt.
    """
    lines = [line.strip() for line in re.split(r"\r\n|\n|\r", read_text(path).rstrip())]
    if "" in lines:
        where = f"line {lines.index('') + 1} is blank" if len(lines) > 1 else "it is empty"
        raise BadTable(f"expected one prompt a line in {path}, but {where}")
    return lines
