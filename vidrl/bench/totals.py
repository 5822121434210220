"""Compute VBench's totals of a set: its published weights over the means of its dims."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from vidrl.rewards import vbench

# The names that VBench gives to what these rewards measure.
NAMES = {f"vbench_{name}": name for name in (*vbench.QUALITY, *vbench.SEMANTIC, *vbench.I2V)} | {
    "vbench_aesthetic": "aesthetic_quality",
    "vbench_imaging": "imaging_quality",
}


def totals(dims: Sequence[Mapping[str, Any]], clips: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return VBench's quality, semantic and total score of a set, {} without its dims.

    With dims of VBench-I2V the totals are those of VBench-I2V. The number of a dim is the
    mean over clips, as VBench computes it on several GPUs. A sum that lacks a dim is None,
    and "missing" lists the dim: VBench's script takes the raw score 0 for it, which no
    reader can distinguish from bad videos.
    """
    found = {
        NAMES[dim["reward"]]: _mean(clips, dim["name"]) for dim in dims if dim["reward"] in NAMES
    }
    scored = {name: value for name, value in found.items() if value is not None}
    if not found:
        return {}
    if set(found) & set(vbench.I2V):
        parts, compute_totals = (
            {"i2v": vbench.I2V, "quality": vbench.I2V_QUALITY},
            vbench.i2v_totals,
        )
    else:
        parts, compute_totals = (
            {"quality": vbench.QUALITY, "semantic": vbench.SEMANTIC},
            vbench.totals,
        )
    known = {name for table in parts.values() for name in table}
    sums = compute_totals({name: value for name, value in scored.items() if name in known})
    complete_parts = {
        part: sums[part] if set(table) <= set(scored) else None for part, table in parts.items()
    }
    total = sums["total"] if None not in complete_parts.values() else None
    return {**complete_parts, "total": total, "missing": sums["missing"]}


def _mean(clips: Sequence[Mapping[str, Any]], dim: str) -> float | None:
    values = [clip["value"][dim] for clip in clips if clip["value"].get(dim) is not None]
    return math.fsum(values) / len(values) if values else None
