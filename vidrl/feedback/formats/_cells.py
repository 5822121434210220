"""Read and write the cells that several formats have: answers, segment labels, references."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from vidrl.data import references
from vidrl.data.prompt import is_file, is_text, of
from vidrl.feedback.judgments import Choice
from vidrl.rewards._files.finding import inside

from .base import Relative, Row, Table

# The words of an answer: for the first clip, for the second, for neither. The letters of
# GSB studies (good, same, bad) judge the first clip; their "b" has the meaning of "b" here.
ANSWERS = {"a": 1, "b": -1, "tie": 0, "same": 0, "both_bad": 0, "both bad": 0}
WORDS = {1: "a", -1: "b", 0: "tie"}
LABELS = ("labels", "segment_labels")
PROMPTS = ("prompt", "text_prompt")


def answer(row: Row, column: str) -> int:
    """Return the answer of a cell as 1, −1 or 0. Raises ValueError for another word."""
    word = row.word(column)
    if word.lower() not in ANSWERS:
        raise ValueError(
            f"expected {row.names.get(column, column)} to be a, b or tie (same), got {word!r}"
        )
    return ANSWERS[word.lower()]


def is_answer(word: str) -> bool:
    """Return whether a word is an answer."""
    return word.lower() in ANSWERS


def labels(row: Row) -> tuple[int, ...]:
    """Return the label of each segment, () without labels; a .csv file has them as JSON.

    Raises ValueError for anything but a list of 1, 0 and −1.
    """
    found = [name for name in LABELS if row.cells.get(name) is not None]
    if len(found) > 1:
        raise ValueError(
            f"expected one column of labels, got {' and '.join(found)}: leave one of them out"
        )
    if not found:
        return ()
    value = listed(row.cells[found[0]])
    if not value or not all(_is_label(one) for one in value):
        raise ValueError(
            "expected labels to be a list of 1 (the chosen clip is better in this segment), -1 (it "
            f"is worse) and 0 (neither), got {str(row.cells[found[0]])[:60]!r}"
        )
    return tuple(int(one) for one in value)


def listed(value: Any) -> list[Any]:
    """Return a cell that holds a list, also as JSON text; [] for any other cell.

    >>> listed([1, 2]), listed("[1, 2]"), listed("1, 2"), listed(None)
    ([1, 2], [1, 2], [], [])
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return []
    return value if isinstance(value, list) else []


def _is_label(value: Any) -> bool:
    """Return whether a value is 1, 0 or −1."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value in (-1, 0, 1)


def prompt(row: Row, table: Table) -> str:
    """Return the prompt of a row with the references that its columns name, such as `image`."""
    text = row.text(*PROMPTS)
    named = _references(tuple(row.cells))
    found = references.named({key: row.cells[key] for key in named}) if named else {}
    return (
        references.prompt(text, found, lambda name: inside(table.clips.folder, name))
        if found
        else text
    )


@cache
def _references(columns: tuple[str, ...]) -> list[str]:
    """Return the columns that may be references of a prompt; a file's rows ask the same again."""
    return [name for name in columns if name not in PROMPTS and (is_file(name) or is_text(name))]


def prompt_cells(asked: str, path: Relative) -> dict[str, str]:
    """Return the columns of a prompt: its text, if there is one, and its references by name."""
    found = {key: path(value) if is_file(key) else value for key, value in of(asked).items()}
    return ({"prompt": str(asked)} if asked else {}) | found


def grouped(
    choices: Sequence[Choice], key: Callable[[Choice], tuple[Any, ...]]
) -> list[list[Choice]]:
    """Return the choices of each key, in the order of the first choice of each key."""
    found: dict[tuple[Any, ...], list[Choice]] = {}
    for choice in choices:
        found.setdefault(key(choice), []).append(choice)
    return list(found.values())
