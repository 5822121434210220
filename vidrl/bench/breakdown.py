"""The dims by what was asked: kind of motion, speed, camera, kind of thing, count and length, each for itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

FIELDS = ("kind", "speed", "camera", "thing", "count", "seconds")  # of a prompt, in its manifest
Clips = Sequence[Mapping[str, Any]]


def breakdown(clips: Clips, dims: Sequence[str], fields: Sequence[str] = FIELDS) -> dict[str, Any]:
    """Of the clips of one set, as results.json has them, the mean of each dim by each value of each field.

    {field: {value: {dim: {"mean", "low", "high", "n"}}}}; a field that no clip has, and a dim that no clip of a value
    is scored on, are left out. Intervals are the suite's own, over prompts and then clips.

    >>> clips = [{"prompt": str(i), "meta": {"kind": "left"}, "value": {"heading": i / 2}} for i in range(3)]
    >>> breakdown(clips, ["heading", "path"])["kind"]["left"]["heading"]["mean"]
    0.5
    """
    found: dict[str, Any] = {}
    for field in fields:
        values = sorted({str(clip["meta"][field]) for clip in clips if field in clip.get("meta", {})})
        rows = {value: _row([c for c in clips if str(c.get("meta", {}).get(field)) == value], dims) for value in values}
        if rows:
            found[field] = rows
    return found


def _row(clips: Clips, dims: Sequence[str]) -> dict[str, dict[str, float | int | None]]:
    from vidrl.bench.statistics import interval

    row: dict[str, dict[str, float | int | None]] = {}
    for dim in dims:
        scored = [clip for clip in clips if clip["value"].get(dim) is not None]
        if scored:
            over = interval([clip["value"][dim] for clip in scored], [clip["prompt"] for clip in scored])
            row[dim] = {"mean": _finite(over.mean), "low": _finite(over.low), "high": _finite(over.high), "n": over.n}
    return row


def _finite(x: float) -> float | None:
    return float(x) if math.isfinite(x) else None
