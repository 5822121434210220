"""Pick-a-Pic: two pictures a row, embedded or by address, and a label of each of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vidrl.feedback.judgments import Choice, Judgments

from ._clips import content_name
from .base import Format, Judgment, Relative, Row, Table, is_number


class Pickapic(Format):
    """Reads and writes the columns of Pick-a-Pic v1 and v2 (arXiv 2305.01569).

    `caption`, `label_0` and `label_1` (1 and 0, or 0.5 and 0.5 for a tie), `user_id`, and for
    each picture `jpg_0` (its bytes), `image_0_url` and `image_0_uid`. Embedded pictures are
    written to the folder for media, named by uid; without that folder they are searched
    by uid beside the table, and counted if they are not there. Rows whose `has_label` is
    false have no answer; they are counted. Equal pictures (`are_different`) too.
    """

    title = "Pick-a-Pic (caption, jpg_0 or image_0_url, label_0, label_1)"
    source = "https://huggingface.co/datasets/yuvalkirstain/pickapic_v2"
    columns = {
        "caption": (),
        "label_0": (),
        "label_1": (),
        "image_0_url": ("image_0_uid", "jpg_0"),
        "image_1_url": ("image_1_uid", "jpg_1"),
    }
    example = {
        "caption": "a dog runs",
        "image_0_url": "a.jpg",
        "image_1_url": "b.jpg",
        "label_0": 1.0,
        "label_1": 0.0,
        "user_id": "7",
        "has_label": True,
    }
    holds = frozenset(("choices", "sides", "no_prompt", "ties", "raters"))
    pictures = True

    def judged(self, row: Row, table: Table, known: None) -> Iterator[Judgment]:
        """Yield the choice of one row."""
        labels = [row.cell(f"label_{side}") for side in (0, 1)]
        unlabelled = row.word("has_label").lower() == "false"
        if unlabelled or not all(map(is_number, labels)):
            table.left_out["rows have no label"] += 1
            return
        first, second = (_picture(row, table, side) for side in (0, 1))
        if first == second:
            table.left_out["rows have one picture twice"] += 1
            return
        difference = float(labels[0]) - float(labels[1])
        answer = (difference > 0) - (difference < 0)
        yield Choice(first, second, answer, prompt=row.text("caption"), rater=row.text("user_id"))

    def write(self, judgments: Judgments, path: Relative) -> list[dict[str, Any]]:
        """Return a row for each choice; pictures are named and not embedded."""
        return [
            {
                "caption": str(one.prompt),
                "image_0_url": path(one.first),
                "image_1_url": path(one.second),
                "label_0": (1 + one.choice) / 2,
                "label_1": (1 - one.choice) / 2,
                "has_label": True,
            }
            | ({"user_id": one.rater} if one.rater else {})
            for one in judgments.choices
        ]


def _picture(row: Row, table: Table, side: int) -> str:
    """Return the path of a picture: embedded, or by address or uid."""
    content, uid = row.cell(f"jpg_{side}"), row.word(f"image_{side}_uid")
    if isinstance(content, bytes):
        name = f"{uid}.jpg" if uid else content_name(content, ".jpg")
        return table.clips.embedded(content, name)
    address = row.word(f"image_{side}_url")
    return table.clips.path(address or (f"{uid}.jpg" if uid else ""), uid)
