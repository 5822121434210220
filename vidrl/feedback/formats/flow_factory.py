"""Flow-Factory's offline V2 records: an input, and a chosen and a rejected candidate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vidrl.data import references
from vidrl.data.prompt import is_file, of, stem
from vidrl.feedback.judgments import Choice, Judgments
from vidrl.rewards._files.finding import inside
from vidrl.rewards._files.pictures import IMAGES

from ._cells import labels
from .base import Format, Judgment, Relative, Row, Table, as_object, as_objects

VERSION = 2
SLOTS = {"last_image": "last_frame"}  # a reference's name, and the slot that means it


class FlowFactory(Format):
    """Reads and writes `{"schema_version": 2, "input", "supervision", "metadata"}`.

    `supervision` is {"type": "preference", "chosen": {"media": [...]}, "rejected": {...}};
    its media are {"type": "video", "path"} or images. `input` has the `prompt` and `media`
    as conditions: an image is the reference `image`, an image of the slot last_frame the
    reference `last_image`, a video the reference `video`. Labels of segments stand in
    `metadata`. Demonstrations have no answer; they are counted and left out.
    """

    title = "Flow-Factory V2 (schema_version, input, supervision)"
    source = "https://github.com/X-GenGroup/Flow-Factory/blob/main/guidance/datasets.md"
    columns = {"schema_version": (), "input": (), "supervision": ()}
    example = {
        "schema_version": VERSION,
        "input": {"prompt": "a dog runs", "media": []},
        "supervision": {
            "type": "preference",
            "chosen": {"media": [{"type": "video", "path": "a.mp4"}]},
            "rejected": {"media": [{"type": "video", "path": "b.mp4"}]},
        },
        "metadata": {},
    }
    holds = frozenset(("choices", "no_prompt", "labels"))
    references = frozenset(("image", "last_image", "video"))
    suffixes = (".jsonl",)

    def judged(self, row: Row, table: Table, known: None) -> Iterator[Judgment]:
        """Yield the choice of one record."""
        if row.cells["schema_version"] != VERSION:
            raise ValueError(f"expected schema_version 2, got {row.cells['schema_version']!r}")
        supervision = as_object(row.cells["supervision"], "supervision")
        given = as_object(row.cells["input"], "input")
        if supervision.get("type") != "preference":
            table.left_out[f"records are of the type {supervision.get('type')!r}"] += 1
            return
        first, second = (_clip(supervision, side, table) for side in ("chosen", "rejected"))
        metadata = as_object(row.cells.get("metadata"), "metadata")
        own = labels(Row(row.where, {"labels": metadata.get("labels") or None}, {}))
        yield Choice(first, second, 1, prompt=_prompt(given, table), labels=own)

    def write(self, judgments: Judgments, path: Relative) -> list[dict[str, Any]]:
        """Return a record for each choice."""
        return [
            {
                "schema_version": VERSION,
                "input": _input(one.prompt, path),
                "supervision": {
                    "type": "preference",
                    "chosen": {"media": [_media(path(one.first))]},
                    "rejected": {"media": [_media(path(one.second))]},
                },
                "metadata": {"labels": list(one.labels)} if one.labels else {},
            }
            for one in judgments.choices
        ]


def _clip(supervision: Mapping[str, Any], side: str, table: Table) -> str:
    """Return the clip of a candidate: its only video, or its only image."""
    media = as_objects(as_object(supervision.get(side), side).get("media"), f"the media of {side}")
    found = [
        one["path"] for one in media if one.get("type") in ("video", "image") and "path" in one
    ]
    if len(found) != 1:
        raise ValueError(f"expected one video or image of {side}, got {len(found)}")
    return table.clips.path(found[0])


def _prompt(given: Mapping[str, Any], table: Table) -> str:
    """Return the prompt of a record with the references that its input has."""
    names = {slot: name for name, slot in SLOTS.items()}
    found: dict[str, str] = {}
    for one in as_objects(given.get("media"), "the media of input"):
        name = names.get(str(one.get("slot", "")), str(one.get("type", "")))
        if not is_file(name) or name in found:
            table.left_out[f"conditions {one.get('slot') or one.get('type')} are not read"] += 1
            continue
        found[name] = one.get("path", "")
    text = str(given.get("prompt") or "")
    return (
        references.prompt(text, found, lambda name: inside(table.clips.folder, name))
        if found
        else text
    )


def _input(prompt: str, path: Relative) -> dict[str, Any]:
    """Return the input of a record."""
    media = [
        {"type": stem(name), "path": path(value)} | ({"slot": SLOTS[name]} if name in SLOTS else {})
        for name, value in of(prompt).items()
    ]
    return {"prompt": str(prompt), "media": media}


def _media(path: str) -> dict[str, str]:
    """Return a clip as a V2 media object."""
    return {"type": "image" if path.lower().endswith(IMAGES) else "video", "path": path}
