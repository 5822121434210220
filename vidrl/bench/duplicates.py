"""Copies: clips of equal content are one observation, however often their file was copied.

Two clips have equal content where their files have equal bytes (`id`), or where size,
frames, rate and every number and curve of every dim are equal: a film that was put into
another container. The second needs a curve of `MIN_CURVE_VALUES` different numbers, so that two dark
or still clips are not taken for copies of each other. Rows of other tools, which have
neither hash nor curve nor prompt, are copies where all their numbers are equal to more than
nine digits.

Copies that were asked for the same, or of which nobody knows what was asked, count once.
Copies that answer different prompts (a model that ignores its prompt, a filter that returns
black frames) each stay an answer, so that the mean does not gain by leaving them out; but
their prompts are one group of intervals and tests, because they are one observation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

Clip = Mapping[str, Any]  # as results.json has it
Clips = Sequence[Clip]
MIN_CURVE_VALUES = 4


def content_keys(clip: Clip) -> list[Hashable]:
    """What a clip shares with its copies: the hash of its bytes, and all its numbers;
    nothing where neither is known.

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
    """Whether a number has so many digits that two films have not the same one by
    chance."""
    return x is not None and float(f"{x:.9g}") != x


def content_numbers(clips: Clips) -> list[int]:
    """For each clip the number of its content: copies have the same number.

    >>> content_numbers([{"id": "a"}, {"id": "b"}, {"id": "a"}, {}])
    [0, 1, 0, 2]
    """
    return connected_groups([content_keys(clip) for clip in clips])


def connected_groups(items: Sequence[Iterable[Hashable]]) -> list[int]:
    """The number of each item's group: items that share a key, directly or through others,
    are one group.

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
    numbers: dict[int, int] = {}
    return [numbers.setdefault(root(i), len(numbers)) for i in range(len(items))]


def without_duplicates(clips: Clips) -> list[Clip]:
    """The clips without the copies that were asked for the same, the first of each kept.

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
    """The group of each clip for intervals and tests: its prompt, joined with the prompts
    of its copies.

    >>> dependence_groups([{"prompt": "x"}, {"prompt": "x"}, {"prompt": "y", "id": "a"}, {"prompt": "z", "id": "a"}, {}, {}])
    [0, 0, 1, 1, 2, 3]
    """
    return connected_groups([dependence_keys(clip) for clip in clips])


def group_names(clips: Clips) -> list[Hashable]:
    """As `dependence_groups`, but "" for a clip that has no prompt and no copy, as `vidrl.inference`
    names what is alone.

    >>> group_names([{"prompt": "x"}, {"prompt": "x"}, {}])
    [0, 0, '']
    """
    numbers = dependence_groups(clips)
    often = Counter(numbers)
    return [
        number if clip.get("prompt") or often[number] > 1 else ""
        for clip, number in zip(clips, numbers, strict=True)
    ]


def dependence_keys(clip: Clip, side: int = 0) -> list[Hashable]:
    """What makes clips of one set, the `side`, depend on each other: a prompt in common, or
    equal content."""
    prompt = [("prompt", clip["prompt"])] if clip.get("prompt") else []
    return [*prompt, *((side, one) for one in content_keys(clip))]


def duplicate_notes(sets: Sequence[Mapping[str, Any]]) -> list[str]:
    """What to say of the copies within each set, and between two sets.

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
    kept = {id(clip) for clip in without_duplicates(clips)}
    left = [clip for clip in clips if id(clip) not in kept]
    counted = (
        [
            f"{name}: {len(left)} of {len(clips)} clips {_is(len(left), 'a copy', 'copies')} "
            f"of another one and not counted again, the first is {left[0]['path']}"
        ]
        if left
        else []
    )
    answers: dict[int, set[str]] = {}
    for clip, number in zip(clips, content_numbers(clips), strict=True):
        answers.setdefault(number, set()).add(clip.get("prompt") or "")
    same = [prompts for prompts in answers.values() if len(prompts) > 1]
    return counted + (
        [
            f"{name}: {sum(map(len, same))} prompts share {len(same)} "
            f"{'clip' if len(same) == 1 else 'clips'} of equal content: they count as "
            f"{len(same)} in intervals and tests"
        ]
        if same
        else []
    )


def _is(count: int, one: str, many: str) -> str:
    return f"is {one}" if count == 1 else f"are {many}"


def _between(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """The clips that both sets have."""
    numbers = content_numbers([*first["clips"], *second["clips"]])
    mine, other = set(numbers[: len(first["clips"])]), numbers[len(first["clips"]) :]
    both = sum(number in mine for number in other)
    return (
        [
            f"{both} of {len(other)} clips of {second['name']} are also in {first['name']}: "
            "on them the two sets cannot differ"
        ]
        if both
        else []
    )
