"""Write notes on the clips of each set that a reader of the numbers must know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from vidrl.bench.fairness import count_rates
from vidrl.bench.protocol import SAME_RATE, Protocol


def observations(sets: Sequence[Mapping[str, Any]], protocol: Protocol) -> list[str]:
    """Return notes on mixed rates, sizes and codecs, other decoders, and dims without numbers."""
    notes = [note for set_ in sets for note in _of_clips(set_)]
    for set_ in sets:
        notes += (
            _read_otherwise(set_, protocol)
            + _not_at_rate(set_, protocol)
            + _never(set_)
            + _of_files(set_)
        )
    notes += _stills(sets)
    unknown_codecs = sum(
        "written" in clip and clip["written"]["codec"] is None
        for set_ in sets
        for clip in set_["clips"]
    )
    return notes + (
        [
            f"the codec of {unknown_codecs} clips is not known: PyAV, which reads it, is "
            "missing or cannot open them"
        ]
        if unknown_codecs
        else []
    )


def _stills(sets: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a note if some or all clips are images, which are clips of one frame.

    >>> (note,) = _stills([{"name": "a", "clips": [{"frames": 1}]}])
    >>> note
    'all clips are images, of one frame: dims that need time have no number of an image, ...'
    """
    counts = [
        (one["name"], sum(clip["frames"] == 1 for clip in one["clips"]), len(one["clips"]))
        for one in sets
    ]
    images, clips = sum(n for _, n, _ in counts), sum(of for _, _, of in counts)
    if not images:
        return []
    left_out = (
        "dims that need time have no number of an image, and a composite such as default "
        "leaves its parts that need"
    )
    if images == clips:
        return [f"all clips are images, of one frame: {left_out} time out"]
    image_counts = ", ".join(f"{name}: {n} of {of}" for name, n, of in counts)
    return [
        f"images beside clips ({image_counts}): {left_out} time out of one, so that its "
        "numbers of images and of clips do not compare"
    ]


def _of_clips(one: Mapping[str, Any]) -> list[str]:
    """Return notes on rates, sizes and codecs that differ among the clips of a set."""
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
    """Return a note on files with faults, such as a cut-off end or a varying frame rate."""
    noted = [clip for clip in one["clips"] if clip.get("note")]
    return (
        [
            f"{one['name']}: {len(noted)} files have a note, the first is "
            f"{noted[0]['path']}: {noted[0]['note']}"
        ]
        if noted
        else []
    )


def _mixed(name: str, counts: Counter[str], what: str) -> list[str]:
    """Return a note if there is more than one value, the most frequent values first."""
    listed = ", ".join(f"{value} ({n})" for value, n in counts.most_common(6)) + (
        " ..." if len(counts) > 6 else ""
    )
    return [f"{name}: clips of {len(counts)} {what}: {listed}"] if len(counts) > 1 else []


def _read_otherwise(one: Mapping[str, Any], protocol: Protocol) -> list[str]:
    """Return notes on clips that the usual decoder could not read and another one did."""
    usual = protocol.decoder.partition(" ")[0]
    others = Counter(
        clip["reader"] for clip in one["clips"] if clip["reader"] not in (usual, "opencv")
    )
    return [
        f"{one['name']}: {n} clips were read by {name}, since {usual} could not"
        for name, n in others.items()
    ]


def _not_at_rate(one: Mapping[str, Any], protocol: Protocol) -> list[str]:
    """Return notes on clips that even thinning cannot bring to the protocol's rate."""
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
    """Return notes on dims on which no clip has a number, with the most frequent reason."""
    clips = one["clips"]
    unscored_dims = [
        name
        for name in (clips[0]["value"] if clips else ())
        if all(clip["value"][name] is None for clip in clips)
    ]
    reason_of = {
        name: Counter(clip["why"].get(name, "") for clip in clips).most_common(1)[0][0]
        for name in unscored_dims
    }
    return [
        f"{one['name']}: no clip has a number of {name}: {why}" for name, why in reason_of.items()
    ]
