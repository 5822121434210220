"""Which clips of two sets belong together: by prompt and seed, by prompt, by file name, or
not at all.

The way is chosen by counts of clips alone, never by their numbers, so that the choice
cannot favour a set.
"""

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
Keys = tuple[Key, Key]
Names = tuple[str, str]

SEED, PROMPT, NAME, UNPAIRED = "prompt and seed", "prompt", "file name", "nothing"
# of what pairing by prompt would use: what seeds must keep; a shared seed also removes
# noise
SEED_SHARE = 0.75
PROMPT_SHARE = 0.1  # of the smaller set's prompts: below it the sets were asked for other things
NAME_SHARE = 0.5  # of the smaller set's clips: below it the common names are chance


@dataclass(frozen=True)
class Match:
    """All clips of two sets that were made alike, scored or not, of one `prompt` ("" where
    it is not known)."""

    prompt: str
    first: tuple[Clip, ...]
    second: tuple[Clip, ...]


@dataclass(frozen=True)
class Matches:
    """What belongs together, and `by` what; the `notes` say why by this, and what was left
    out."""

    by: str
    found: list[Match]
    notes: list[str]


@dataclass(frozen=True)
class Pair:
    """The scored clips of a match. `before` and `after` are the means of either side."""

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


def pairs(
    first: Clips, second: Clips, dim: str, names: Names = ("the first", "the second")
) -> Pairs:
    """The matches of two sets that are scored on `dim` on both sides.

    >>> a = [{"path": f"a/{i}.mp4", "prompt": "a cat", "seed": i, "value": {"flicker": i / 10}} for i in range(3)]
    >>> b = [{"path": f"b/{i}.mp4", "prompt": "a cat", "seed": i, "value": {"flicker": 0.5}} for i in (1, 2, 3)]
    >>> found = pairs(a, b, "flicker")
    >>> found.by, [round(pair.difference, 3) for pair in found.pairs]
    ('prompt and seed', [0.4, 0.3])
    >>> found.notes
    ['1 of 3 clips of the first have no partner', '1 of 3 clips of the second have no partner']
    """
    made = matches(first, second, names)
    found = [scored_pair(one, dim) for one in made.found]
    lost = [f"{found.count(None)} of {len(found)} pairs are not scored on both sides"] * (
        None in found
    )
    return Pairs(made.by, [pair for pair in found if pair], made.notes + lost)


def matches(first: Clips, second: Clips, names: Names = ("the first", "the second")) -> Matches:
    """The clips of two sets that belong together, by the way that keeps the most
    information, see `pairing_rule`.

    By prompt all clips of a prompt are one match, whatever their seeds. Clips of one key in
    one set are one side.
    """
    by, keys = pairing_rule(first, second)
    if keys is None:
        return Matches(by, [], _why_not(first, second))
    sides = [_by_key(clips, key) for clips, key in zip((first, second), keys, strict=True)]
    shared = [key for key in sides[0] if key in sides[1]]
    found = [_match(sides[0][key], sides[1][key]) for key in shared]
    return Matches(
        by,
        found,
        [
            *_why(by, first, second, names),
            *_without_partner_notes(sides, shared, (first, second), names),
        ],
    )


def pairing_rule(first: Clips, second: Clips) -> tuple[str, Keys | None]:
    """What clips are paired by, and the key of each side's clips; None where too little is
    in common.

    By prompt and seed, where that loses no prompt and keeps `SEED_SHARE` of what pairing by
    prompt would use; else by prompt, where the sets share `PROMPT_SHARE` of their prompts; else
    by the path below the set's folder, or the file name, without its ending, where the
    prompts do not contradict and the sets share `NAME_SHARE` of their names. What a match of m
    and n clips tells counts as m n / (m + n), the inverse of the variance of the difference
    of two means.

    >>> clips = [{"path": f"{i}.mp4", "prompt": f"{i // 9}", "seed": i % 9} for i in range(180)]
    >>> pairing_rule(clips, [{**clip, "seed": clip["seed"] + 1} for clip in clips])[0]  # 8 of 9 seeds in common
    'prompt and seed'
    >>> pairing_rule(clips, [{**clip, "seed": clip["seed"] + 8} for clip in clips])[0]  # 1 of 9: all of them tell more
    'prompt'
    """
    if _enough(first, second, _prompt, _prompt, PROMPT_SHARE):
        seeds, whole = _information(first, second, _seeded), _information(first, second, _prompt)
        kept = {key[0] for key in _shared(first, second, _seeded, _seeded)} == _shared(
            first, second, _prompt, _prompt
        )
        return (
            (SEED, (_seeded, _seeded))
            if kept and seeds >= SEED_SHARE * whole or _one_prompt(first, second)
            else (PROMPT, (_prompt, _prompt))
        )
    for keys in ((_below(first), _below(second)), (_stem(first), _stem(second))):
        if _agree(first, second, *keys) and _enough(first, second, *keys, NAME_SHARE):
            return NAME, keys
    return UNPAIRED, None


def scored_pair(match: Match, dim: str) -> Pair | None:
    """The scored clips of a match; None where a side has none."""
    first, second = (
        tuple(clip for clip in side if clip_value(clip, dim) is not None)
        for side in (match.first, match.second)
    )
    if not (first and second):
        return None
    before, after = (
        sum(clip["value"][dim] for clip in side) / len(side) for side in (first, second)
    )
    return Pair(match.prompt, first, second, before, after)


def clip_value(clip: Clip, dim: str) -> float | None:
    """The number of a clip, None where it is not scored."""
    found = clip["value"].get(dim)
    return None if found is None or found != found or abs(found) == float("inf") else float(found)


