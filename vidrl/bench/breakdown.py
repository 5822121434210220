"""Break the dims down by kind of prompt: motion, speed, camera, thing, count and length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

FIELDS = ("kind", "speed", "camera", "thing", "count", "seconds")  # columns of a manifest
Clips = Sequence[Mapping[str, Any]]
Range = tuple[float | None, float | None]


def breakdown(
    clips: Clips,
    dims: Sequence[str],
    fields: Sequence[str] = FIELDS,
    ranges: Mapping[str, Range] | None = None,
) -> dict[str, Any]:
    """Return the mean of each dim for each value of each field of a set's clips.

    The result is {field: {value: {dim: {"mean", "low", "high", "n"}}}}. Fields that no clip
    has, and dims on which no clip of a value is scored, are left out. Intervals are those
    of `statistics.summary`, within the dims' `ranges`.

    >>> left = {"meta": {"kind": "left"}}
    >>> clips = [{**left, "prompt": str(i), "value": {"heading": i / 2}} for i in range(3)]
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
    """Add "breakdown" to the results for each set whose clips have such fields."""
    names, ranges = (
        [dim["name"] for dim in results["dims"]],
        {d["name"]: tuple(d["range"]) for d in results["dims"]},
    )
    parts = {one["name"]: breakdown(one["clips"], names, ranges=ranges) for one in results["sets"]}
    breakdowns = {name: part for name, part in parts.items() if part}
    return {**results, "breakdown": breakdowns} if breakdowns else results


def _row(clips: Clips, dims: Sequence[str], ranges: Mapping[str, Range]) -> dict[str, Any]:
    """Return the mean and interval of each dim over some clips."""
    from vidrl.bench.statistics import summary

    row: dict[str, Any] = {}
    for dim in dims:
        values, groups = (
            [clip["value"].get(dim) for clip in clips],
            [clip["prompt"] for clip in clips],
        )
        estimate = summary(values, groups, range=ranges.get(dim, (None, None)))
        if estimate["n"]:
            row[dim] = {key: estimate[key] for key in ("mean", "low", "high", "n")}
    return row
