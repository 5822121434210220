"""Tables of any usual format as rows of cells: .csv, .tsv, .json, .jsonl and .parquet
files.

A reader either knows what a file says or refuses it with the place and the cure. Line
breaks inside a cell are kept.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .spreadsheet_cells import unescape_formula

Cells = dict[str, Any]  # what a row holds, by the names of its columns as the file spells them
TableRow = tuple[str, Cells]  # where a row stands in its file, as "line 3", and its cells
# whether these names of columns are those of the wanted table
IsHeader = Callable[[Sequence[str]], bool]
Note = Callable[[str], None]
SEPARATORS = {".csv": ",;\t", ".tsv": "\t,;"}  # the usual one first
SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    # UTF-32's mark begins with UTF-16's
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
OBJECT = '{"path": ..., "prompt": ...}'


class BadTable(ValueError):
    """A table that cannot be used; the message names the place in the file and the cure."""


def read_table(path: Path, known: IsHeader, note: Note) -> list[TableRow]:
    """The rows of a table. `known` checks whether a header is the wanted one; `note` is
    called with each remark.

    Raises BadTable for a file that is not a table of its suffix, and ImportError for
    .parquet without pyarrow.
    """
    suffix = path.suffix.lower()
    if suffix in SEPARATORS:
        return list(_separated(path, known, note))
    if suffix not in SUFFIXES:
        raise BadTable(f"expected a table ending in {', '.join(SUFFIXES)}, got {path.name!r}")
    if suffix == ".parquet":
        return _parquet(path)
    return (
        _json(path, read_text(path), known)
        if suffix == ".json"
        else list(_objects(path, read_text(path)))
    )


def read_text(path: Path) -> str:
    """The text of a file: UTF-8, or what its byte-order mark says. Raises BadTable for
    other encodings and NUL."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise BadTable(f"expected a table at {path}, but {error}") from error
    encoding = next((name for mark, name in MARKS.items() if raw.startswith(mark)), "utf-8")
    try:
        found = raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise BadTable(
            f"expected UTF-8 text in {path}, but {error}: save the file as UTF-8, for example by "
            f"`iconv -f LATIN1 -t UTF-8` if it is Latin-1"
        ) from error
    if "\0" in found:
        line = found[: found.index("\0")].count("\n") + 1
        raise BadTable(
            f"{path}, line {line}: expected text, got a NUL character: save the file as UTF-8"
        )
    return found


# --- separated values
# ------------------------------------------------------------------------------------------------


def _separated(path: Path, known: IsHeader, note: Note) -> Iterator[TableRow]:
    """Rows by the names in the first line. Rows of blank cells alone are left out."""
    read = read_text(path)
    usual = SEPARATORS[path.suffix.lower()]
    separator = next((sign for sign in usual if known(_header(path, read, sign))), usual[0])
    if separator != usual[0]:
        note(f"{path.name}: its columns are separated by {separator!r}")
    spaced = any(name != name.strip() for name in _header(path, read, separator))
    rows = (
        row
        for row in _records(path, read, separator, spaced)
        if any(cell.strip() for cell in row[1])
    )
    names = [unescape_formula(name) for name in next(rows, ("", []))[1]]
    _check_header(path, names)
    if "" in names:
        note(f"{path.name}: a column without a name is not read")
    for where, cells in rows:
        if len(cells) != len(names):
            raise BadTable(
                f"{path}, {where}: expected {len(names)} columns as in the first line, got {len(cells)}; a "
                "prompt with commas needs quotes"
            )
        yield (
            where,
            {
                name: unescape_formula(cell) or None
                for name, cell in zip(names, cells, strict=True)
                if name
            },
        )


def _header(path: Path, read: str, separator: str) -> list[str]:
    """The first row that is not blank, unstripped."""
    try:
        return next(
            (cells for _, cells in _records(path, read, separator) if any(map(str.strip, cells))),
            [],
        )
    except BadTable:
        # quotes that this separator cannot explain; the chosen separator's own error is
        # raised later
        return []


