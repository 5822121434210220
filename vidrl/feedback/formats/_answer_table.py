"""Read and write tables with two clips in a row and a column of answers for each aspect."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vidrl.feedback.judgments import Choice, Judgments

from ._cells import PROMPTS, answer, grouped, is_answer
from .base import Format, Judgment, Relative, Row, Table, check_columns

ABOUT = {"path_a", "path_b", "a_model", "b_model", "rater", "fps_a", "fps_b", "num_frames_a"}
ABOUT |= {"num_frames_b", *PROMPTS}


class AnswerTable(Format):
    """Reads a row for each pair (`path_A`, `path_B`), with columns of A, B or same.

    Every column that holds nothing but answers is an aspect; blank answers are counted.
    """

    columns = {"path_a": (), "path_b": ()}
    holds = frozenset(("choices", "sides", "no_prompt", "ties", "aspects", "raters"))
    words = {1: "A", -1: "B", 0: "same"}

    def knows(self, table: Table) -> bool:
        """Return whether there are two clips in each row, and a column of answers."""
        return super().knows(table) and bool(answered(table))

    def prepared(self, table: Table) -> dict[str, str]:
        """Return the aspects: the columns of answers, with their names in the file."""
        return {aspect: table.columns[aspect] for aspect in answered(table)}

    def judged(self, row: Row, table: Table, known: dict[str, str]) -> Iterator[Judgment]:
        """Yield the choices of one pair."""
        first, second = (table.clips.path(row.cell(column)) for column in ("path_a", "path_b"))
        for aspect, name in known.items():
            if not row.has(aspect):
                table.left_out["answers are blank in the file"] += 1
                continue
            about = (name, row.text(*PROMPTS), row.text("rater"))
            yield Choice(first, second, answer(row, aspect), *about)

    def write(self, judgments: Judgments, path: Relative) -> list[dict[str, Any]]:
        """Return a row for each pair and rater; a second answer of a rater gets a second row."""
        check_columns(judgments.aspects, ABOUT)
        pairs = grouped(judgments.choices, lambda c: (c.first, c.second, c.prompt, c.rater))
        return [row for pair in pairs for row in self._rows(pair, path)]

    def _rows(self, pair: list[Choice], path: Relative) -> Iterator[dict[str, Any]]:
        """Yield the rows of one pair and rater."""
        rows: list[dict[str, Any]] = []
        for choice in pair:
            row = next((one for one in rows if choice.aspect not in one), None)
            if row is None:
                rows.append(row := self.about(choice, path))
            row[choice.aspect] = self.words[choice.choice]
        yield from rows

    def about(self, choice: Choice, path: Relative) -> dict[str, Any]:
        """Return the columns of a row that are no answers."""
        cells = {"path_A": path(choice.first), "path_B": path(choice.second)}
        return (
            cells
            | {"prompt": str(choice.prompt)}
            | ({"rater": choice.rater} if choice.rater else {})
        )


def answered(table: Table) -> list[str]:
    """Return the columns that hold nothing but answers, by their small names."""
    words = {
        name: [word for row in table.rows if (word := row.word(name))]
        for name in table.columns
        if name not in ABOUT
    }
    return [name for name, found in words.items() if found and all(map(is_answer, found))]
