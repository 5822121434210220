"""Find duplicates: clips of equal content are one observation, however often copied.

Two clips have equal content if their files have equal bytes (`id`), or if their size,
frames, rate and all their numbers and curves are equal, as for a clip that was put into
another container. The second rule needs a curve of `MIN_CURVE_VALUES` different numbers, so
that two dark or still clips are not taken for duplicates. Rows of other tools, which have
neither hash nor curve nor prompt, are duplicates if all their numbers are equal and have
more than nine digits.

Duplicates that answer the same prompt, or whose prompts are unknown, count once. Duplicates
that answer different prompts (a model that ignores its prompt, a filter that returns black
frames) are all counted, so that the mean does not gain by leaving them out. But in
intervals and tests their prompts form one group, because they are one observation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

Clip = Mapping[str, Any]  # as results.json has it
Clips = Sequence[Clip]
MIN_CURVE_VALUES = 4  # different values that a curve needs to identify a clip


def content_keys(clip: Clip) -> list[Hashable]:
    """Return keys that a clip shares with its duplicates: its hash, and all its numbers.

    The list is empty where neither is known.

    >>> content_keys({"id": "ab12"})
    [('bytes', 'ab12')]
    """
    curves = {name: tuple(curve) for name, curve in (clip.get("curve") or {}).items() if curve}
    found: list[Hashable] = [("bytes", clip["id"])] if clip.get("id") else []
    if any(len(set(curve) - {None}) >= MIN_CURVE_VALUES for curve in curves.values()):
        facts = (tuple(clip.get("size") or ()), clip.get("frames"), clip.get("fps"))
        found.append(
            (
                "numbers",
                facts,
                tuple(sorted(curves.items())),
                tuple(sorted(clip["value"].items(), key=str)),
            )
        )
    if not (found or clip.get("prompt")) and any(
        map(_precise, (values := clip.get("value") or {}).values())
    ):
        found.append(("values", tuple(sorted(values.items(), key=str))))
    return found


def _precise(x: float | None) -> bool:
    """Return whether a number has so many digits that two clips do not share it by chance."""
    return x is not None and float(f"{x:.9g}") != x


def content_numbers(clips: Clips) -> list[int]:
    """Return for each clip the number of its content; duplicates have the same number.

    >>> content_numbers([{"id": "a"}, {"id": "b"}, {"id": "a"}, {}])
    [0, 1, 0, 2]
    """
    return connected_groups([content_keys(clip) for clip in clips])


def connected_groups(items: Sequence[Iterable[Hashable]]) -> list[int]:
    """Return the group of each item; items that share a key, also through others, are one group.

    The groups are the connected components, found by union-find with path halving.

    >>> connected_groups([["a"], ["b"], ["a", "c"], ["c"], []])
    [0, 1, 0, 0, 2]
    """
    parent = list(range(len(items)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    first: dict[Hashable, int] = {}
    for i, keys in enumerate(items):
        for key in keys:
            a, b = sorted((root(first.setdefault(key, i)), root(i)))
            parent[b] = a
    number_of: dict[int, int] = {}
    return [number_of.setdefault(root(i), len(number_of)) for i in range(len(items))]


def without_duplicates(clips: Clips) -> list[Clip]:
    """Return the clips without duplicates that answer the same prompt; the first one is kept.

    >>> clips = [{"id": id, "path": path} for id, path in (("a", "1"), ("a", "2"), ("b", "3"))]
    >>> [clip["path"] for clip in without_duplicates(clips)]
    ['1', '3']
    """
    seen: dict[Hashable, Clip] = {}
    for clip, number in zip(clips, content_numbers(clips), strict=True):
        seen.setdefault(
            (clip.get("prompt") or "", clip.get("seed") if clip.get("prompt") else None, number),
            clip,
        )
    return list(seen.values())


def dependence_groups(clips: Clips) -> list[int]:
    """Return the group of each clip for intervals and tests.

    A group is a prompt, joined with the prompts of its duplicates.

    >>> dependence_groups([{"prompt": "x"}, {"prompt": "x"}])
    [0, 0]
    >>> dependence_groups([{"prompt": "y", "id": "a"}, {"prompt": "z", "id": "a"}, {}, {}])
    [0, 0, 1, 2]
    """
    return connected_groups([dependence_keys(clip) for clip in clips])


def group_names(clips: Clips) -> list[Hashable]:
    """Return the groups as `dependence_groups` does, but "" for a clip that is alone.

    `vidrl.inference` gives every value of the group "" a group of its own, and does not
    count it as a known prompt.

    >>> group_names([{"prompt": "x"}, {"prompt": "x"}, {}])
    [0, 0, '']
    """
    numbers = dependence_groups(clips)
    sizes = Counter(numbers)
    return [
        number if clip.get("prompt") or sizes[number] > 1 else ""
        for clip, number in zip(clips, numbers, strict=True)
    ]


def dependence_keys(clip: Clip, side: int = 0) -> list[Hashable]:
    """Return what makes clips dependent: a common prompt, or equal content within a set.

    `side` numbers the set: content is compared within one set only.
    """
    prompt = [("prompt", clip["prompt"])] if clip.get("prompt") else []
    return [*prompt, *((side, one) for one in content_keys(clip))]


def duplicate_notes(sets: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return notes on the duplicates within each set, and between two sets.

    >>> twice = [{"id": "a", "path": "1.mp4"}, {"id": "a", "path": "2.mp4"}]
    >>> duplicate_notes([{"name": "ours", "clips": twice}])
    ['ours: 1 of 2 clips is a copy of another one and not counted again, the first is 2.mp4']
    """
    within = [note for one in sets for note in _within(one["name"], one["clips"])]
    return within + [
        note
        for i, one in enumerate(sets)
        for other in sets[i + 1 :]
        for note in _between(one, other)
    ]


def _within(name: str, clips: Clips) -> list[str]:
    """Return notes on the duplicates within one set."""
    kept_ids = {id(clip) for clip in without_duplicates(clips)}
    removed = [clip for clip in clips if id(clip) not in kept_ids]
    note = (
        [
            f"{name}: {len(removed)} of {len(clips)} clips {_is(len(removed), 'a copy', 'copies')} "
            f"of another one and not counted again, the first is {removed[0]['path']}"
        ]
        if removed
        else []
    )
    answers: dict[int, set[str]] = {}
    for clip, number in zip(clips, content_numbers(clips), strict=True):
        answers.setdefault(number, set()).add(clip.get("prompt") or "")
    shared = [prompts for prompts in answers.values() if len(prompts) > 1]
    return note + (
        [
            f"{name}: {sum(map(len, shared))} prompts share {len(shared)} "
            f"{'clip' if len(shared) == 1 else 'clips'} of equal content: they count as "
            f"{len(shared)} in intervals and tests"
        ]
        if shared
        else []
    )


def _is(count: int, one: str, many: str) -> str:
    return f"is {one}" if count == 1 else f"are {many}"


def _between(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Return a note on the clips that both sets contain."""
    numbers = content_numbers([*first["clips"], *second["clips"]])
    first_numbers, second_numbers = (
        set(numbers[: len(first["clips"])]),
        numbers[len(first["clips"]) :],
    )
    common = sum(number in first_numbers for number in second_numbers)
    return (
        [
            f"{common} of {len(second_numbers)} clips of {second['name']} are also in "
            f"{first['name']}: on them the two sets cannot differ"
        ]
        if common
        else []
    )