def _records(
    path: Path, read: str, separator: str, spaced: bool = False
) -> Iterator[tuple[str, list[str]]]:
    """Each row with its first line. `spaced`: blanks around separators, as in `path,
    prompt`, belong to no cell."""
    # a cell may be as long as the file
    csv.field_size_limit(max(csv.field_size_limit(), len(read)))
    reader = csv.reader(
        io.StringIO(read, newline=""), delimiter=separator, strict=True, skipinitialspace=spaced
    )
    while True:
        where = f"line {reader.line_num + 1}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise BadTable(
                f"{path}, {where}: {error}: a cell that begins with a quote must end with one, and quotes "
                'inside it are doubled, as in "a 5"" screen"'
            ) from error
        if cells is None:
            return
        yield where, [cell.strip() for cell in cells] if spaced else cells


def _check_header(path: Path, names: Sequence[str]) -> None:
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise BadTable(
            f"{path}: expected columns of different names in the first line, got {twice} twice"
        )


# --- JSON
# ------------------------------------------------------------------------------------------------------------


def _objects(path: Path, read: str) -> Iterator[TableRow]:
    """One object a line. Lines end with a line feed alone: U+2028 may stand inside a
    text."""
    for number, words in enumerate(read.split("\n"), 1):
        if not words.strip():
            continue
        try:
            row = _parsed(words)
        except ValueError as error:
            raise BadTable(
                f"{path}, line {number}: expected one JSON object, {OBJECT}, but {error}"
            ) from error
        if not isinstance(row, dict):
            raise BadTable(
                f"{path}, line {number}: expected a JSON object, {OBJECT}, got {words[:60]!r}"
            )
        yield f"line {number}", row


def _json(path: Path, read: str, known: IsHeader) -> list[TableRow]:
    """A list of objects, one object that maps paths to prompts, or one object a line."""
    try:
        found = _parsed(read)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # JSON lines under the name of JSON
            return list(_objects(path, read))
        raise BadTable(f"expected JSON in {path}, but {error}") from error
    except ValueError as error:
        raise BadTable(f"expected JSON in {path}, but {error}") from error
    if isinstance(found, list) and all(isinstance(row, dict) for row in found):
        return [(f"entry {number}", row) for number, row in enumerate(found, 1)]
    if isinstance(found, dict) and not any(
        isinstance(value, (dict, list)) for value in found.values()
    ):
        return (
            [("entry 1", found)]
            if known(list(found))
            else [
                (f"entry {number}", {"path": name, "prompt": prompt})
                for number, (name, prompt) in enumerate(found.items(), 1)
            ]
        )
    raise BadTable(
        f'expected a list of {OBJECT} in {path}, or one object of paths and prompts, {{"0.mp4": "a dog", '
        f"...}}, got {read.strip()[:60]!r}"
    )


def _parsed(words: str) -> Any:
    """JSON; NaN, which pandas writes for a missing value, is None. Raises ValueError for a
    key that comes twice."""
    try:
        return json.loads(words, object_pairs_hook=_once, parse_constant=lambda _: None)
    except RecursionError as error:
        raise ValueError("its lists or objects are nested too deeply") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(
            f"the key {next(name for name in names if names.count(name) > 1)!r} comes twice"
        )
    return found


# --- Parquet
# ---------------------------------------------------------------------------------------------------------


def _parquet(path: Path) -> list[TableRow]:
    """The rows of a Parquet file, without the row numbers that pandas keeps in it."""
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ImportError(
            f"pyarrow is needed to read {path}: pip install pyarrow, or save the table as .csv, .tsv or "
            ".jsonl"
        ) from error
    try:
        rows = parquet.read_table(path).to_pylist()
    except (OSError, ValueError) as error:
        raise BadTable(
            f"expected a Parquet file at {path}, but {' '.join(str(error).split())[:200]}"
        ) from error
    return [
        (
            f"row {number}",
            {name: _plain(value) for name, value in row.items() if not name.startswith("__index")},
        )
        for number, row in enumerate(rows, 1)
    ]


def _plain(value: Any) -> Any:
    """A value that JSON can hold: dates and bytes as text, NaN as None."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, (list, dict)):
        return json.loads(json.dumps(value, default=str), parse_constant=lambda _: None)
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)
