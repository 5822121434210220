"""Read tables in .csv, .tsv, .json, .jsonl and .parquet files as rows of cells.

All tables of vidrl are read here: of prompts, of clips, of pairs and of people's choices. A
file that cannot be understood is refused, with the place in the file and the cure. Line
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

from vidrl.lookup.extras import install

from .spreadsheet_cells import unescape_formula

Cells = dict[str, Any]  # the cells of a row, by the column names as the file spells them
TableRow = tuple[str, Cells]  # the place of a row in its file, such as "line 3", and its cells
IsHeader = Callable[[Sequence[str]], bool]  # whether column names are those of the wanted table
Note = Callable[[str], None]  # called with each remark on how a table was read
SEPARATORS = {".csv": ",;\t", ".tsv": "\t,;"}  # candidates, the usual separator first
SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
MARKS = {  # byte-order marks, in the order in which they are tried
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    # After UTF-32, because UTF-32's mark begins with UTF-16's.
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
OBJECT = '{"path": ..., "prompt": ...}'


class BadTable(ValueError):
    """A table that cannot be used; the message names the place in the file and the cure."""


def read_table(
    path: Path, is_header: IsHeader, note: Note, keep_bytes: bool = False
) -> list[TableRow]:
    """Return the rows of a table, each with its place and its cells.

    `is_header` decides whether a header is that of the wanted table; the separator of a
    .csv or .tsv file is chosen by it. `note` is called with each remark. `keep_bytes` returns
    the bytes in a .parquet file, such as embedded pictures, as they are. Raises BadTable for
    a file that is not a table of its suffix, and ImportError for .parquet without pyarrow.
    """
    suffix = path.suffix.lower()
    if suffix in SEPARATORS:
        return list(_separated(path, is_header, note))
    if suffix not in SUFFIXES:
        raise BadTable(f"expected a table ending in {', '.join(SUFFIXES)}, got {path.name!r}")
    if suffix == ".parquet":
        return _parquet(path, keep_bytes)
    return (
        _json(path, read_text(path), is_header)
        if suffix == ".json"
        else list(_objects(path, read_text(path)))
    )


def read_text(path: Path) -> str:
    """Return the text of a file: UTF-8, or the encoding that its byte-order mark names.

    Raises BadTable for other encodings and for NUL characters.
    """
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


def _separated(path: Path, is_header: IsHeader, note: Note) -> Iterator[TableRow]:
    """Yield the rows of separated values by the names in the first line; skip blank rows."""
    text = read_text(path)
    usual = SEPARATORS[path.suffix.lower()]
    # The first candidate that gives the wanted header is the separator of the file.
    separator = next((sign for sign in usual if is_header(_header(path, text, sign))), usual[0])
    if separator != usual[0]:
        note(f"{path.name}: its columns are separated by {separator!r}")
    # "path, prompt" in the header says that blanks around separators belong to no cell.
    spaced = any(name != name.strip() for name in _header(path, text, separator))
    rows = (
        row
        for row in _records(path, text, separator, spaced)
        if any(cell.strip() for cell in row[1])
    )
    names = [unescape_formula(name) for name in next(rows, ("", []))[1]]
    _check_header(path, names)
    if "" in names:
        note(f"{path.name}: a column without a name is not read")
    for where, cells in rows:
        if len(cells) != len(names):
            raise BadTable(
                f"{path}, {where}: expected {len(names)} columns as in the first line, got "
                f"{len(cells)}; a "
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


def _header(path: Path, text: str, separator: str) -> list[str]:
    """Return the first row that is not blank, without stripping its cells."""
    try:
        return next(
            (cells for _, cells in _records(path, text, separator) if any(map(str.strip, cells))),
            [],
        )
    except BadTable:
        # The quotes do not fit this candidate. If the separator that is chosen fails as well,
        # its error is raised when the rows are read.
        return []


def _records(
    path: Path, text: str, separator: str, spaced: bool = False
) -> Iterator[tuple[str, list[str]]]:
    """Yield each row with its first line; `spaced` strips blanks around separators."""
    # A cell may be as long as the file; the default limit of the module csv is 128 KiB.
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    # newline="" keeps the line breaks inside quoted cells as they are.
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=spaced
    )
    while True:
        where = f"line {reader.line_num + 1}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise BadTable(
                f"{path}, {where}: {error}: a cell that begins with a quote must end with one, and "
                "quotes "
                'inside it are doubled, as in "a 5"" screen"'
            ) from error
        if cells is None:
            return
        yield where, [cell.strip() for cell in cells] if spaced else cells


def _check_header(path: Path, names: Sequence[str]) -> None:
    """Raise BadTable if two columns have the same name."""
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise BadTable(
            f"{path}: expected columns of different names in the first line, got {twice} twice"
        )


# --- JSON


def _objects(path: Path, text: str) -> Iterator[TableRow]:
    """Yield one JSON object a line.

    Only line feeds end a line, because U+2028 and its like may occur inside a text.
    """
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = _parsed(line)
        except ValueError as error:
            raise BadTable(
                f"{path}, line {number}: expected one JSON object, {OBJECT}, but {error}"
            ) from error
        if not isinstance(row, dict):
            raise BadTable(
                f"{path}, line {number}: expected a JSON object, {OBJECT}, got {line[:60]!r}"
            )
        yield f"line {number}", row


def _json(path: Path, text: str, is_header: IsHeader) -> list[TableRow]:
    """Return the rows of a list of objects, an object {path: prompt}, or one object a line."""
    try:
        found = _parsed(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # JSON lines under the name of JSON
            return list(_objects(path, text))
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
            if is_header(list(found))
            else [
                (f"entry {number}", {"path": name, "prompt": prompt})
                for number, (name, prompt) in enumerate(found.items(), 1)
            ]
        )
    raise BadTable(
        f"expected a list of {OBJECT} in {path}, or one object of paths and prompts, "
        f'{{"0.mp4": "a dog", '
        f"...}}, got {text.strip()[:60]!r}"
    )


def _parsed(text: str) -> Any:
    """Parse JSON; NaN, which pandas writes for a missing value, becomes None.

    Raises ValueError for a key that occurs twice, which `json` would accept silently.
    """
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=lambda _: None)
    except RecursionError as error:
        raise ValueError("its lists or objects are nested too deeply") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs as a dict; raise ValueError if a key occurs twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(
            f"the key {next(name for name in names if names.count(name) > 1)!r} comes twice"
        )
    return found


# --- Parquet


def _parquet(path: Path, keep_bytes: bool) -> list[TableRow]:
    """Return the rows of a Parquet file, without the row numbers that pandas stores in it."""
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ImportError(
            f"pyarrow is needed to read {path}: {install('tables')}, or save the table as .csv, "
            ".tsv or .jsonl"
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
            {
                name: value if keep_bytes and _embeds(value) else _plain(value)
                for name, value in row.items()
                if not name.startswith("__index")
            },
        )
        for number, row in enumerate(rows, 1)
    ]


def _embeds(value: Any) -> bool:
    """Return whether a value is bytes, or an object {"bytes", "path"} as `datasets` writes them."""
    return isinstance(value, bytes) or (
        isinstance(value, dict) and isinstance(value.get("bytes"), bytes)
    )


def _plain(value: Any) -> Any:
    """Return a value that JSON can hold: dates and bytes become text, NaN becomes None."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, (list, dict)):
        return json.loads(json.dumps(value, default=str), parse_constant=lambda _: None)
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)
