"""Rapidata's preferences: two videos a row, and the share of the answers for each of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from vidrl.feedback.judgments import Choice, Judgments

from ._cells import grouped
from ._clips import content_name, file_name
from .base import Format, Judgment, Relative, Row, Table, check_columns, is_number

SHARE = re.compile(r"weighted_results(?:_image)?([12])_(.+)")
SIDES = {"1": ("file_name1", "video1", "image1"), "2": ("file_name2", "video2", "image2")}


class Rapidata(Format):
    """Reads and writes `weighted_results1_ASPECT` and `weighted_results2_ASPECT`.

    The aspects are Preference, Coherence and Alignment; others are read as well. The shares
    of an aspect become two choices of one pair, with the shares as weights, so that a fit
    sees how many people agreed. A clip is searched by `file_name1`, if there is one, and by
    the name at the end of `video1`. Tables of images with `weighted_results_image1_ASPECT`
    have the same meaning. A tie counts half for each clip when it is written.
    """

    title = "Rapidata (prompt, video1, video2, weighted_results1_Preference, ...)"
    source = "https://huggingface.co/datasets/Rapidata/text-2-video-human-preferences"
    columns = {"video1": ("file_name1", "image1"), "video2": ("file_name2", "image2")}
    example = {
        "prompt": "a dog runs",
        "video1": "a.mp4",
        "video2": "b.mp4",
        "weighted_results1_Preference": 0.7,
        "weighted_results2_Preference": 0.3,
    }
    holds = frozenset(("choices", "sides", "no_prompt", "aspects", "shares"))

    def missing(self, columns: Any) -> list[str]:
        """Return the columns that a table lacks, the shares among them."""
        shares = [] if any(map(SHARE.fullmatch, columns)) else ["weighted_results1_preference"]
        return super().missing(columns) + shares

    def prepared(self, table: Table) -> dict[str, dict[str, str]]:
        """Return the aspects of the table, each with the columns of its two shares."""
        found: dict[str, dict[str, str]] = {}
        for name, written in table.columns.items():
            if match := SHARE.fullmatch(name):
                aspect = written[-len(match[2]) :]
                found.setdefault(aspect, {})[match[1]] = name
        return {aspect: sides for aspect, sides in found.items() if len(sides) == 2}

    def judged(
        self, row: Row, table: Table, known: dict[str, dict[str, str]]
    ) -> Iterator[Judgment]:
        """Yield two choices for each aspect, or one where all answers agree."""
        first, second = (_clip(row, table, SIDES[side]) for side in ("1", "2"))
        for aspect, columns in known.items():
            shares = [row.cell(columns[side]) for side in ("1", "2")]
            if not all(map(is_number, shares)):
                table.left_out["answers are blank in the file"] += 1
                continue
            for share, answer in zip(map(float, shares), (1, -1), strict=True):
                if share:
                    about = (aspect, row.text("prompt"))
                    yield Choice(first, second, answer, *about, weight=share)

    def write(self, judgments: Judgments, path: Relative) -> list[dict[str, Any]]:
        """Return a row for each pair, with the shares of all aspects."""
        check_columns(judgments.aspects, ())
        pairs = grouped(judgments.choices, lambda c: (c.first, c.second, c.prompt))
        return [_row(pair, path) for pair in pairs]


def _row(pair: list[Choice], path: Relative) -> dict[str, Any]:
    """Return the row of one pair."""
    first = pair[0]
    cells: dict[str, Any] = {
        "prompt": str(first.prompt),
        "video1": path(first.first),
        "video2": path(first.second),
    }
    for aspect in dict.fromkeys(choice.aspect for choice in pair):
        for side, answer in (("1", 1), ("2", -1)):
            cells[f"weighted_results{side}_{aspect}"] = sum(
                one.weight for one in pair if (one.aspect, one.choice) == (aspect, answer)
            )
    return cells


def _clip(row: Row, table: Table, columns: tuple[str, ...]) -> str:
    """Return the path of a clip: a path, an address, or a dictionary with `path` and `bytes`."""
    values = [row.cells[column] for column in columns if row.has(column)]
    names = [str(v.get("path") or "") if isinstance(v, dict) else v for v in values]
    content = next((v["bytes"] for v in values if isinstance(v, dict) and v.get("bytes")), None)
    if isinstance(content, bytes):
        return table.clips.embedded(content, names[0] or content_name(content, ".mp4"))
    return table.clips.path(names[0] if names else None, file_name(str(names[-1])) if names else "")
