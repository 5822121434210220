"""Which clips of two sets belong together: by prompt and seed, by prompt, by file name, or not at all."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

Clip = Mapping[str, Any]  # as results.json has it
Clips = Sequence[Clip]
Key = Callable[[Clip], Hashable]

UNPAIRED = "nothing"


@dataclass(frozen=True)
class Pair:
    """Clips of two sets that were made alike, of one `prompt`; several on a side where a prompt was sampled often.

    `before` and `after` are the means of the scored ones.
    """

    prompt: str
    first: tuple[Clip, ...]
    second: tuple[Clip, ...]
    before: float
    after: float

    @property
    def difference(self) -> float:
        """Second less first."""
        return self.after - self.before


@dataclass(frozen=True)
class Pairs:
    """What was paired, and `by` what; the `notes` say what was left out."""

    by: str
    pairs: list[Pair]
    notes: list[str]


def pairs(first: Clips, second: Clips, dim: str, names: tuple[str, str] = ("the first", "the second")) -> Pairs:
    """Pairs of the clips of two sets that are scored on `dim` in both.

    By prompt and seed, where no prompt is lost by it; else by prompt, the means of a prompt's clips; else by the path
    below the set's folder, or the file name, without its ending, where the prompts do not contradict. Clips of one key
    in one set are one side of one pair.

    >>> a = [{"path": f"a/{i}.mp4", "prompt": "a cat", "seed": i, "value": {"flicker": i / 10}} for i in range(3)]
    >>> b = [{"path": f"b/{i}.mp4", "prompt": "a cat", "seed": i, "value": {"flicker": 0.5}} for i in (1, 2, 3)]
    >>> found = pairs(a, b, "flicker")
    >>> found.by, [round(pair.difference, 3) for pair in found.pairs]
    ('prompt and seed', [0.4, 0.3])
    >>> found.notes
    ['1 of 3 clips of the first have no partner', '1 of 3 clips of the second have no partner']
    """
    by, keys = rule(first, second)
    if keys is None:
        return Pairs(by, [], [f"{by} in common, neither prompts, seeds nor file names: the sets are compared unpaired"])
    sides = [_by_key(clips, key) for clips, key in zip((first, second), keys, strict=True)]
    shared = [key for key in sides[0] if key in sides[1]]
    found = [_pair(sides[0][key], sides[1][key], dim) for key in shared]
    lost = [f"{len(found) - sum(map(bool, found))} of {len(found)} pairs are not scored on both sides"]
    notes = [*_alone(sides, shared, (first, second), names), *_unscored(sides, shared, dim, names)]
    return Pairs(by, [pair for pair in found if pair], notes + lost * (None in found))


def rule(first: Clips, second: Clips) -> tuple[str, tuple[Key, Key] | None]:
    """What clips are paired by, and the key of each side's clips; None where nothing is in common."""
    prompts = _shared(first, second, _prompt, _prompt)
    seeded = _shared(first, second, _seeded, _seeded)
    if prompts and {key[0] for key in seeded} == prompts:
        return "prompt and seed", (_seeded, _seeded)
    if prompts:
        return "prompt", (_prompt, _prompt)
    for keys in ((_below(first), _below(second)), (_stem(first), _stem(second))):
        if _agree(first, second, *keys):
            return "file name", keys
    return UNPAIRED, None


def _prompt(clip: Clip) -> Hashable:
    return clip.get("prompt") or None


def _seeded(clip: Clip) -> Hashable:
    seed = clip.get("seed")
    return (clip["prompt"], seed) if clip.get("prompt") and seed is not None else None


def _below(clips: Clips) -> Key:
    """The path below the folder that all clips are in, without its ending."""
    folder = os.path.commonpath([os.path.dirname(clip["path"]) or "." for clip in clips]) if clips else "."
    return lambda clip: str(PurePath(os.path.relpath(clip["path"], folder)).with_suffix(""))


def _stem(clips: Clips) -> Key:
    """The file name without its ending, where only one clip has it."""
    often = Counter(PurePath(clip["path"]).stem for clip in clips)
    return lambda clip: stem if often[stem := PurePath(clip["path"]).stem] == 1 else None


def _shared(first: Clips, second: Clips, mine: Key, other: Key) -> set[Any]:
    return ({mine(clip) for clip in first} & {other(clip) for clip in second}) - {None}


def _agree(first: Clips, second: Clips, mine: Key, other: Key) -> bool:
    """Whether names are in common, and those that are were asked for the same, as far as that is known."""
    asked = {mine(clip): _prompt(clip) for clip in first}
    both = [(asked[other(clip)], _prompt(clip)) for clip in second if other(clip) is not None and other(clip) in asked]
    return bool(both) and all(a is None or b is None or a == b for a, b in both)


def _by_key(clips: Clips, key: Key) -> dict[Hashable, list[Clip]]:
    found: dict[Hashable, list[Clip]] = defaultdict(list)
    for clip in clips:
        if key(clip) is not None:
            found[key(clip)].append(clip)
    return dict(found)


def _pair(first: list[Clip], second: list[Clip], dim: str) -> Pair | None:
    sides = [tuple(clip for clip in clips if value(clip, dim) is not None) for clips in (first, second)]
    if not all(sides):
        return None
    before, after = (sum(clip["value"][dim] for clip in side) / len(side) for side in sides)
    prompt = next((clip["prompt"] for side in sides for clip in side if clip.get("prompt")), "")
    return Pair(prompt, sides[0], sides[1], before, after)


def value(clip: Clip, dim: str) -> float | None:
    """The number of a clip, None where it is not scored."""
    found = clip["value"].get(dim)
    return None if found is None or found != found or abs(found) == float("inf") else float(found)


def _alone(sides: Sequence[Mapping[Hashable, list[Clip]]], shared: Sequence[Hashable], sets: tuple[Clips, Clips],
           names: tuple[str, str]) -> list[str]:
    counts = [len(clips) - sum(len(side[key]) for key in shared) for clips, side in zip(sets, sides, strict=True)]
    return [f"{count} of {len(clips)} clips of {name} have no partner"
            for count, clips, name in zip(counts, sets, names, strict=True) if count]


def _unscored(sides: Sequence[Mapping[Hashable, list[Clip]]], shared: Sequence[Hashable], dim: str,
              names: tuple[str, str]) -> list[str]:
    lost = [sum(value(clip, dim) is None for key in shared for clip in side[key]) for side in sides]
    return [f"{count} clips of {name} are unscored and left out"
            for count, name in zip(lost, names, strict=True) if count]
