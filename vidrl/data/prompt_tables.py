"""Read a table of prompts: the column `prompt`, and columns of references, such as `image`.

Every row that cannot be used is named with its place. Relative paths start in the folder of
the table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidrl import plugin
from vidrl.rewards._files.manifests import COLUMNS as NAMES
from vidrl.rewards._files.tables import BadTable, TableRow, read_table

from . import clip_files, references
from .prompt import is_file, is_text

EXAMPLE = '{"prompt": "a cat runs", "image": "cat.png"}'
USUAL_COLUMNS = (
    "image",
    "last_image",
    "video",
    "mask_image",
    "negative_prompt",
)  # of many pipelines


class BadPrompts(ValueError):
    """Says why a prompt file cannot be used; the message names the line and the cure."""


@dataclass(frozen=True)
class File:
    """The content of a prompt file: its prompts in order, why rows are left out, and notes."""

    prompts: list[str]
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read(path: Path) -> File:
    """Return the prompts of a table and the rows left out; see `vidrl.data.prompts.table`.

    Raises BadPrompts, which names every row and column that is wrong.
    """
    table = _entries(path)
    notes = list[str]()
    left_out = list[str]()
    kept = dict[str, str]()
    column = _column(path, table, notes)
    faults = _unknown(table, column)
    files = {name for _, cells in table for name in references.named(cells) if is_file(name)}
    for where, cells in table:
        created, reasons = _prompt_of_row(path, where, cells, column, files)
        refused = [
            one for one in reasons if one.startswith("expected ")
        ]  # of another kind: refused
        faults += [f"{where}: {one}" for one in refused]
        reasons = reasons or ([f"repeats {kept[created]}"] if created in kept else [])
        left_out += [f"{where} {one}" for one in reasons if one not in refused]
        if not reasons:
            kept[created] = where
    if faults or not kept:
        reason = "not all rows can be read" if faults else "no row is left"
        raise BadPrompts(
            f"prompt file {path}: {reason}:{listed([*faults, *left_out])}\n  A row is {EXAMPLE}"
        )
    return File(list(kept), left_out, notes)


def rows(path: str | Path) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the prompt and the cells of each row of a table that may have any other columns.

    A suite has such a table. Raises BadPrompts with a line for each row that cannot be
    used.
    """
    file, notes = Path(path), list[str]()
    table = _entries(file)
    column, faults = _column(file, table, notes), list[str]()
    found: list[tuple[str, Mapping[str, Any]]] = []
    for where, cells in table:
        created, reasons = _prompt_of_row(file, where, cells, column)
        faults += [f"{file}, {where}: expected {EXAMPLE}, but it {one}" for one in reasons]
        found.append((created, cells))
    if faults:
        raise BadPrompts("\n".join(faults))
    return found


def _entries(path: Path) -> list[TableRow]:
    """Return the rows of a table; raise BadPrompts if there are none."""
    try:
        table = read_table(
            path, lambda names: bool({*names} & {*NAMES["prompt"]}), lambda said: None
        )
    except (BadTable, ImportError) as error:
        raise BadPrompts(f"prompt file: {error}") from error
    if not table:
        raise BadPrompts(f"prompt file {path} is empty: expected rows as {EXAMPLE}")
    return table


def _column(path: Path, table: Sequence[TableRow], notes: list[str]) -> str:
    """Return the name of the column of prompts: `prompt`, else one like `caption`."""
    names = list(dict.fromkeys(name for _, cells in table for name in cells))
    prompt_columns = [name for name in names if name.lower() in NAMES["prompt"]]
    candidates = ["prompt"] if "prompt" in names else prompt_columns
    if len(candidates) != 1:
        got = " and ".join(candidates) if candidates else ", ".join(names)
        raise BadPrompts(
            f"prompt file {path}: expected a column prompt, got {got}: name the "
            f"column of prompts prompt; a row is {EXAMPLE}"
        )
    if candidates[0] != "prompt":
        notes.append(f"{path}: the column {candidates[0]!r} is read as the prompt")
    return candidates[0]


def _unknown(table: Sequence[TableRow], column: str) -> list[str]:
    """Return a line for each column that is neither prompt nor reference, with its first row."""
    first: dict[str, str] = {}
    for where, cells in table:
        for name, value in cells.items():
            if value is not None and name != column and not (is_file(name) or is_text(name)):
                first.setdefault(name, where)
    return [
        f"{where}: unknown column {name!r}: {plugin.nearest(name, USUAL_COLUMNS)}; take it out, "
        "or name it as the argument of the pipeline, which ends in image, video, mask or prompt"
        for name, where in first.items()
    ]


def _prompt_of_row(
    path: Path, where: str, cells: Mapping[str, Any], column: str, files: Set[str] = frozenset()
) -> tuple[str, list[str]]:
    """Return the prompt of a row, and why it cannot be used; every row must have the `files`."""
    text = cells.get(column)
    if text is None or isinstance(text, str) and not text.strip():
        return "", ["has no prompt"]
    if not isinstance(text, str) or "\0" in text or re.search("[\ud800-\udfff]", text):
        return "", [f"expected {column} to be text, got {str(text)[:60]!r}"]
    found = references.named({name: value for name, value in cells.items() if name != column})
    try:
        created = references.prompt(
            text, found, lambda name: clip_files.named_file(path, where, name)
        )
    except ValueError as error:
        return "", [f"expected {str(error).partition('expected ')[2]}"]  # without the place
    return created, [
        f"has no {name}, which other rows have" for name in sorted(files - {*found})
    ] or [f"has a bad {reasons}" for reasons in references.faults(created)]


def listed(lines: Sequence[str]) -> str:
    """Return lines to put below a message."""
    return "".join(f"\n  {line}" for line in lines)
