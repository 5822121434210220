"""Which prompt, seed and reference go with which file: a table of a person's own, or VBench's list of prompts."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COLUMNS = ("path", "prompt", "seed", "reference")
TABLES = (".csv", ".tsv", ".jsonl", ".json")
BESIDE = ("prompts.csv", "prompts.jsonl", "prompts.tsv")  # what a folder of clips may hold
NUMBERED = re.compile(r"(?P<prompt>.*\S)-(?P<seed>\d+)")  # VBench's `a dog runs-3.mp4`
MOST = 0.9  # of the files: so many must be named so


class BadManifest(ValueError):
    """A table of clips that cannot be used; the message names its line."""


@dataclass(frozen=True)
class Row:
    """What the table says of one file; `line` is where."""

    line: int
    path: str
    prompt: str = ""
    seed: int | None = None
    reference: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)


def read(path: str | os.PathLike[str]) -> list[Row]:
    """The rows of a .csv, .tsv or .jsonl with `path` and, where wanted, `prompt`, `seed`, `reference` and others.

    Raises BadManifest for another file, a row without a path, a seed that is no whole number, a path that comes twice.
    """
    path = Path(path)
    if path.suffix.lower() not in TABLES[:3]:
        raise BadManifest(f"expected a manifest ending in {', '.join(TABLES[:3])}, got {path.name!r}")
    text = _text(path)
    rows = _objects(path, text) if path.suffix.lower() == ".jsonl" else _table(path, text)
    found = [_row(path, line, row) for line, row in rows]
    if not found:
        raise BadManifest(f"expected rows with a path in {path}, found none")
    first: dict[str, int] = {}
    for row in found:
        if first.setdefault(os.path.normpath(row.path), row.line) != row.line:
            raise BadManifest(f"{path}, line {row.line}: {row.path} is on line {first[os.path.normpath(row.path)]} "
                              "already: keep one")
    return found


def vbench_list(path: str | os.PathLike[str]) -> dict[str, tuple[str, ...]]:
    """VBench_full_info.json: each prompt with the dims that VBench measures on it.

    Raises BadManifest for a file that is not that.
    """
    try:
        rows = json.loads(_text(Path(path)))
        return {str(row["prompt_en"]): tuple(map(str, row["dimension"])) for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise BadManifest(f"expected VBench's list in {path}, objects with prompt_en and dimension, but "
                          f"{type(error).__name__}: {error}") from error


def numbered(stems: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Prompt and number of each name that is VBench's `prompt-0`; empty unless nearly all are, and prompts have words.

    >>> numbered(["a dog runs-0", "a dog runs-3"])["a dog runs-3"], numbered(["clip-0", "clip-1"])
    (('a dog runs', 3), {})
    """
    matched = {stem: NUMBERED.fullmatch(stem) for stem in stems}
    found = {stem: (m["prompt"], int(m["seed"])) for stem, m in matched.items() if m and " " in m["prompt"].strip()}
    return found if stems and len(found) >= MOST * len(stems) else {}


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A CSV that `read` reads back: the columns of the first row."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadManifest(f"expected a UTF-8 file at {path}, but {error}") from error


def _table(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    tab = path.suffix.lower() == ".tsv"
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if tab else ",")
    if "path" not in (reader.fieldnames or ()):
        raise BadManifest(f"expected a column path in the first line of {path}, got "
                          f"{', '.join(reader.fieldnames or ()) or 'nothing'}")
    for row in reader:
        if None in row or None in row.values():
            raise BadManifest(f"{path}, line {reader.line_num}: expected {len(reader.fieldnames or ())} columns as in "
                              "the first line; a prompt with commas needs quotes")
        yield reader.line_num, {key: value for key, value in row.items() if value != ""}


def _objects(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, words in enumerate(text.split("\n"), 1):
        if not words.strip():
            continue
        try:
            row = json.loads(words)
        except ValueError as error:
            raise BadManifest(f"{path}, line {line}: expected one JSON object, but {error}") from error
        if not isinstance(row, dict):
            raise BadManifest(f"{path}, line {line}: expected a JSON object, got {words[:60]!r}")
        yield line, {key: value for key, value in row.items() if value is not None}


def _row(path: Path, line: int, row: dict[str, Any]) -> Row:
    where = f"{path}, line {line}"
    if not isinstance(row.get("path"), str):
        raise BadManifest(f"{where}: expected a path, got {row.get('path')!r}")
    for column in ("prompt", "reference"):
        if not isinstance(row.get(column, ""), str):
            raise BadManifest(f"{where}: expected {column} to be text, got {row[column]!r}")
    meta = {key: value for key, value in row.items() if key not in COLUMNS}
    return Row(line, row["path"], row.get("prompt", ""), _seed(where, row.get("seed")), row.get("reference", ""), meta)


def _seed(where: str, seed: Any) -> int | None:
    if seed is None:
        return None
    text = str(seed).strip()
    if isinstance(seed, bool) or not re.fullmatch(r"[+-]?\d+(\.0+)?", text):
        raise BadManifest(f"{where}: expected seed to be a whole number or nothing, got {seed!r}")
    return int(text.split(".")[0])
