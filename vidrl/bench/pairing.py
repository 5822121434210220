"""Match the clips of two sets: by prompt and seed, by prompt, by file name, or not at all.

Pairing removes the variation between prompts from a difference of two models. The rule that
chooses by what clips are matched reads only which prompts, seeds and names the clips have,
never their numbers, so the choice cannot favour a set.
"""

from __future__ import annotations

import math
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

SEED = "prompt and seed"
PROMPT = "prompt"
NAME = "file name"
UNPAIRED = "nothing"
# Pairing by seed must keep this part of the information that pairing by prompt would use.
# It may lose some, because a shared seed also removes noise from the difference.
SEED_SHARE = 0.75
# Parts of the smaller set's prompts and names that the sets must share. With fewer common
# prompts the sets answer different questions; fewer common names may be coincidence.
PROMPT_SHARE = 0.1
NAME_SHARE = 0.5


@dataclass(frozen=True)
class Match:
    """All clips of two sets that belong together, scored or not.

    `prompt` is their common prompt, "" where it is not known.
    """

    prompt: str
    first: tuple[Clip, ...]
    second: tuple[Clip, ...]


@dataclass(frozen=True)
class Matches:
    """The matches of two sets, by what they were found, and notes.

    The notes say why this rule was chosen, and what was left out.
    """

    by: str
    found: list[Match]
    notes: list[str]


@dataclass(frozen=True)
class Pair:
    """The scored clips of a match.

    `before` is the mean of the first side on the dim, `after` that of the second.
    """

    prompt: str
    first: tuple[Clip, ...]
    second: tuple[Clip, ...]
    before: float
    after: float

    @property
    def difference(self) -> float:
        """Return the mean of the second side less that of the first."""
        return self.after - self.before


@dataclass(frozen=True)
class Pairs:
    """The pairs of two sets, by what they were found, and notes on what was left out."""

    by: str
    pairs: list[Pair]
    notes: list[str]


def pairs(
    first: Clips, second: Clips, dim: str, names: Names = ("the first", "the second")
) -> Pairs:
    """Return the matches of two sets that are scored on `dim` on both sides.

    >>> clip = lambda seed, x: {"path": f"{seed}", "prompt": "p", "seed": seed, "value": {"d": x}}
    >>> first, second = [clip(i, i / 10) for i in (0, 1, 2)], [clip(i, 0.5) for i in (1, 2, 3)]
    >>> found = pairs(first, second, "d")
    >>> found.by, [round(pair.difference, 3) for pair in found.pairs]
    ('prompt and seed', [0.4, 0.3])
    >>> found.notes
    ['1 of 3 clips of the first have no partner', '1 of 3 clips of the second have no partner']
    """
    matched = matches(first, second, names)
    found = [scored_pair(match, dim) for match in matched.found]
    unscored_note = [f"{found.count(None)} of {len(found)} pairs are not scored on both sides"] * (
        None in found
    )
    return Pairs(matched.by, [pair for pair in found if pair], matched.notes + unscored_note)


