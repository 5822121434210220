"""Define a format: one layout of files that hold what people said of clips.

A format reads the rows of a table as judgments, and writes judgments as rows. The rows come
from .csv, .tsv, .json, .jsonl or .parquet files; `vidrl.feedback.files` finds the format of
a file and calls it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar

from vidrl.feedback.judgments import Choice, Fault, Judgments, Points, Ranking
from vidrl.rewards._files.tables import SUFFIXES, BadTable

from ._clips import Clips

Judgment = Choice | Points | Ranking | Fault
Placed = tuple[str, Judgment]  # the place of a row, such as "line 3", and what it says
Relative = Callable[[str], str]  # a clip's path as a row of the written file names it

# What a format can hold beside the two clips of a choice and which of them was chosen.
HOLDABLE = frozenset(
    (
        "choices",  # answers to "which of two clips is better"
        "sides",  # which clip stood first, also where the second one was chosen
        "no_prompt",  # choices without a prompt
        "ties",  # choices of neither clip
        "both_bad",  # ties of two bad clips
        "aspects",  # any number of aspects, of any name
        "raters",  # who answered; without it the answers on one pair are joined
        "labels",  # a number for each segment of a choice
        "weights",  # how many answers a choice stands for
        "shares",  # of the answers on a pair, as two weights that sum to 1
        "points",  # points of one clip on a scale
        "rankings",  # an order of several clips
        "faults",  # spans of seconds with tags
        "notes",  # what was left out of the judgments before
    )
)


@dataclass(frozen=True)
class Row:
    """A row of a table whose columns are found by small letters, with _ for blanks.

    `names` maps these names to the columns as the file writes them; `where` is the place.
    """

    where: str
    cells: Mapping[str, Any]
    names: Mapping[str, str]

    @classmethod
    def of(cls, where: str, cells: Mapping[str, Any], renamed: Mapping[str, str]) -> Row:
        """Return a row; `renamed` maps a column's small name to the name that a format reads.

        Raises BadTable if two columns get one name.

        >>> Row.of("line 2", {"Text Prompt": "a dog"}, {"text_prompt": "prompt"}).text("prompt")
        'a dog'
        """
        found: dict[str, Any] = {}
        names: dict[str, str] = {}
        for column, value in cells.items():
            name = renamed.get(small(column), small(column))
            if name in found:
                raise BadTable(
                    f"{where}: expected one column {name!r}, got {names[name]!r} and {column!r}: "
                    "rename one of them"
                )
            found[name], names[name] = value, str(column)
        return cls(where, found, names)

    def has(self, column: str) -> bool:
        """Return whether the cell of a column has a value."""
        return self.cells.get(column) not in (None, "")

    def cell(self, *columns: str) -> Any:
        """Return the first of these cells that has a value, or None."""
        return next((self.cells[column] for column in columns if self.has(column)), None)

    def text(self, *columns: str) -> str:
        """Return the first of these cells that has a value as text, "" if there is none."""
        found = self.cell(*columns)
        return "" if found is None else str(found)

    def word(self, *columns: str) -> str:
        """Return `text` without blanks around it."""
        return self.text(*columns).strip()


@dataclass
class Table:
    """The rows of a file, the folder of its clips, and counts of what is not read."""

    rows: Sequence[Row]
    clips: Clips
    left_out: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    renamed: Mapping[str, str] = field(default_factory=dict)  # see `Row.of`

    @cached_property
    def columns(self) -> Mapping[str, str]:
        """The columns of all rows: small name to the name in the file."""
        return {small: name for row in self.rows for small, name in row.names.items()}


class Format:
    """Reads and writes one layout of files of people's judgments.

    A format defines `judged`, which reads one row, or `read`, which reads all rows, and
    `write`, which gets what the format can hold (`vidrl.feedback.held`). The names of columns
    are in small letters, with _ for blanks.
    """

    title: ClassVar[str] = ""  # how messages name the layout
    source: ClassVar[str] = ""  # where the layout is defined
    # What a file of the layout must have: for each column, the names that it may have.
    columns: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    example: ClassVar[Mapping[str, Any]] = {}  # a row, for messages and the documentation
    holds: ClassVar[frozenset[str]] = frozenset()  # a part of HOLDABLE
    scales: ClassVar[Mapping[str, tuple[float, float]]] = {}  # the only aspects of points, if any
    # References of a prompt, such as image, that a row can name; None for any.
    references: ClassVar[frozenset[str] | None] = frozenset()
    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES  # of the files that can be written
    # Formats are tried in this order: 0 before all others, 2, a layout that many tables fit, last.
    order: ClassVar[int] = 1
    pictures: ClassVar[bool] = False  # whether its clips are pictures

    def knows(self, table: Table) -> bool:
        """Return whether a table has this layout."""
        return not self.missing(table.columns)

    def missing(self, columns: Mapping[str, str]) -> list[str]:
        """Return the columns that a table lacks."""
        return [
            name for name, spellings in self.columns.items() if not {name, *spellings} & {*columns}
        ]

    def read(self, table: Table) -> Iterator[Placed]:
        """Yield the judgments of a table. Raises ValueError for a cell that is not understood."""
        known = self.prepared(table)
        for row in table.rows:
            try:
                for judgment in self.judged(row, table, known):
                    yield row.where, judgment
            except ValueError as error:
                raise BadTable(f"{row.where}: {error}") from error

    def prepared(self, table: Table) -> Any:
        """Return what `judged` must know of the whole table, such as the aspects."""
        return None

    def judged(self, row: Row, table: Table, known: Any) -> Iterator[Judgment]:
        """Yield the judgments of one row; `known` is what `prepared` returned."""
        raise NotImplementedError(f"{type(self).__name__} defines neither read nor judged")

    def write(self, judgments: Judgments, path: Relative) -> list[dict[str, Any]]:
        """Return rows for judgments that the format can hold (`vidrl.feedback.held`)."""
        raise NotImplementedError(f"{type(self).__name__} is only read")

    def column(self, row: Row, name: str) -> Any:
        """Return a cell by the name in `columns`, whichever spelling the file has."""
        return row.cell(name, *self.columns.get(name, ()))


@lru_cache(4096)
def small(name: str) -> str:
    """Return a column's name in small letters, with _ for blanks.

    >>> small(" Video Link")
    'video_link'
    """
    return name.strip().lower().replace(" ", "_")


def is_number(value: Any) -> bool:
    """Return whether a cell is a finite number, as a number or as text.

    >>> is_number("2.5"), is_number("nan"), is_number(None), is_number(True)
    (True, False, False, False)
    """
    try:
        return not isinstance(value, bool) and abs(float(value)) < float("inf")
    except (TypeError, ValueError, OverflowError):
        return False


def as_object(value: Any, what: str) -> Mapping[str, Any]:
    """Return a cell that holds an object; empty for an empty cell. Raises ValueError for others.

    >>> as_object({"path": "a.mp4"}, "chosen"), as_object(None, "chosen")
    ({'path': 'a.mp4'}, {})
    """
    if value in (None, ""):
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f"expected {what} to be an object of JSON, got {str(value)[:60]!r}")
    return value


def as_objects(value: Any, what: str) -> list[Mapping[str, Any]]:
    """Return a cell that holds a list of objects; empty for an empty cell.

    Raises ValueError for another cell, and for an entry of the list that is no object.
    """
    if value in (None, ""):
        return []
    if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in value):
        raise ValueError(f"expected {what} to be a list of objects, got {str(value)[:60]!r}")
    return value


def check_columns(aspects: Sequence[str], taken: Collection[str]) -> None:
    """Raise ValueError for aspects that cannot be columns: equal ones, or names that are taken."""
    names = [small(aspect) for aspect in aspects]
    wrong = [
        aspect
        for aspect, name in zip(aspects, names, strict=True)
        if name in taken or not name or names.count(name) > 1
    ]
    if wrong:
        raise ValueError(
            f"expected aspects that differ in small letters from each other and from "
            f"{', '.join(sorted(taken))}, got {wrong[0]!r}: write the format vidrl"
        )


def relative_to(folder: Path) -> Relative:
    """Return a function that writes a clip's path: below `folder` relative, else absolute.

    >>> name = relative_to(Path("/data"))
    >>> name("/data/clips/a.mp4"), name("/other/a.mp4")
    ('clips/a.mp4', '/other/a.mp4')
    """
    root = os.path.join(os.path.abspath(folder), "")

    @cache
    def path(clip: str) -> str:
        found = os.path.abspath(clip)
        return found.removeprefix(root).replace(os.sep, "/") if found.startswith(root) else found

    return path
