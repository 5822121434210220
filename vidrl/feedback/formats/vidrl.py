"""vidrl's own format, which holds all of `Judgments`: a row for each judgment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from vidrl.feedback.judgments import OVERALL, Choice, Fault, Judgments, Points, Ranking

from ._cells import WORDS, answer, labels, listed, prompt, prompt_cells
from .base import HOLDABLE, Format, Judgment, Relative, Row, Table, is_number

NOTE = "note"


SIGNS = {  # the columns that say what a row holds
    "choice": ("path_a", "path_b", "choice"),
    "points": ("clip", "points", "low", "high"),
    "ranking": ("clips", "places"),
    "fault": ("clip", "begin", "end"),
    NOTE: (NOTE,),
}


class About(NamedTuple):
    """The columns that choices, points and rankings have in common."""

    aspect: str
    prompt: str
    rater: str


class Vidrl(Format):
    """A row for each choice, clip's points, ranking or fault; the columns say which one it is.

    A choice: `path_a`, `path_b`, `choice` (a, b, tie), and optionally `labels` (1, 0 or −1
    for each segment), `both_bad`, `weight`. Points: `clip`, `points`, `low`, `high`. A
    ranking: `clips`, `places` (1 the best). A fault: `clip`, `begin`, `end` (seconds), `tags`.
    All: `prompt`, references as `image`, `aspect`, `rater`. A row `note` says what was left
    out before. In .csv files lists are written as JSON.
    """

    title = "vidrl's own (path_a, path_b, choice; or clip and points, clips and places, faults)"
    source = "vidrl/feedback/formats/vidrl.py"
    columns = {"path_a": (), "path_b": (), "choice": ()}
    example = {"path_a": "1.mp4", "path_b": "2.mp4", "choice": "a", "prompt": "a dog runs"}
    holds = HOLDABLE - {"shares"}  # it holds every answer by itself
    references = None
    order = 0

    def knows(self, table: Table) -> bool:
        """Return whether the rows are choices, points, rankings or faults as this format has."""
        return bool(table.rows) and all(_kind(row) for row in table.rows)

    def judged(self, row: Row, table: Table, known: None) -> Iterator[Judgment]:
        """Yield the judgment of one row; a note is kept in the table's counts."""
        kind = _kind(row) or "choice"
        if kind == NOTE:
            table.notes.append(row.text(NOTE))
            return
        about = About(row.text("aspect", "dim") or OVERALL, prompt(row, table), row.text("rater"))
        yield READERS[kind](row, table, about)

    def write(self, judgments: Judgments, path: Relative) -> list[dict[str, Any]]:
        """Return a row for each judgment; values that a reader assumes anyway are left out."""
        return [
            *(_choice_cells(one, path) | _about(one, path) for one in judgments.choices),
            *(_points_cells(one, path) | _about(one, path) for one in judgments.points),
            *(
                {"clips": [path(clip) for clip in one.clips], "places": list(one.places)}
                | _about(one, path)
                for one in judgments.rankings
            ),
            *(
                {"clip": path(one.clip), "begin": one.begin, "end": one.end}
                | ({"tags": list(one.tags)} if one.tags else {})
                | _about(one, path)
                for one in judgments.faults
            ),
            *({NOTE: text} for text in judgments.notes),
        ]


def _kind(row: Row) -> str:
    """Return what a row holds, "" if it is none of this format's rows."""
    # A table of choices may have an empty cell, which is an error of the row.
    named = next((kind for kind, columns in SIGNS.items() if all(map(row.has, columns))), "")
    return named or ("choice" if {"path_a", "path_b", "choice"} <= {*row.cells} else "")


def _choice(row: Row, table: Table, about: About) -> Choice:
    first, second = (table.clips.path(row.cell(column)) for column in ("path_a", "path_b"))
    bad = row.word("both_bad").lower() in ("true", "1")
    bad = bad or row.word("choice").lower() in ("both bad", "both_bad")
    weight = _number(row, "weight") if row.has("weight") else 1.0
    return Choice(first, second, answer(row, "choice"), *about, labels(row), bad, weight)


def _points(row: Row, table: Table, about: About) -> Points:
    points, low, high = (_number(row, column) for column in ("points", "low", "high"))
    return Points(table.clips.path(row.cell("clip")), points, low, high, *about)


def _ranking(row: Row, table: Table, about: About) -> Ranking:
    clips = tuple(table.clips.path(clip) for clip in listed(row.cell("clips")))
    places = listed(row.cell("places"))
    if not all(is_number(place) and float(place).is_integer() for place in places):
        raise ValueError(f"expected places to be whole numbers, got {row.word('places')[:60]!r}")
    return Ranking(clips, tuple(int(float(place)) for place in places), *about)


def _fault(row: Row, table: Table, about: About) -> Fault:
    begin, end = (_number(row, column) for column in ("begin", "end"))
    tags = tuple(map(str, listed(row.cell("tags"))))
    clip = table.clips.path(row.cell("clip"))
    return Fault(clip, begin, end, tags, about.prompt, about.rater)


READERS: dict[str, Callable[[Row, Table, About], Judgment]] = {
    "choice": _choice,
    "points": _points,
    "ranking": _ranking,
    "fault": _fault,
}


def _number(row: Row, column: str) -> float:
    try:
        return float(row.cells[column])
    except (TypeError, ValueError):
        raise ValueError(f"expected {column} to be a number, got {row.word(column)!r}") from None


def _choice_cells(one: Choice, path: Relative) -> dict[str, Any]:
    cells: dict[str, Any] = {
        "path_a": path(one.first),
        "path_b": path(one.second),
        "choice": WORDS[one.choice],
    }
    if one.both_bad:
        cells["both_bad"] = True
    if one.labels:
        cells["labels"] = list(one.labels)
    return cells | ({"weight": one.weight} if one.weight != 1 else {})


def _points_cells(one: Points, path: Relative) -> dict[str, Any]:
    return {"clip": path(one.clip), "points": one.points, "low": one.low, "high": one.high}


def _about(one: Judgment, path: Relative) -> dict[str, str]:
    """Return the columns that all judgments have."""
    aspect = getattr(one, "aspect", OVERALL)
    named = {"aspect": aspect} if aspect != OVERALL else {}
    return prompt_cells(one.prompt, path) | named | ({"rater": one.rater} if one.rater else {})
