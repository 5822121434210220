"""The dims by what was asked: kind of motion, speed, camera, kind of thing, count and
length, each for itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

FIELDS = ("kind", "speed", "camera", "thing", "count", "seconds")  # of a prompt, in its manifest
Clips = Sequence[Mapping[str, Any]]
Range = tuple[float | None, float | None]


def breakdown(
    clips: Clips,
    dims: Sequence[str],
    fields: Sequence[str] = FIELDS,
    ranges: Mapping[str, Range] | None = None,
) -> dict[str, Any]:
    """Of the clips of one set, as results.json has them, the mean of each dim by each value
    of each field.

    {field: {value: {dim: {"mean", "low", "high", "n"}}}}; a field that no clip has, and a
    dim that no clip of a value is scored on, are left out. Intervals are those of
    `statistics.interval`, within the dims' `ranges`.

    >>> clips = [{"prompt": str(i), "meta": {"kind": "left"}, "value": {"heading": i / 2}} for i in range(3)]
    >>> breakdown(clips, ["heading", "path"])["kind"]["left"]["heading"]["mean"]
    0.5
    """
    found: dict[str, Any] = {}
    for field in fields:
        parts: dict[str, list[Mapping[str, Any]]] = {}
        for clip in clips:
            if field in clip.get("meta", {}):
                parts.setdefault(str(clip["meta"][field]), []).append(clip)
        if parts:
            found[field] = {
                value: _row(parts[value], dims, ranges or {}) for value in sorted(parts)
            }
    return found


def with_breakdown(results: dict[str, Any]) -> dict[str, Any]:
    """Results with "breakdown" of each set whose clips say what kind they are of; as they
    are where none does."""
    names, ranges = (
        [dim["name"] for dim in results["dims"]],
        {d["name"]: tuple(d["range"]) for d in results["dims"]},
    )
    parts = {one["name"]: breakdown(one["clips"], names, ranges=ranges) for one in results["sets"]}
    told = {name: part for name, part in parts.items() if part}
    return {**results, "breakdown": told} if told else results


def _row(clips: Clips, dims: Sequence[str], ranges: Mapping[str, Range]) -> dict[str, Any]:
    from vidrl.bench.statistics import summary

    row: dict[str, Any] = {}
    for dim in dims:
        values, groups = (
            [clip["value"].get(dim) for clip in clips],
            [clip["prompt"] for clip in clips],
        )
        over = summary(values, groups, range=ranges.get(dim, (None, None)))
        if over["n"]:
            row[dim] = {key: over[key] for key in ("mean", "low", "high", "n")}
    return row
