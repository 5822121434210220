"""ImageRewardDB: a picture a row, with its rank among the prompt's pictures and three ratings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vidrl.feedback.judgments import Judgments, Points, Ranking
from vidrl.rewards._files.tables import BadTable

from ._clips import content_name
from .base import Format, Placed, Relative, Row, Table, is_number

RATINGS = ("overall_rating", "image_text_alignment_rating", "fidelity_rating")
SCALE = (1.0, 7.0)  # of all three ratings


class Imagereward(Format):
    """Reads and writes the columns of ImageRewardDB (arXiv 2304.05977).

    `image_path` (or `image`, embedded), `prompt_id`, `prompt`, `rank` (1 the best), and
    ratings from 1 to 7: `overall_rating`, `image_text_alignment_rating`, `fidelity_rating`.
    The pictures of one `prompt_id` are one ranking of the aspect overall; each rating is the
    points of an aspect of its name.
    """

    title = "ImageReward (image_path, prompt_id, prompt, rank, overall_rating)"
    source = "https://huggingface.co/datasets/THUDM/ImageRewardDB"
    columns = {"image_path": ("image",), "prompt_id": (), "prompt": (), "rank": ()}
    example = {
        "image_path": "a.webp",
        "prompt_id": "1",
        "prompt": "a dog runs",
        "rank": 1,
        "overall_rating": 6,
    }
    holds = frozenset(("rankings", "points"))
    scales = dict.fromkeys(RATINGS, SCALE)
    pictures = True

    def read(self, table: Table) -> Iterator[Placed]:
        """Yield the points of each picture, and a ranking of each prompt."""
        placed: dict[str, list[tuple[Row, str]]] = {}
        for row in table.rows:
            try:
                clip = _picture(row, table)
                yield from ((row.where, points) for points in _points(row, clip))
            except ValueError as error:
                raise BadTable(f"{row.where}: {error}") from error
            if is_number(row.cell("rank")):
                placed.setdefault(row.word("prompt_id"), []).append((row, clip))
        for group in placed.values():
            if len({clip for _, clip in group}) < 2:
                table.left_out["prompts have one ranked picture, and so no ranking"] += 1
                continue
            yield group[0][0].where, _ranking(group)

    def write(self, judgments: Judgments, path: Relative) -> list[dict[str, Any]]:
        """Return a row for each picture of a prompt."""
        rows: dict[tuple[str, str, int], dict[str, Any]] = {}
        for number, ranking in enumerate(judgments.rankings):
            for clip, place in zip(ranking.clips, ranking.places, strict=True):
                rows[ranking.prompt, clip, number] = {"rank": place}
        for one in judgments.points:
            known = next((key for key in rows if key[:2] == (one.prompt, one.clip)), None)
            rows.setdefault(known or (one.prompt, one.clip, -1), {})[one.aspect] = one.points
        ids: dict[tuple[str, int], str] = {}
        return [
            {
                "image_path": path(clip),
                "prompt_id": ids.setdefault((prompt, number), str(len(ids))),
                "prompt": str(prompt),
                "rank": None,
            }
            | cells
            for (prompt, clip, number), cells in rows.items()
        ]


def _points(row: Row, clip: str) -> Iterator[Points]:
    """Yield the ratings of a picture; 0 and a blank are no rating."""
    for name in RATINGS:
        value = row.cell(name)
        if is_number(value) and float(value) != 0:
            yield Points(clip, float(value), *SCALE, aspect=name, prompt=row.text("prompt"))


def _ranking(group: list[tuple[Row, str]]) -> Ranking:
    """Return the ranking of the pictures of one prompt; a picture's first rank counts."""
    places: dict[str, int] = {}
    for row, clip in group:
        places.setdefault(clip, int(float(row.word("rank"))))
    return Ranking(tuple(places), tuple(places.values()), prompt=group[0][0].text("prompt"))


def _picture(row: Row, table: Table) -> str:
    """Return the path of a picture, embedded or named."""
    value = row.cell("image_path", "image")
    if isinstance(value, dict):
        content, name = value.get("bytes"), str(value.get("path") or "")
        if isinstance(content, bytes):
            return table.clips.embedded(content, name or content_name(content, ".webp"))
        value = name
    return table.clips.path(value)
