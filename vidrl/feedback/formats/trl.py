"""TRL's preference format: a prompt, the chosen clip and the rejected clip in each row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vidrl.feedback.judgments import Choice, Judgments

from ._cells import labels, prompt, prompt_cells
from .base import Format, Judgment, Relative, Row, Table


class Trl(Format):
    """Reads and writes the columns `prompt`, `chosen` and `rejected`.

    The two clips are paths. A column `labels` (or `segment_labels`) may have 1, 0 or −1 for
    each segment, as DenseDPO needs (arXiv 2506.03517); references of the prompt, such as
    `image`, are further columns. The format has no ties, aspects or raters.
    """

    title = "TRL (prompt, chosen, rejected)"
    source = "https://huggingface.co/docs/trl/dataset_formats#preference"
    columns = {"prompt": (), "chosen": (), "rejected": ()}
    example = {"prompt": "a dog runs", "chosen": "a.mp4", "rejected": "b.mp4", "labels": [1, -1]}
    holds = frozenset(("choices", "labels"))
    references = None

    def judged(self, row: Row, table: Table, known: None) -> Iterator[Judgment]:
        """Yield the choice of one row."""
        text = row.cells.get("prompt")
        if not isinstance(text, str) or not text.strip() or "\0" in text:
            raise ValueError(f"expected prompt to be a prompt, got {str(text or '')[:60]!r}")
        first, second = (_clip(row, table, column) for column in ("chosen", "rejected"))
        if first == second:
            raise ValueError(
                f"expected two clips, got {row.word('chosen')} as chosen and as rejected: leave "
                "the row out"
            )
        yield Choice(first, second, 1, prompt=prompt(row, table), labels=labels(row))

    def write(self, judgments: Judgments, path: Relative) -> list[dict[str, Any]]:
        """Return a row for each choice."""
        return [
            {"prompt": ""}
            | prompt_cells(one.prompt, path)
            | {"chosen": path(one.first), "rejected": path(one.second)}
            | ({"labels": list(one.labels)} if one.labels else {})
            for one in judgments.choices
        ]


def _clip(row: Row, table: Table, column: str) -> str:
    """Return the path of a clip; raise ValueError for a cell that is no text."""
    value = row.cells.get(column)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(
            f"expected {column} to be the path of a clip, got {str(value or '')[:60]!r}"
        )
    return table.clips.path(value)
