"""Read gold pairs: pairs whose right answer is known, by which raters are checked."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidrl.feedback.labelling.clip_sets import Clip
from vidrl.feedback.store import GIVEN
from vidrl.rewards._files.tables import read_table

COLUMNS = ("first", "second", "answer")
EXAMPLE = "first = good.mp4, second = frozen.mp4, answer = A"


@dataclass(frozen=True)
class Gold:
    """A pair of clips and its known answer: "A" is the first clip, "B" the second."""

    clips: tuple[Clip, Clip]
    answer: str


def read(path: str | os.PathLike[str]) -> list[Gold]:
    """Read gold pairs from a table (.csv, .jsonl ...) or from [[pair]] tables of a TOML file.

    A row has `first`, `second`, `answer` (A, B, tie or bad) and may have `prompt`. The clips lie in
    the folder of the file or below. Raises ValueError for a row of another kind, and
    FileNotFoundError for a clip that is not there.

    >>> import tempfile
    >>> home = Path(tempfile.mkdtemp())
    >>> _ = [(home / name).write_bytes(b"") for name in ("good.mp4", "bad.mp4")]
    >>> _ = (home / "gold.csv").write_text("first,second,answer\\ngood.mp4,bad.mp4,A\\n")
    >>> [(gold.clips[0].path.name, gold.answer) for gold in read(home / "gold.csv")]
    [('good.mp4', 'A')]
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"expected a file of gold pairs, found none at {file}")
    found = [_gold(file, where, cells) for where, cells in _rows(file)]
    if not found:
        raise ValueError(f"expected rows of gold pairs in {file}, found none: a row is {EXAMPLE}")
    return found


def _rows(file: Path) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Return the rows of a table or of a TOML file, each with its place."""
    if file.suffix.lower() != ".toml":
        rows = read_table(file, lambda names: "first" in names, lambda note: None)
        _check_columns(file, list(dict.fromkeys(name for _, cells in rows for name in cells)))
        return rows
    try:
        pairs = tomllib.loads(file.read_text(encoding="utf-8")).get("pair", [])
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"expected a TOML file of gold pairs at {file}: {error}") from None
    if not isinstance(pairs, list) or not all(isinstance(pair, dict) for pair in pairs):
        raise ValueError(f"expected tables [[pair]] in {file}, got {type(pairs).__name__}")
    return [(f"pair {number}", pair) for number, pair in enumerate(pairs, 1)]


def _check_columns(file: Path, names: list[str]) -> None:
    """Raise ValueError for a table with rows but without one of the columns."""
    missing = [name for name in COLUMNS if name not in names]
    if names and missing:
        raise ValueError(
            f"{file}: expected the columns {', '.join(COLUMNS)}, found {', '.join(names)}: "
            f"{', '.join(missing)} missing; a row is {EXAMPLE}"
        )


def _gold(file: Path, where: str, cells: Mapping[str, Any]) -> Gold:
    """Return the gold pair of a row; raise an error that names the row if it is none."""
    missing = [name for name in COLUMNS if not isinstance(cells.get(name), str)]
    if missing:
        raise ValueError(f"{file}, {where}: expected {', '.join(missing)}: a row is {EXAMPLE}")
    if cells["answer"] not in GIVEN:
        raise ValueError(
            f"{file}, {where}: expected an answer of {', '.join(GIVEN)}, got {cells['answer']!r}"
        )
    prompt, home = str(cells.get("prompt") or ""), file.parent.resolve()
    first, second = (_clip(home / cells[name], prompt, home) for name in COLUMNS[:2])
    if first.path == second.path:
        raise ValueError(f"{file}, {where}: expected two clips, got {first.path} twice")
    return Gold((first, second), cells["answer"])


def _clip(path: Path, prompt: str, home: Path) -> Clip:
    """Return a clip of a gold pair; raise FileNotFoundError for a path outside the folder."""
    if not path.exists() or not path.resolve().is_relative_to(home):
        raise FileNotFoundError(f"expected a clip of a gold pair in {home}, found none at {path}")
    return Clip(path, prompt, home)
