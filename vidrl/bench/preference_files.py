"""Read files of human choices between clips, in three layouts.

The layouts are vidrl's own, VideoGen-RewardBench's and VideoFeedback's.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from vidrl.feedback.judgments import Choice
from vidrl.rewards._files.tables import read_table
from vidrl.rewards.video import SUFFIXES, find

ANSWERS = {"a": 1, "b": -1, "tie": 0, "same": 0}
SCORED = (
    "visual quality",
    "temporal consistency",
    "dynamic degree",
    "text-to-video alignment",
    "factual consistency",
)
CLIP = ("path", "video", "video_path", "video_link", "id")
PROMPT = ("prompt", "text_prompt")
COLUMNS = ("path_a", "path_b", *CLIP, *PROMPT)
NO_SCORE = {
    "seed",
    "fps",
    "num_frames",
    "frames",
    "width",
    "height",
    "duration",
    "rater",
    "index",
    *CLIP,
    *PROMPT,
}
EXPECTED = """\
expected one of these layouts:
  vidrl's own: path_a, path_b, choice (a, b or tie), and optionally prompt, dim or aspect, rater
  VideoGen-RewardBench: path_A, path_B, prompt, and columns of A, B or same, as VQ, MQ, TA, Overall
  VideoFeedback: video link or id, text prompt, and columns of scores, as temporal consistency"""


@dataclass(frozen=True)
class Preferences:
    """The choices of a file, its layout, and people's scores of clips if it has them."""

    layout: str
    choices: list[Choice]
    scores: dict[str, dict[str, float]] = field(default_factory=dict)  # aspect: clip: mean score
    asked: dict[str, str] = field(
        default_factory=dict
    )  # clip: prompt, also of clips that are in no pair
    notes: list[str] = field(default_factory=list)

    @property
    def aspects(self) -> list[str]:
        """Return the aspects in the order of the file."""
        return list(dict.fromkeys([*(choice.aspect for choice in self.choices), *self.scores]))

    @property
    def prompts(self) -> dict[str, str]:
        """Return the prompt of each clip; the first one if the file gives several."""
        return {clip: prompts[0] for clip, prompts in self._prompts().items()}

    @property
    def warnings(self) -> list[str]:
        """Return notes on clips with several prompts."""
        several = [clip for clip, prompts in self._prompts().items() if len(prompts) > 1]
        return (
            [
                f"{len(several)} clips come with several prompts, and are scored with the "
                f"first: {several[0]}"
            ]
            if several
            else []
        )

    def _prompts(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {clip: [prompt] for clip, prompt in self.asked.items()}
        for choice in self.choices:
            for clip in (choice.first, choice.second):
                if choice.prompt not in (known := found.setdefault(clip, [])):
                    known.append(choice.prompt)
        return found


def read(file: str | os.PathLike[str], videos: str | os.PathLike[str] | None = None) -> Preferences:
    """Read the choices of a .csv, .tsv, .jsonl or .json file.

    Clips are searched in `videos`, by default the file's folder. Raises ValueError for a
    file in none of the layouts; the message names the line where a word is not understood.
    """
    path = Path(file)
    rows = _rows(path)
    if not rows:
        raise ValueError(f"expected rows of choices in {path}, found none")
    layout = next((layout for layout, knows in LAYOUTS.items() if knows(rows)), None)
    if layout is None:
        raise ValueError(f"{path} has the columns {', '.join(rows[0].names.values())}; {EXPECTED}")
    found = READERS[layout](rows, _Folder(Path(videos) if videos else path.parent))
    if not found.choices and not found.scores:
        raise ValueError(
            f"{path} was read as {found.layout}, but holds no pair: {'; '.join(found.notes)}"
        )
    return found


# --- rows -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Row:
    """A row whose columns are in small letters with _ for blanks.

    `names` maps them to the columns as the file writes them; `where` is the row's place.
    """

    where: str
    cells: Mapping[str, Any]
    names: Mapping[str, str]

    def first(self, columns: Sequence[str]) -> str:
        """Return the first of these columns that is not empty."""
        return next(
            (str(self.cells[c]).strip() for c in columns if self.cells.get(c) not in (None, "")), ""
        )

    @classmethod
    def of(cls, cells: Mapping[str, Any], where: str) -> _Row:
        small = {_small(str(key)): key for key in cells}
        return cls(
            where,
            {name: cells[key] for name, key in small.items()},
            {n: str(k) for n, k in small.items()},
        )


def _rows(path: Path) -> list[_Row]:
    """Return the rows of a table that has columns of one of the layouts.

    Raises BadTable, see `vidrl.rewards._files.tables`.
    """
    notes: list[str] = []
    listed = read_table(
        path, lambda names: bool({*COLUMNS} & {_small(name) for name in names}), notes.append
    )
    return [_Row.of(cells, f"{path}, {where}") for where, cells in listed]


def _small(name: str) -> str:
    return name.strip().lower().replace(" ", "_")


# --- layouts --------------------------------------------------------------------------


def _ours(rows: Sequence[_Row]) -> bool:
    return {"path_a", "path_b", "choice"} <= set(rows[0].cells)


def _reward_bench(rows: Sequence[_Row]) -> bool:
    return {"path_a", "path_b"} <= set(rows[0].cells) and bool(_answered(rows))


def _feedback(rows: Sequence[_Row]) -> bool:
    return bool(rows[0].first(CLIP)) and bool(_scores(rows[0]) or _numeric(rows))


def _read_ours(rows: Sequence[_Row], folder: _Folder) -> Preferences:
    """Read vidrl's own layout: one row for each answer."""
    choices = [
        Choice(
            folder.path(row.first(["path_a"]), row.where),
            folder.path(row.first(["path_b"]), row.where),
            _word(row, "choice"),
            row.first(["aspect", "dim"]) or "overall",
            row.first(PROMPT),
            row.first(["rater"]),
        )
        for row in rows
    ]
    return Preferences("pairs with a choice (path_a, path_b, choice)", choices)


def _read_reward_bench(rows: Sequence[_Row], folder: _Folder) -> Preferences:
    """Read VideoGen-RewardBench: one row for each pair, a column for each aspect."""
    aspects, blank = _answered(rows), 0
    choices = []
    for row in rows:
        pair = [folder.path(row.first([name]), row.where) for name in ("path_a", "path_b")]
        for aspect in aspects:
            if not row.first([aspect]):
                blank += 1
                continue
            choices.append(
                Choice(
                    pair[0],
                    pair[1],
                    _word(row, aspect),
                    row.names[aspect],
                    row.first(PROMPT),
                    row.first(["rater"]),
                )
            )
    notes = [f"{blank} answers are blank in the file"] if blank else []
    names = ", ".join(rows[0].names[aspect] for aspect in aspects)
    return Preferences(
        f"VideoGen-RewardBench (path_A, path_B; answers in {names})", choices, notes=notes
    )


def _read_feedback(rows: Sequence[_Row], folder: _Folder) -> Preferences:
    """Read VideoFeedback: scores of single clips, turned into pairs of one prompt and rater."""
    numeric = _numeric(rows)
    # {(prompt, aspect, rater): [(clip, score), ...]}
    table: dict[tuple[str, str, str], list[tuple[str, float]]] = {}
    means: dict[str, dict[str, list[float]]] = {}
    asked: dict[str, str] = {}
    for row in rows:
        prompt, clip = (
            row.first(PROMPT) or _quoted(row),
            folder.path(row.first(CLIP), row.where, row.first(["id"])),
        )
        asked[clip] = prompt
        for aspect, value in (_scores(row) or _numbers(row, numeric)).items():
            table.setdefault((prompt, aspect, row.first(["rater"])), []).append((clip, value))
            means.setdefault(aspect, {}).setdefault(clip, []).append(value)
    choices = [
        Choice(a, b, (x > y) - (x < y), aspect, prompt, rater)
        for (prompt, aspect, rater), scored_clips in table.items()
        if prompt
        for (a, x), (b, y) in combinations(scored_clips, 2)
        if a != b
    ]
    scores = {
        aspect: {
            clip: sum(scored_clips) / len(scored_clips) for clip, scored_clips in clips.items()
        }
        for aspect, clips in means.items()
    }
    alone = len({prompt for prompt, _, _ in table}) - len({choice.prompt for choice in choices})
    notes = [f"{alone} prompts have one clip, and so no pair"] if alone else []
    return Preferences(
        f"VideoFeedback (scores of single clips; pairs within a prompt; {', '.join(scores)})",
        choices,
        scores,
        asked,
        notes,
    )


LAYOUTS = {"ours": _ours, "reward bench": _reward_bench, "feedback": _feedback}
READERS = {"ours": _read_ours, "reward bench": _read_reward_bench, "feedback": _read_feedback}


# --- cells ----------------------------------------------------------------------------


def _word(row: _Row, column: str) -> int:
    """Return the answer of a cell as 1, −1 or 0. Raises ValueError for another word."""
    word = row.first([column])
    if word.lower() not in ANSWERS:
        raise ValueError(
            f"{row.where}: expected {row.names[column]} to be a, b or tie (same), got {word!r}"
        )
    return ANSWERS[word.lower()]


def _answered(rows: Sequence[_Row]) -> list[str]:
    """Return the columns that hold nothing but answers."""
    return [
        name for name in rows[0].cells if _holds(rows, name, lambda word: word.lower() in ANSWERS)
    ]


def _holds(rows: Sequence[_Row], name: str, right: Any) -> bool:
    """Return whether a column has values and all of them pass the test."""
    words = [word for row in rows if (word := row.first([name]))]
    return bool(words) and all(map(right, words))


def _scores(row: _Row) -> dict[str, float]:
    """Return the scores of a row as VideoFeedback and VideoScore-Bench write them.

    They are in columns, in a list, or in the text of a conversation.
    """
    named = {name: row.cells[key] for name in SCORED if row.first([key := name.replace(" ", "_")])}
    if not named and isinstance(row.cells.get("score_list"), list):
        named = dict(zip(SCORED, row.cells["score_list"], strict=False))
    if not named:
        named = dict(
            re.findall(r"^\s*([a-z][a-z -]+):\s*([\d.]+)\s*$", _said(row, 1), re.MULTILINE)
        )
    return {name: float(value) for name, value in named.items() if _is_number(value)}


def _said(row: _Row, turn: int) -> str:
    """Return the text of one turn of a conversation, "" if there is none."""
    turns = row.cells.get("conversations")
    known = isinstance(turns, list) and len(turns) > turn and isinstance(turns[turn], dict)
    return str(turns[turn].get("value", "")) if known and turns else ""


def _quoted(row: _Row) -> str:
    """Return the prompt that VideoScore-Bench's question quotes."""
    found = re.search(r'text prompt is "(.*?)",?\s*\n', _said(row, 0) + "\n", re.DOTALL)
    return found.group(1) if found else ""


def _numeric(rows: Sequence[_Row]) -> list[str]:
    """Return the columns of numbers that may be scores."""
    return [
        name for name in rows[0].cells if name not in NO_SCORE and _holds(rows, name, _is_number)
    ]


def _numbers(row: _Row, names: Iterable[str]) -> dict[str, float]:
    return {row.names[name]: float(word) for name in names if (word := row.first([name]))}


def _is_number(word: Any) -> bool:
    try:
        return math.isfinite(float(word))
    except (TypeError, ValueError):
        return False


class _Folder:
    """A folder of clips that are found by path, or, for links and ids, by name at any depth."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names: dict[str, Path] | None = None

    def path(self, name: str, where: str, other: str = "") -> str:
        """Return the path of a clip, or the path where it was expected."""
        if not name:
            raise ValueError(f"{where}: expected the path of a clip, got nothing")
        name = name.rsplit("/", 1)[-1] if "://" in name else name
        direct = self.folder / name
        if direct.is_file():
            return os.path.normpath(direct)
        found = (self._below().get(Path(word).stem) for word in (name, other) if word)
        return os.path.normpath(next((path for path in found if path), direct))

    def _below(self) -> dict[str, Path]:
        if self._names is None:
            listed = find([self.folder]) if self.folder.is_dir() else []
            self._names = {path.stem: path for path in listed if path.suffix.lower() in SUFFIXES}
        return self._names