# --- keys -----------------------------------------------------------------------------


def _prompt(clip: Clip) -> Hashable:
    return clip.get("prompt") or None


def _seeded(clip: Clip) -> Hashable:
    seed = clip.get("seed")
    return (clip["prompt"], seed) if clip.get("prompt") and seed is not None else None


def _below(clips: Clips) -> Key:
    """The path below the folder that all clips are in, without its ending."""
    folders = [os.path.dirname(clip["path"]) or "." for clip in clips if clip.get("value")]
    folder = (
        os.path.commonpath(folders)
        if folders and len(set(map(os.path.isabs, folders))) == 1
        else "."
    )
    return lambda clip: str(PurePath(os.path.relpath(clip["path"], folder)).with_suffix(""))


def _stem(clips: Clips) -> Key:
    """The file name without its ending, where only one clip has it."""
    often = Counter(PurePath(clip["path"]).stem for clip in clips)
    return lambda clip: stem if often[stem := PurePath(clip["path"]).stem] == 1 else None


def _shared(first: Clips, second: Clips, mine: Key, other: Key) -> set[Any]:
    return ({mine(clip) for clip in first} & {other(clip) for clip in second}) - {None}


def _enough(first: Clips, second: Clips, mine: Key, other: Key, share: float) -> bool:
    """Whether the sets share this share of the keys of the one that has fewer."""
    sides = {mine(clip) for clip in first} - {None}, {other(clip) for clip in second} - {None}
    common = sides[0] & sides[1]
    return bool(common) and len(common) >= share * min(map(len, sides))


def _one_prompt(first: Clips, second: Clips) -> bool:
    """Whether all that the sets have in common are several seeds of one prompt, which by
    prompt would be one pair."""
    seeds = len(_shared(first, second, _seeded, _seeded))
    return len(_shared(first, second, _prompt, _prompt)) == 1 and seeds > 1


def _information(first: Clips, second: Clips, key: Key) -> float:
    """Σ m n / (m + n) over the keys in common, of m and n clips."""
    sides = [
        Counter(found for clip in clips if (found := key(clip)) is not None)
        for clips in (first, second)
    ]
    return sum(
        sides[0][one] * sides[1][one] / (sides[0][one] + sides[1][one])
        for one in sides[0].keys() & sides[1]
    )


def _agree(first: Clips, second: Clips, mine: Key, other: Key) -> bool:
    """Whether names are in common, and those that are were asked for the same, as far as
    that is known."""
    asked = {mine(clip): _prompt(clip) for clip in first}
    both = [
        (asked[other(clip)], _prompt(clip))
        for clip in second
        if other(clip) is not None and other(clip) in asked
    ]
    return bool(both) and all(a is None or b is None or a == b for a, b in both)


def _by_key(clips: Clips, key: Key) -> dict[Hashable, list[Clip]]:
    found: dict[Hashable, list[Clip]] = defaultdict(list)
    for clip in clips:
        if key(clip) is not None:
            found[key(clip)].append(clip)
    return dict(found)


def _match(first: list[Clip], second: list[Clip]) -> Match:
    prompt = next(
        (clip["prompt"] for side in (first, second) for clip in side if clip.get("prompt")), ""
    )
    return Match(prompt, tuple(first), tuple(second))


# --- what is to be said of it ---------------------------------------------------------


def _why(by: str, first: Clips, second: Clips, names: Names) -> list[str]:
    """Why the clips were paired in this way, where another one was possible or where it may
    mislead."""
    seeds = _shared(first, second, _seeded, _seeded)
    if by == PROMPT and seeds:
        counts = [sum(_seeded(clip) in seeds for clip in clips) for clips in (first, second)]
        return [
            "paired by prompt, over all its seeds, because pairing by seed would use only "
            f"{_counted(counts, (first, second), names)}"
        ]
    if by == NAME and not any(_prompt(clip) for clip in (*first, *second)):
        return [
            "paired by file name, because no clip has a prompt: whether files of one name "
            "were asked for the same "
            "is not known, and if they were not, the win rate compares clips that have "
            "nothing in common"
        ]
    return []


def _why_not(first: Clips, second: Clips) -> list[str]:
    """Why the sets are compared unpaired."""
    common = {
        "prompts": len(_shared(first, second, _prompt, _prompt)),
        "file names": len(_shared(first, second, _stem(first), _stem(second))),
    }
    few = [f"{count} of their {what}" for what, count in common.items() if count]
    said = (
        f"too little in common ({' and '.join(few)})"
        if few
        else ("nothing in common, neither prompts, seeds nor file names")
    )
    return [
        f"the sets have {said}: they are compared unpaired, and a difference may also come "
        "from what was asked"
    ]


def _counted(counts: Sequence[int], sets: tuple[Clips, Clips], names: Names) -> str:
    return " and ".join(
        f"{count} of {len(clips)} clips of {name}"
        for count, clips, name in zip(counts, sets, names, strict=True)
    )


def _without_partner_notes(
    sides: Sequence[Mapping[Hashable, list[Clip]]],
    shared: Sequence[Hashable],
    sets: tuple[Clips, Clips],
    names: Names,
) -> list[str]:
    counts = [
        len(clips) - sum(len(side[key]) for key in shared)
        for clips, side in zip(sets, sides, strict=True)
    ]
    return [
        f"{count} of {len(clips)} clips of {name} have no partner"
        for count, clips, name in zip(counts, sets, names, strict=True)
        if count
    ]
