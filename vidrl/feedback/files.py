"""Read and write files of people's judgments, in any format of `vidrl.feedback.formats`.

The format is recognised by the columns, or named. A file that is not understood is refused
with the formats that were tried, the missing column and the nearest name. Nothing is lost
silently: what is not read or written stands in notes.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from shlex import quote
from typing import Any

from vidrl import plugin
from vidrl.feedback.formats._clips import Clips
from vidrl.feedback.formats.base import Format, Row, Table, relative_to, small
from vidrl.feedback.held import reduced
from vidrl.feedback.judgments import Choice, Fault, Judgments, Points, Ranking
from vidrl.feedback.store_tables import is_store
from vidrl.lookup.advice import nearest
from vidrl.lookup.extras import install
from vidrl.lookup.grammar import counted
from vidrl.lookup.passwords import hidden
from vidrl.rewards._files.atomic_file import new_path, write_bytes
from vidrl.rewards._files.spreadsheet_cells import escape_formula
from vidrl.rewards._files.tables import SEPARATORS, BadTable, read_table

KIND = "feedback.formats"
FIELDS = {Choice: "choices", Points: "points", Ranking: "rankings", Fault: "faults"}


@dataclass(frozen=True)
class Read:
    """What a file says, the name of its format, and the place of each choice in the file."""

    format: str
    title: str
    judgments: Judgments
    places: list[str] = field(default_factory=list)


def formats() -> dict[str, Format]:
    """Return the formats by name, in the order in which they are tried."""
    found = {name: plugin.load(KIND, name) for name in plugin.names(KIND)}
    return dict(sorted(found.items(), key=lambda item: (item[1].order, item[0])))


def named(name: str) -> Format:
    """Return a format by its name; raise `UnknownName` with the nearest one."""
    found: Format = plugin.load(KIND, name)
    return found


def read(
    path: str | os.PathLike[str],
    form: str = "",
    columns: Mapping[str, str] | None = None,
    folder: str | os.PathLike[str] | None = None,
    media: str | os.PathLike[str] | None = None,
) -> Read:
    """Read what people said of clips from a .csv, .tsv, .json, .jsonl or .parquet file.

    - `form`: the name of a format; "" recognises it by the columns.
    - `columns`: maps a column that the format has to the column of the file that is meant,
      as {"prompt": "caption"}.
    - `folder`: where clips are searched, by default the folder of the file.
    - `media`: a folder to which pictures are written that the file embeds.

    A store of `vidrl label`, a SQLite file or the address of a database, is read too; its
    repeated and gold pairs are left out (see `vidrl.feedback.store`). Raises BadTable for a file
    that is not understood, UnknownName for an unknown format, and ImportError for .parquet
    without pyarrow.
    """
    if is_store(path):
        return _of_store(os.fspath(path))
    _check_is_file(path)
    source = Path(path)
    renamed = {small(theirs): small(ours) for ours, theirs in (columns or {}).items()}
    known = formats() if not form else {form: named(form)}
    notes: list[str] = []
    rows = _rows(source, list(known.values()), renamed, notes)
    pictures = any(one.pictures for one in known.values())
    table = Table(rows, Clips(Path(folder or source.parent), None, pictures), renamed=renamed)
    name = form or _recognised(source, table, known)
    chosen = known[name]
    table.clips = Clips(
        Path(folder or source.parent), Path(media) if media else None, chosen.pictures
    )
    if form and (missing := chosen.missing(table.columns)) and not chosen.knows(table):
        raise BadTable(f"{source}: expected the format {name}, {_lacks(missing, table, chosen)}")
    return _assembled(source, name, chosen, table, notes)


def _check_is_file(named: str | os.PathLike[str]) -> None:
    """Raise BadTable for an address, a path of a folder, and a path where nothing is."""
    path = Path(named)
    if "://" in os.fspath(named):
        raise BadTable(
            f"expected a file of judgments, or a store, got the address {hidden(os.fspath(named))}"
            ": download the file and name the copy"
        )
    if path.is_dir():
        raise BadTable(
            "expected a file of judgments, such as choices.jsonl, or a store, got the folder "
            f"{path}"
        )
    if not path.exists():
        raise BadTable(f"expected a file of judgments at {path}, found nothing there")


def _of_store(where: str) -> Read:
    """Return the answers of a store, without repeated and gold pairs."""
    from vidrl.feedback.store import Store

    store = Store(where)
    try:
        found = store.judgments()
    finally:
        store.close()
    # an answer has a choice for each question, so these numbers are not those of the answers
    places = [f"choice {number}" for number in range(1, len(found.choices) + 1)]
    return Read("store", f"the store of vidrl label {hidden(where)}", found, places)


def _assembled(source: Path, name: str, form: Format, table: Table, notes: list[str]) -> Read:
    """Return the judgments of a table whose format is known."""
    found: dict[str, list[Any]] = {kind: [] for kind in FIELDS.values()}
    places: list[str] = []
    try:
        for where, judgment in form.read(table):
            found[FIELDS[type(judgment)]].append(judgment)
            if isinstance(judgment, Choice):
                places.append(where)
    except BadTable as error:
        raise BadTable(f"{source}, {error}") from error
    told = [counted(number, what) for what, number in table.left_out.items()]
    if table.clips.embedded_left_out:
        out = counted(table.clips.embedded_left_out, "embedded clips are left out")
        told.append(f"{out}: name a folder for them by --media")
    if table.clips.ambiguous:
        names = sorted(table.clips.ambiguous)
        shared = counted(len(names), "names belong to several files")
        told.append(f"{shared} below {table.clips.folder}, the first counts: {names[0]}")
    judgments = Judgments(**found, notes=[*notes, *table.notes, *told])
    return Read(name, form.title, judgments, places)


# --- recognition


def _rows(
    path: Path, known: Sequence[Format], renamed: Mapping[str, str], notes: list[str]
) -> list[Row]:
    """Return the rows of a file, with columns that a format knows in the header."""
    wanted = {
        name
        for form in known
        for own, spellings in form.columns.items()
        for name in (own, *spellings, *map(small, form.example))
    } | set(renamed)
    listed = read_table(
        path, lambda names: bool(wanted & {*map(small, names)}), notes.append, keep_bytes=True
    )
    if not listed:
        example = json.dumps(known[0].example)
        raise BadTable(f"expected rows of judgments in {path}, found none: a row is {example}")
    rows = [Row.of(f"{where}", cells, renamed) for where, cells in listed]
    columns = {small(name) for row in rows for name in row.names.values()}
    if unknown := [name for name in renamed if name not in columns]:
        raise BadTable(f"{path} has no column {unknown[0]!r}: {nearest(unknown[0], columns)}")
    return rows


def _recognised(path: Path, table: Table, known: Mapping[str, Format]) -> str:
    """Return the name of the first format that knows the table; raise BadTable if none does."""
    found = next((name for name, form in known.items() if form.knows(table)), None)
    if found is not None:
        return found
    near = max(known, key=lambda name: _fit(known[name], table))
    lacks = _lacks(known[near].missing(table.columns), table, known[near])
    tried = "\n".join(f"  {name}: {form.title}" for name, form in known.items())
    raise BadTable(
        f"{path} has the columns {', '.join(table.columns.values())}; expected one of these layouts"
        f"\n{tried}\nThe nearest is {near}, {lacks}"
    )


def _fit(form: Format, table: Table) -> float:
    """Return the share of a format's columns that a table has."""
    missing = form.missing(table.columns)
    return 1 - len(missing) / max(len(form.columns), len(missing))


