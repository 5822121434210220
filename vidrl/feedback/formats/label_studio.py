"""Label Studio's JSON export: tasks with annotations, of which pairwise results are choices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vidrl.feedback.judgments import OVERALL, Choice, Judgments, Points

from ._cells import grouped
from .base import Format, Judgment, Relative, Row, Table, as_object, as_objects, is_number

CLIPS = (  # keys of a task's data that name its two clips; those of the templates come last
    ("video1", "video2"),
    ("video_1", "video_2"),
    ("video_a", "video_b"),
    ("path_a", "path_b"),
    ("left", "right"),
    ("image1", "image2"),
    ("answer1", "answer2"),
)
CLIP = ("video", "image", "path")  # keys that name the only clip of a task
PROMPTS = ("prompt", "caption", "text")
SIDES = {"left": 1, "right": -1}
TIES = {"tie": False, "same": False, "equal": False, "both bad": True, "both_bad": True}
PAIRWISE = ("pairwise", "pw", "comparison")  # usual names of the tag, which name no aspect
STARS = 5.0  # the number of stars of the tag Rating, unless a result has more


class LabelStudio(Format):
    """Reads and writes tasks `{"data": {...}, "annotations": [{"result": [...]}]}`.

    A result of the type `pairwise` has `value.selected`, left or right; a result of the type
    `choices` may have left, right, tie or both bad; a result of the type `rating` gives the
    points of the clip that `to_name` names, or of the task's only clip, from 1 to 5 stars.
    The aspect is `from_name`, the rater `completed_by`. The clips of a task are `video1` and
    `video2`, or other usual keys; use --map video1=KEY for yours. Cancelled annotations and
    other types of results are counted and left out.
    """

    title = "Label Studio (data, annotations[].result[].value.selected)"
    source = "https://labelstud.io/guide/task_format and https://labelstud.io/tags/pairwise"
    columns = {"data": (), "annotations": ()}
    example = {
        "data": {"prompt": "a dog runs", "video1": "a.mp4", "video2": "b.mp4"},
        "annotations": [
            {
                "completed_by": 1,
                "result": [
                    {
                        "from_name": "pairwise",
                        "to_name": "video1,video2",
                        "type": "pairwise",
                        "value": {"selected": "left"},
                    }
                ],
            }
        ],
    }
    holds = frozenset(("choices", "sides", "no_prompt", "ties", "both_bad", "aspects", "raters"))
    suffixes = (".json",)

    def judged(self, row: Row, table: Table, known: None) -> Iterator[Judgment]:
        """Yield the judgments of one task."""
        annotations = as_objects(row.cells["annotations"], "annotations")
        task = Row.of(row.where, as_object(row.cells["data"], "data"), table.renamed)
        for annotation in annotations:
            if annotation.get("was_cancelled"):
                table.left_out["annotations were cancelled"] += 1
                continue
            rater = _rater(annotation.get("completed_by"))
            for result in as_objects(annotation.get("result"), "the result of an annotation"):
                yield from _judgments(result, task, rater, table)

    def write(self, judgments: Judgments, path: Relative) -> list[dict[str, Any]]:
        """Return a task for each pair, with an annotation for each rater."""
        wrong = [aspect for aspect in judgments.aspects if aspect in PAIRWISE]
        if wrong:
            raise ValueError(f"expected an aspect that is no usual name of a tag, got {wrong[0]}")
        tasks = grouped(judgments.choices, lambda c: (c.first, c.second, c.prompt))
        return [_task(number, task, path) for number, task in enumerate(tasks, 1)]


def _judgments(
    result: Mapping[str, Any], task: Row, rater: str, table: Table
) -> Iterator[Judgment]:
    """Yield the judgment of one result, if it is one."""
    value = as_object(result.get("value"), "the value of a result")
    name = str(result.get("from_name") or "")
    about = (OVERALL if name in PAIRWISE else name or OVERALL, task.text(*PROMPTS), rater)
    choices = value.get("choices")
    first_choice = choices[0] if isinstance(choices, list) and choices else ""
    word = str(value.get("selected") or first_choice).lower()
    if word in SIDES or word in TIES:
        bad = TIES.get(word, False)
        first, second = _pair(task, table)
        yield Choice(first, second, SIDES.get(word, 0), *about, both_bad=bad)
    elif is_number(value.get("rating")):
        stars = float(value["rating"])
        clip = table.clips.path(task.cell(str(result.get("to_name")).lower(), *CLIP))
        yield Points(clip, stars, 1.0, max(STARS, stars), *about)
    else:
        table.left_out[f"results of the type {result.get('type')!r} are not read"] += 1


def _pair(task: Row, table: Table) -> list[str]:
    """Return the two clips of a task."""
    pair = next((keys for keys in CLIPS if all(map(task.has, keys))), None)
    if pair is None:
        raise ValueError(
            f"expected data to name two clips as video1 and video2, got {', '.join(task.names)}: "
            "name the keys by --map video1=KEY --map video2=KEY"
        )
    return [table.clips.path(task.cell(key)) for key in pair]


def _rater(completed_by: Any) -> str:
    """Return the rater: an id, or an object with an email or id."""
    if isinstance(completed_by, Mapping):
        completed_by = completed_by.get("email") or completed_by.get("id")
    return "" if completed_by is None else str(completed_by)


def _task(number: int, task: list[Choice], path: Relative) -> dict[str, Any]:
    """Return the task of one pair."""
    first = task[0]
    data = {"prompt": str(first.prompt), "video1": path(first.first), "video2": path(first.second)}
    return {
        "id": number,
        "data": data,
        "annotations": [
            {"result": [_result(one) for one in answers]}
            | ({"completed_by": answers[0].rater} if answers[0].rater else {})
            for answers in grouped(task, lambda choice: (choice.rater,))
        ],
    }


def _result(one: Choice) -> dict[str, Any]:
    """Return the result of one choice; the tag Pairwise has no tie, so a tie is of Choices."""
    name = {"from_name": "pairwise" if one.aspect == OVERALL else one.aspect}
    about = name | {"to_name": "video1,video2"}
    if one.choice:
        selected = "left" if one.choice == 1 else "right"
        return about | {"type": "pairwise", "value": {"selected": selected}}
    return about | {
        "type": "choices",
        "value": {"choices": ["both bad" if one.both_bad else "tie"]},
    }
