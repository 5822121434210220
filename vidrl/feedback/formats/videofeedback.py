"""VideoFeedback and VideoScore2: a clip a row, with points for each aspect."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from vidrl.feedback.judgments import Judgments, Points

from .base import Format, Judgment, Relative, Row, Table, check_columns, is_number, small

SCORED = (  # the aspects of VideoFeedback, in the order of its lists of scores
    "visual quality",
    "temporal consistency",
    "dynamic degree",
    "text-to-video alignment",
    "factual consistency",
)
FIRST = (1.0, 4.0)  # VideoFeedback: bad, average, good, perfect
SECOND = (1.0, 5.0)  # VideoScore2, whose third aspect is physical/common-sense consistency
CLIP = ("path", "video", "video_path", "video_link", "videos", "id")
PROMPT = ("prompt", "text_prompt")
SCALES = "scales"  # a column that vidrl adds: the scale of each aspect that is not usual
NO_SCORE = {
    *CLIP,
    *PROMPT,
    *("seed", "fps", "num_frames", "frames", "width", "height", "duration", "rater", "index"),
}
SAID = re.compile(r"^\s*(?:\(\d\)\s*)?([a-z][a-z0-9 /-]+):\s*([\d.]+)\s*$", re.MULTILINE)
QUOTED = (  # the prompt inside the question of VideoScore-Bench, and of VideoScore2
    re.compile(r'text prompt is "(.*?)",?\s*\n', re.DOTALL),
    re.compile(r"its text prompt:\s*\n(.*?)\n\s*\n", re.DOTALL),
)


class Videofeedback(Format):
    """Reads and writes points of single clips (arXiv 2406.15252, arXiv 2509.22799).

    VideoFeedback: `id`, `text prompt`, `video link`, and its five aspects as columns, from 1
    to 4; also as `score_list`, or in the text of `conversations` as VideoScore-Bench and
    VideoScore2 (three aspects, from 1 to 5) have them. Any other table of clips with columns
    of numbers is read too; the scale is then that of the numbers in the file, or the one in
    the column `scales`. A column `rater` is kept.
    """

    title = "VideoFeedback (points of single clips: video link or id, text prompt, scores)"
    source = "https://huggingface.co/datasets/TIGER-Lab/VideoFeedback"
    columns = {"video_link": CLIP}
    example = {
        "id": "1",
        "text prompt": "a dog runs",
        "video link": "1.mp4",
        "visual quality": 3,
        "temporal consistency": 4,
    }
    holds = frozenset(("points", "aspects", "raters"))
    order = 2

    def knows(self, table: Table) -> bool:
        """Return whether rows name a clip and have points."""
        named = not self.missing(table.columns) and bool(table.rows)
        return named and bool(_scores(table.rows[0]) or _numeric(table))

    def prepared(self, table: Table) -> tuple[dict[str, str], dict[str, tuple[float, float]]]:
        """Return the columns of points, and the scale of each aspect."""
        numeric = _numeric(table)
        found: dict[str, list[float]] = {}
        for row in table.rows:
            for aspect, value in _values(row, numeric).items():
                found.setdefault(aspect, []).append(value)
        scales = {aspect: scale_of(aspect, values, found) for aspect, values in found.items()}
        guessed = [a for a in found if scales[a] not in (FIRST, SECOND)]
        if guessed and SCALES not in table.columns:
            table.notes.append(
                f"the scale of {', '.join(guessed)} is taken from the numbers in the file"
            )
        return numeric, scales

    def judged(self, row: Row, table: Table, known: Any) -> Iterator[Judgment]:
        """Yield the points of one clip, one for each aspect."""
        numeric, scales = known
        name = row.cell(*CLIP)
        clip = table.clips.path(
            name[0] if isinstance(name, list) and name else name, row.word("id")
        )
        own = _own_scales(row)
        for aspect, value in _values(row, numeric).items():
            low, high = own.get(aspect, scales[aspect])
            about = (aspect, row.text(*PROMPT) or _quoted(row), row.text("rater"))
            yield Points(clip, value, low, high, *about)

    def write(self, judgments: Judgments, path: Relative) -> list[dict[str, Any]]:
        """Return a row for each clip, prompt and rater; repeated points get a further row."""
        check_columns(judgments.aspects, NO_SCORE | {SCALES, "id"})
        usual = all(
            one.aspect in SCORED and (one.low, one.high) == FIRST for one in judgments.points
        )
        rows: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
        for one in judgments.points:
            known = rows.setdefault((one.clip, one.prompt, one.rater), [])
            row = next((row for row in known if one.aspect not in row), None)
            if row is None:
                known.append(row := _about(one, path))
            row[one.aspect] = one.points
            if not usual:
                row.setdefault(SCALES, {})[one.aspect] = [one.low, one.high]
        return [row for known in rows.values() for row in known]


def scale_of(aspect: str, values: list[float], found: Mapping[str, Any]) -> tuple[float, float]:
    """Return the scale of an aspect: that of its data set, or the ends of the numbers.

    >>> scale_of("visual quality", [2, 3], {"visual quality": ()})
    (1.0, 4.0)
    >>> scale_of("smooth", [0.5, 2.5], {"smooth": ()})
    (0.5, 2.5)
    """
    second = any(name.startswith("physical") for name in found)
    low, high = SECOND if second else FIRST
    if aspect in (*SCORED, *found) and second or aspect in SCORED:
        return min(low, *values), max(high, *values)
    low, high = min(values), max(values)
    return (low, high) if low < high else (low - 1, high + 1)


def _values(row: Row, numeric: Mapping[str, str]) -> dict[str, float]:
    """Return the points of a row by aspect; those that `scales` names, if it is there."""
    if own := _own_scales(row):
        return {aspect: float(row.cells[small(aspect)]) for aspect in own}
    return _scores(row) or {
        name: float(row.cells[column]) for column, name in numeric.items() if row.has(column)
    }


def _own_scales(row: Row) -> dict[str, list[float]]:
    """Return the scale of each aspect that the row states, also as JSON text; {} if it has none."""
    value = row.cell(SCALES)
    if isinstance(value, str):
        value = json.loads(value)
    # In a .parquet file an aspect that the row does not have is None.
    return {key: ends for key, ends in value.items() if ends} if isinstance(value, dict) else {}


def _scores(row: Row) -> dict[str, float]:
    """Return the points of a row as VideoFeedback, VideoScore-Bench and VideoScore2 write them."""
    named = {name: row.cells[key] for name in SCORED if row.has(key := name.replace(" ", "_"))}
    if not named and isinstance(row.cells.get("score_list"), list):
        named = dict(zip(SCORED, row.cells["score_list"], strict=False))
    if not named:
        named = dict(SAID.findall(_said(row, 1)))
    return {name: float(value) for name, value in named.items() if is_number(value)}


def _said(row: Row, turn: int) -> str:
    """Return the text of one turn of a conversation, "" if there is none."""
    turns = row.cells.get("conversations")
    known = isinstance(turns, list) and len(turns) > turn and isinstance(turns[turn], dict)
    return str(turns[turn].get("value", "")) if known and turns else ""


def _quoted(row: Row) -> str:
    """Return the prompt that the question of a conversation quotes."""
    question = _said(row, 0) + "\n"
    found = next((match for one in QUOTED if (match := one.search(question))), None)
    return found.group(1).strip() if found else ""


def _numeric(table: Table) -> dict[str, str]:
    """Return the columns of numbers that may be points, with their names in the file."""
    found = {}
    for column, name in table.columns.items():
        values = [row.cells[column] for row in table.rows if row.has(column)]
        if column not in NO_SCORE and values and all(map(is_number, values)):
            found[column] = name
    return found


def _about(one: Points, path: Relative) -> dict[str, Any]:
    """Return the columns of a row that are no points."""
    cells: dict[str, Any] = {"text prompt": str(one.prompt), "video link": path(one.clip)}
    return cells | ({"rater": one.rater} if one.rater else {})
