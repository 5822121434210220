"""What a reader of the numbers must know of the clips that they are of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from vidrl.bench.protocol import Protocol


def observed(sets: Sequence[Mapping[str, Any]], protocol: Protocol) -> list[str]:
    """What a reader of the numbers must know: mixed rates and sizes, other readers, dims that nothing has."""
    found = [note for one in sets for fact, what in (("fps", "frame rates"), ("size", "sizes"))
             for note in _mixed(one["name"], Counter(_said(clip[fact]) for clip in one["clips"]), what)]
    rates = {one["name"]: sorted({clip["fps"] for clip in one["clips"]}) for one in sets}
    if len({tuple(rate) for rate in rates.values() if rate}) > 1:
        said = ", ".join(f"{name} {' '.join(f'{fps:g}' for fps in fps_of)}" for name, fps_of in rates.items())
        found.append(f"the sets differ in frames a second ({said}): choose one rate of both with --fps")
    for one in sets:
        found += _read_otherwise(one, protocol) + _left_slow(one, protocol) + _never(one) + _of_files(one)
    return found


def _of_files(one: Mapping[str, Any]) -> list[str]:
    """What to know of files, as that they were cut off or that their frame rate varies."""
    noted = [clip for clip in one["clips"] if clip.get("note")]
    return [f"{one['name']}: {len(noted)} files have a note of their own, the first is {noted[0]['path']}: "
            f"{noted[0]['note']}"] if noted else []


def _said(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, (list, tuple)) else f"{value:g}"


def _mixed(name: str, counts: Counter[str], what: str) -> list[str]:
    listed = ", ".join(f"{value} ({n})" for value, n in counts.most_common(6)) + (" ..." if len(counts) > 6 else "")
    return [f"{name}: clips of {len(counts)} {what}: {listed}"] if len(counts) > 1 else []


def _read_otherwise(one: Mapping[str, Any], protocol: Protocol) -> list[str]:
    usual = protocol.decoder.partition(" ")[0]
    others = Counter(clip["reader"] for clip in one["clips"] if clip["reader"] not in (usual, "opencv"))
    return [f"{one['name']}: {n} clips were read by {name}, since {usual} could not" for name, n in others.items()]


def _left_slow(one: Mapping[str, Any], protocol: Protocol) -> list[str]:
    slow = sum(clip["fps"] < protocol.fps * 0.999 for clip in one["clips"]) if protocol.fps else 0
    return [f"{one['name']}: {slow} clips are slower than {protocol.fps:g} frames a second, and stay as they "
            "are"] if slow else []


def _never(one: Mapping[str, Any]) -> list[str]:
    """Dims that no clip has, with the reason of most."""
    clips = one["clips"]
    lost = [name for name in (clips[0]["value"] if clips else ()) if all(clip["value"][name] is None for clip in clips)]
    first = {name: Counter(clip["why"].get(name, "") for clip in clips).most_common(1)[0][0] for name in lost}
    return [f"{one['name']}: no clip has a number of {name}: {why}" for name, why in first.items()]