def matches(first: Clips, second: Clips, names: Names = ("the first", "the second")) -> Matches:
    """Match the clips of two sets by the rule that `pairing_rule` chooses.

    By prompt, all clips of a prompt form one match, whatever their seeds. Clips of one set
    with equal keys are one side of a match.
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
    """Return by what clips are matched, and the key functions of both sides, None if unpaired.

    - By prompt and seed, if that loses no prompt and keeps `SEED_SHARE` of the information
      of pairing by prompt;
    - else by prompt, if the sets share `PROMPT_SHARE` of the prompts;
    - else by the path below the set's folder, or by the file name, both without suffix, if
      the sets share `NAME_SHARE` of the names and the known prompts agree.

    The information of a match of m and n clips is m n / (m + n): the variance of the
    difference of two means of m and n clips is σ² (1/m + 1/n).

    >>> clips = [{"path": f"{i}.mp4", "prompt": f"{i // 9}", "seed": i % 9} for i in range(180)]
    >>> shifted = lambda k: [{**clip, "seed": clip["seed"] + k} for clip in clips]
    >>> pairing_rule(clips, shifted(1))[0]  # 8 of 9 seeds in common
    'prompt and seed'
    >>> pairing_rule(clips, shifted(8))[0]  # 1 of 9 seeds: all clips of a prompt say more
    'prompt'
    """
    if _enough(first, second, _prompt, _prompt, PROMPT_SHARE):
        seeds, prompts = _information(first, second, _seeded), _information(first, second, _prompt)
        loses_no_prompt = {key[0] for key in _shared(first, second, _seeded, _seeded)} == _shared(
            first, second, _prompt, _prompt
        )
        return (
            (SEED, (_seeded, _seeded))
            if loses_no_prompt and seeds >= SEED_SHARE * prompts or _one_prompt(first, second)
            else (PROMPT, (_prompt, _prompt))
        )
    for keys in ((_below(first), _below(second)), (_stem(first), _stem(second))):
        if _agree(first, second, *keys) and _enough(first, second, *keys, NAME_SHARE):
            return NAME, keys
    return UNPAIRED, None


def scored_pair(match: Match, dim: str) -> Pair | None:
    """Return the scored clips of a match, None if a side has none."""
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
    """Return the number of a clip on a dim, None if the clip is not scored."""
    found = clip["value"].get(dim)
    return (
        None if found is None or math.isnan(found) or abs(found) == float("inf") else float(found)
    )


# --- keys -----------------------------------------------------------------------------


def _prompt(clip: Clip) -> Hashable:
    return clip.get("prompt") or None


def _seeded(clip: Clip) -> Hashable:
    seed = clip.get("seed")
    return (clip["prompt"], seed) if clip.get("prompt") and seed is not None else None


def _below(clips: Clips) -> Key:
    """Return the key "path below the folder that contains all clips, without suffix"."""
    folders = [os.path.dirname(clip["path"]) or "." for clip in clips if clip.get("value")]
    folder = (
        os.path.commonpath(folders)
        if folders and len(set(map(os.path.isabs, folders))) == 1
        else "."
    )
    return lambda clip: str(PurePath(os.path.relpath(clip["path"], folder)).with_suffix(""))


def _stem(clips: Clips) -> Key:
    """Return the key "file name without suffix"; None for a name that several clips have."""
    counts = Counter(PurePath(clip["path"]).stem for clip in clips)
    return lambda clip: stem if counts[stem := PurePath(clip["path"]).stem] == 1 else None


def _shared(first: Clips, second: Clips, first_key: Key, second_key: Key) -> set[Any]:
    return ({first_key(clip) for clip in first} & {second_key(clip) for clip in second}) - {None}


def _enough(first: Clips, second: Clips, first_key: Key, second_key: Key, share: float) -> bool:
    """Return whether the sets share this part of the smaller set's keys."""
    sides = (
        {first_key(clip) for clip in first} - {None},
        {second_key(clip) for clip in second} - {None},
    )
    common = sides[0] & sides[1]
    return bool(common) and len(common) >= share * min(map(len, sides))


def _one_prompt(first: Clips, second: Clips) -> bool:
    """Return whether the sets have in common only several seeds of a single prompt.

    By prompt that would be one pair, of which nothing could be tested.
    """
    seeds = len(_shared(first, second, _seeded, _seeded))
    return len(_shared(first, second, _prompt, _prompt)) == 1 and seeds > 1


def _information(first: Clips, second: Clips, key: Key) -> float:
    """Return Σ m n / (m + n) over the common keys, with m and n clips."""
    sides = [
        Counter(key_of_clip for clip in clips if (key_of_clip := key(clip)) is not None)
        for clips in (first, second)
    ]
    return sum(
        sides[0][shared_key] * sides[1][shared_key] / (sides[0][shared_key] + sides[1][shared_key])
        for shared_key in sides[0].keys() & sides[1]
    )


def _agree(first: Clips, second: Clips, first_key: Key, second_key: Key) -> bool:
    """Return whether names are in common, and clips of one name have the same known prompts."""
    prompt_of = {first_key(clip): _prompt(clip) for clip in first}
    prompts_of_both = [
        (prompt_of[second_key(clip)], _prompt(clip))
        for clip in second
        if second_key(clip) is not None and second_key(clip) in prompt_of
    ]
    return bool(prompts_of_both) and all(
        a is None or b is None or a == b for a, b in prompts_of_both
    )


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


# --- notes ----------------------------------------------------------------------------


def _why(by: str, first: Clips, second: Clips, names: Names) -> list[str]:
    """Return why clips were matched by this rule, where another was possible or it may mislead."""
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
    """Return why the sets are compared unpaired."""
    common = {
        "prompts": len(_shared(first, second, _prompt, _prompt)),
        "file names": len(_shared(first, second, _stem(first), _stem(second))),
    }
    shared_counts = [f"{count} of their {what}" for what, count in common.items() if count]
    what_is_shared = (
        f"too little in common ({' and '.join(shared_counts)})"
        if shared_counts
        else ("nothing in common, neither prompts, seeds nor file names")
    )
    return [
        f"the sets have {what_is_shared}: they are compared unpaired, and a difference may "
        "also come from what was asked"
    ]


def _counted(counts: Sequence[int], sets: tuple[Clips, Clips], names: Names) -> str:
    """Say how many clips of either set are counted."""
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
    """Return notes on the clips without a partner."""
    counts = [
        len(clips) - sum(len(side[key]) for key in shared)
        for clips, side in zip(sets, sides, strict=True)
    ]
    return [
        f"{count} of {len(clips)} clips of {name} have no partner"
        for count, clips, name in zip(counts, sets, names, strict=True)
        if count
    ]
