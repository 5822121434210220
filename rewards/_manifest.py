"""Which prompt goes with which file: a table of path and prompt, or a text file with one prompt a line."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable
from pathlib import Path

from .video import find


def read(path: str | os.PathLike[str]) -> dict[Path, str] | list[str]:
    """The prompts of a file: by path from .csv, .tsv or .jsonl with `path` and `prompt`, else one a line, in order.

    Paths are taken from the folder of the table. Raises ValueError for a file that is not that, with its line, and
    for a path that comes twice.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"expected a UTF-8 file of prompts at {path}, but {error}") from error
    if path.suffix.lower() not in (".csv", ".tsv", ".jsonl"):
        return _lines(text, path)
    rows = _objects(text, path) if path.suffix.lower() == ".jsonl" else _table(text, path)
    found: dict[Path, tuple[int, str]] = {}
    for line, name, prompt in rows:
        file = Path(os.path.abspath(path.parent / name))
        if file in found:
            raise ValueError(f"{path}, line {line}: {name} has a prompt already, on line {found[file][0]}: keep one")
        found[file] = (line, prompt)
    if not found:
        raise ValueError(f"expected rows of path and prompt in {path}, found none")
    return {file: prompt for file, (_, prompt) in found.items()}


def match(
    paths: Iterable[str | os.PathLike[str]], prompts: dict[Path, str] | list[str]
) -> tuple[list[Path], dict[str, str]]:
    """The files to score and their prompts; without paths, those of the table.

    Raises ValueError where a file has no prompt, or the lines are not as many as the files.
    """
    if isinstance(prompts, dict):
        files = list(find(paths)) or list(prompts)
        bare = [file for file in files if Path(os.path.abspath(file)) not in prompts]
        if bare:
            raise ValueError(f"{len(bare)} of {len(files)} files have no prompt in the table, the first is {bare[0]}")
        return files, {str(file): prompts[Path(os.path.abspath(file))] for file in files}
    files = list(find(paths))
    if len(files) != len(prompts):
        raise ValueError(f"expected {len(files)} prompts, one a file in order of name, got {len(prompts)} lines: a "
                         "table, .csv or .jsonl with path and prompt, says which is whose")
    return files, dict(zip(map(str, files), prompts, strict=True))


def spare(files: Iterable[Path], prompts: dict[Path, str] | list[str]) -> list[Path]:
    """The files of the table that are not among `files`."""
    given = {Path(os.path.abspath(file)) for file in files}
    return [path for path in prompts if path not in given] if isinstance(prompts, dict) else []


def _lines(text: str, path: Path) -> list[str]:
    lines = [line.strip() for line in text.splitlines()]
    if "" in lines or not lines:
        where = f"line {lines.index('') + 1} is blank" if lines else "it is empty"
        raise ValueError(f"expected one prompt a line in {path}, but {where}")
    return lines


def _table(text: str, path: Path) -> list[tuple[int, str, str]]:
    reader = csv.DictReader(text.splitlines(), delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    if not {"path", "prompt"} <= set(reader.fieldnames or ()):
        raise ValueError(f"expected columns path and prompt in the first line of {path}, got "
                         f"{', '.join(reader.fieldnames or ()) or 'nothing'}")
    rows = [(reader.line_num, row) for row in reader]
    for line, row in rows:
        if not row["path"] or row["prompt"] is None or None in row:
            raise ValueError(f"{path}, line {line}: expected a path and a prompt; a prompt with commas needs quotes")
    return [(line, row["path"], row["prompt"]) for line, row in rows]


def _objects(text: str, path: Path) -> list[tuple[int, str, str]]:
    rows = []
    for line, words in enumerate(text.splitlines(), 1):
        if not words.strip():
            continue
        try:
            row = json.loads(words)
            rows.append((line, str(row["path"]), str(row["prompt"])))
        except (ValueError, KeyError, TypeError) as error:
            want = '{"path": ..., "prompt": ...}'
            raise ValueError(f"{path}, line {line}: expected {want}, got {words[:60]!r}") from error
    return rows