def _lacks(missing: Sequence[str], table: Table, form: Format) -> str:
    """Return which columns a table lacks, with the nearest name that it has."""
    spelled = {small(name): name for name in form.example}
    wanted = [spelled.get(name, name) for name in missing]
    columns = list(table.columns.values())
    near = [
        "--map " + quote(f"{name}={close[0]}")
        for name in wanted
        if (close := get_close_matches(name, columns, 1))
    ]
    hint = (
        " ".join(near) or "--map " + quote(f"{wanted[0]}=COLUMN")
        if wanted
        else "a cell is not understood"
    )
    return (
        f"with {' and '.join(f'no column {name}' for name in wanted) or 'other cells'} among "
        f"{', '.join(columns)}: {hint}"
    )


# --- writing


@dataclass(frozen=True)
class Written:
    """How many rows were written, and what the format could not hold."""

    path: Path
    rows: int
    judgments: Judgments  # what was written
    lost: list[str]


def write(
    judgments: Judgments, path: str | os.PathLike[str], form: str, aspect: str = ""
) -> Written:
    """Write judgments to a file in a format; the suffix decides between .jsonl, .csv and others.

    Clips in the folder of the file, or below it, are named by relative paths, others by
    absolute ones. Raises ValueError for a suffix that the format does not have, and if
    nothing is left to write.
    """
    target, chosen = Path(path), named(form)
    if target.suffix.lower() not in chosen.suffixes:
        raise ValueError(
            f"expected a file ending in {', '.join(chosen.suffixes)} for the format {form}, got "
            f"{target.name!r}"
        )
    kept, lost = reduced(judgments, chosen, aspect)
    rows = chosen.write(kept, relative_to(target.parent))
    if not rows:
        raise ValueError(
            f"expected judgments that the format {form} can hold, found none: "
            f"{'; '.join(lost) or 'the file is empty'}"
        )
    WRITERS[target.suffix.lower()](target, rows)
    return Written(target, len(rows), kept, lost)


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(column for row in rows for column in row))


def _jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows)
    write_bytes(path, "".join(f"{line}\n" for line in lines).encode())


def _json(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    text = json.dumps(list(rows), indent=1, ensure_ascii=False, allow_nan=False)
    write_bytes(path, f"{text}\n".encode())


def _separated(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write .csv or .tsv; lists and objects as JSON, and no cell that a spreadsheet runs."""
    text, columns = io.StringIO(newline=""), _columns(rows)
    table = csv.writer(text, delimiter=SEPARATORS[path.suffix.lower()][0])
    table.writerow(map(escape_formula, columns))
    for row in rows:
        table.writerow(escape_formula(_flat(row.get(column))) for column in columns)
    write_bytes(path, text.getvalue().encode())


def _flat(value: Any) -> Any:
    """Return a value as a cell: lists and objects as JSON."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else value


def _parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ImportError(
            f"pyarrow is needed to write {path}: {install('tables')}, or write .jsonl"
        ) from error
    # Objects as JSON, because in a parquet file all rows of a column have the same keys.
    columns = {
        name: [json.dumps(v) if isinstance(v := row.get(name), dict) else v for row in rows]
        for name in _columns(rows)
    }
    with new_path(path) as part:
        parquet.write_table(pyarrow.table(columns), part)


WRITERS: dict[str, Callable[[Path, Sequence[Mapping[str, Any]]], None]] = {
    ".jsonl": _jsonl,
    ".json": _json,
    ".csv": _separated,
    ".tsv": _separated,
    ".parquet": _parquet,
}
