"""Which prompt, seed and reference belong to which file: the one reader of such tables, for
`score` and for `bench`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..video import find
from .tables import SUFFIXES, BadTable, Note, TableRow, read_table, read_text

# the names that a column may have, vidrl's own first; letter case, and blanks around a
# name, do not count
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
NO_SEED = ("none", "null", "nan")  # what Python, JSON and pandas print for a seed that is not there


@dataclass(frozen=True)
class Row:
    """What the table says of one file. `where` is the row's place in the table, as "line
    3"."""

    where: str
    path: str
    prompt: str = ""
    seed: int | None = None
    reference: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)


def read_rows(path: str | os.PathLike[str], note: Note = lambda said: None) -> list[Row]:
    """The rows of a .csv, .tsv, .jsonl, .json or .parquet table of clips.

    A row has a `path` and, where wanted, `prompt`, `seed`, `reference` and columns of other
    names, which become `meta`. Usual names of columns, as `video` and `caption`, are
    accepted, and `note` is told. Raises BadTable for another file, a column that two names
    could be, a row without a path, a prompt that is not text, a seed that is no whole
    number, a path that comes twice; ImportError for .parquet without pyarrow.

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
    path: str | os.PathLike[str], note: Note = lambda said: None
) -> dict[Path, str] | list[str]:
    """The prompts of a file: by path from a table, see `read_rows`; one a line, in order, from a
    .txt file.

    Paths are taken from the folder of the table. Raises what `read_rows` raises, and BadTable
    for a table without prompts and for a blank line between prompts.
    """
    path = Path(path)
    if path.suffix.lower() in LINES:
        return _lines(path)
    if path.suffix.lower() not in SUFFIXES:
        raise BadTable(
            f"expected prompts in a table ending in {', '.join(SUFFIXES)}, or one a line in a .txt file, "
            f"got {path.name!r}"
        )
    found = read_rows(path, note)
    if not any(row.prompt for row in found):
        raise BadTable(f"expected a column prompt in {path}, found no prompt in {len(found)} rows")
    return {Path(os.path.abspath(path.parent / row.path)): row.prompt for row in found}


def match_prompts(
    paths: Iterable[str | os.PathLike[str]], prompts: dict[Path, str] | list[str]
) -> tuple[list[Path], dict[str, str]]:
    """The files to score and their prompts; without paths, those of the table.

    A file that the table does not name has the prompt "". Raises ValueError where the table
    names none of the files, or the lines are not as many as the files.
    """
    if isinstance(prompts, dict):
        files = list(find(paths)) or list(prompts)
        if files and not any(Path(os.path.abspath(file)) in prompts for file in files):
            raise ValueError(
                f"expected a table with a row for the files, got {len(prompts)} rows of other files, the "
                f"first of {next(iter(prompts), None)}, where the first file is {files[0]}: paths of a "
                "table are relative to the table"
            )
        return files, {str(file): prompts.get(Path(os.path.abspath(file)), "") for file in files}
    files = list(find(paths))
    if len(files) != len(prompts):
        raise ValueError(
            f"expected {len(files)} prompts, one a file in order of name, got {len(prompts)} lines: a "
            "table, .csv or .jsonl with path and prompt, says which is whose"
        )
    return files, dict(zip(map(str, files), prompts, strict=True))


def unmatched_paths(files: Iterable[Path], prompts: dict[Path, str] | list[str]) -> list[Path]:
    """The files of the table that are not among `files`."""
    given = {Path(os.path.abspath(file)) for file in files}
    return [path for path in prompts if path not in given] if isinstance(prompts, dict) else []


# --- columns
# ---------------------------------------------------------------------------------------------------------


def _plain(name: str) -> str:
    """A column's name without what may differ: letter case, outer blanks, and blanks or
    dashes for `_`."""
    return re.sub(r"[\s-]+", "_", name.strip().casefold())


def _columns(path: Path, names: Sequence[str], note: Note) -> dict[str, str]:
    """By vidrl's name of a column, the name that the table has for it."""
    found = {}
    for wanted, usual in COLUMNS.items():
        able = [name for name in names if _plain(name) in usual]
        exact = [name for name in able if _plain(name) == wanted]
        chosen = exact or able
        if len(chosen) > 1:
            raise BadTable(
                f"expected one column of {wanted} in {path}, got {' and '.join(map(repr, chosen))}: name "
                f"one of them {wanted}, and the others otherwise"
            )
        if chosen:
            found[wanted] = chosen[0]
            if not exact or len(able) > 1:
                note(f"{path.name}: the column {chosen[0].strip()!r} is read as the {wanted}")
    if "path" not in found:
        raise BadTable(
            f"expected a column path, or of a usual name as {', '.join(COLUMNS['path'][1:7])}, in {path}, "
            f"got {', '.join(name.strip() for name in names) or 'nothing'}: name the columns, in the first "
            "line of a .csv or .tsv file"
        )
    return found


def _check_once(path: Path, found: Sequence[Row]) -> None:
    first: dict[str, Row] = {}
    for row in found:
        before = first.setdefault(os.path.abspath(path.parent / row.path), row)
        if before is not row:
            raise BadTable(
                f"{path}, {row.where}: {row.path} is on {before.where} already: keep one"
            )


# --- rows
# ------------------------------------------------------------------------------------------------------------


def _row(path: Path, entry: TableRow, column: Mapping[str, str], note: Note) -> Row:
    where, cells = f"{path}, {entry[0]}", entry[1]
    values = {wanted: cells.get(name) for wanted, name in column.items()}
    name = values["path"]
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise BadTable(f"{where}: expected a path, got {name!r}")
    if "prompt" in column and column["prompt"] not in cells:
        raise BadTable(
            f"{where}: expected {column['prompt']!r} as in the other rows, got {', '.join(cells)}; write "
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
    """Whether a text holds half of a pair of UTF-16, as JSON's \\ud800, which no file can
    hold."""
    return re.search("[\ud800-\udfff]", prompt) is not None


def _slashes(path: Path, name: str, note: Note) -> str:
    """A path that Windows wrote, `folder\\0.mp4`, with slashes, unless a file has that very
    name."""
    if "\\" not in name or os.sep == "\\" or (path.parent / name).exists():
        return name
    note(f"{path.name}: backslashes of paths are read as slashes, the first in {name}")
    return name.replace("\\", "/")


def _seed(where: str, seed: Any) -> int | None:
    said = str(seed).strip()
    if seed is None or said.casefold() in NO_SEED:
        return None
    if isinstance(seed, bool) or not re.fullmatch(r"[+-]?\d{1,20}(\.0+)?", said):
        raise BadTable(f"{where}: expected seed to be a whole number or nothing, got {seed!r}")
    return int(said.split(".")[0])


def _lines(path: Path) -> list[str]:
    """One prompt a line; blank lines at the end are no prompts. U+2028 and the like may
    stand inside a prompt."""
    lines = [line.strip() for line in re.split(r"\r\n|\n|\r", read_text(path).rstrip())]
    if "" in lines:
        where = f"line {lines.index('') + 1} is blank" if len(lines) > 1 else "it is empty"
        raise BadTable(f"expected one prompt a line in {path}, but {where}")
    return lines
