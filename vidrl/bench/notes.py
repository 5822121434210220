"""What a reader of the numbers must know of the clips that they are of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from vidrl.bench.fairness import count_rates
from vidrl.bench.protocol import SAME_RATE, Protocol


def observations(sets: Sequence[Mapping[str, Any]], protocol: Protocol) -> list[str]:
    """What a reader of the numbers must know: mixed rates, sizes and codecs, other readers,
    dims that nothing has."""
    found = [note for one in sets for note in _of_clips(one)]
    for one in sets:
        found += (
            _read_otherwise(one, protocol)
            + _not_at_rate(one, protocol)
            + _never(one)
            + _of_files(one)
        )
    found += _stills(sets)
    unknown = sum(
        "written" in clip and clip["written"]["codec"] is None
        for one in sets
        for clip in one["clips"]
    )
    return found + (
        [
            f"the codec of {unknown} clips is not known: PyAV, which reads it, is missing or "
            "cannot open them"
        ]
        if unknown
        else []
    )


def _stills(sets: Sequence[Mapping[str, Any]]) -> list[str]:
    """What to know where some clips, or all, are images, which are clips of one frame.

    >>> _stills([{"name": "a", "clips": [{"frames": 1}]}, {"name": "b", "clips": [{"frames": 17}]}])
    ['images beside clips (a: 1 of 1, b: 0 of 1): dims that need time have no number of an image, and a composite such \
as default leaves its parts that need time out of one, so that its numbers of images and of clips do not compare']
    """
    counts = [
        (one["name"], sum(clip["frames"] == 1 for clip in one["clips"]), len(one["clips"]))
        for one in sets
    ]
    images, clips = sum(n for _, n, _ in counts), sum(of for _, _, of in counts)
    if not images:
        return []
    left = (
        "dims that need time have no number of an image, and a composite such as default "
        "leaves its parts that need"
    )
    if images == clips:
        return [f"all clips are images, of one frame: {left} time out"]
    told = ", ".join(f"{name}: {n} of {of}" for name, n, of in counts)
    return [
        f"images beside clips ({told}): {left} time out of one, so that its numbers of images "
        "and of clips do not compare"
    ]


def _of_clips(one: Mapping[str, Any]) -> list[str]:
    """What the clips of a set do not have in common."""
    clips, name = one["clips"], one["name"]
    rates = Counter(
        {f"{rate:.4g}": count for rate, count in count_rates(clip["fps"] for clip in clips).items()}
    )
    codecs = Counter(codec for clip in clips if (codec := (clip.get("written") or {}).get("codec")))
    return [
        *_mixed(name, rates, "frame rates"),
        *_mixed(name, Counter("x".join(map(str, clip["size"])) for clip in clips), "sizes"),
        *_mixed(name, codecs, "codecs"),
    ]


def _of_files(one: Mapping[str, Any]) -> list[str]:
    """What to know of files, as that they were cut off or that their frame rate varies."""
    noted = [clip for clip in one["clips"] if clip.get("note")]
    return (
        [
            f"{one['name']}: {len(noted)} files have a note of their own, the first is "
            f"{noted[0]['path']}: {noted[0]['note']}"
        ]
        if noted
        else []
    )


def _mixed(name: str, counts: Counter[str], what: str) -> list[str]:
    listed = ", ".join(f"{value} ({n})" for value, n in counts.most_common(6)) + (
        " ..." if len(counts) > 6 else ""
    )
    return [f"{name}: clips of {len(counts)} {what}: {listed}"] if len(counts) > 1 else []


def _read_otherwise(one: Mapping[str, Any], protocol: Protocol) -> list[str]:
    usual = protocol.decoder.partition(" ")[0]
    others = Counter(
        clip["reader"] for clip in one["clips"] if clip["reader"] not in (usual, "opencv")
    )
    return [
        f"{one['name']}: {n} clips were read by {name}, since {usual} could not"
        for name, n in others.items()
    ]


def _not_at_rate(one: Mapping[str, Any], protocol: Protocol) -> list[str]:
    """Clips that leaving out frames evenly does not bring to the rate that was asked
    for."""
    rates = count_rates(clip["fps"] for clip in one["clips"]) if protocol.fps else {}
    return [
        f"{one['name']}: {count} clips are measured at {rate:.4g} frames a second instead of "
        f"{protocol.fps:g}: "
        "every frame, every second, every third ... is kept, so that even motion stays even, "
        "and none is made up"
        for rate, count in rates.items()
        if abs(rate / protocol.fps - 1) > SAME_RATE
    ]


def _never(one: Mapping[str, Any]) -> list[str]:
    """Dims that no clip has, with the reason of most."""
    clips = one["clips"]
    lost = [
        name
        for name in (clips[0]["value"] if clips else ())
        if all(clip["value"][name] is None for clip in clips)
    ]
    first = {
        name: Counter(clip["why"].get(name, "") for clip in clips).most_common(1)[0][0]
        for name in lost
    }
    return [f"{one['name']}: no clip has a number of {name}: {why}" for name, why in first.items()]
