"""VBench's totals of a set: its published weights over the means of the dims that carry its
names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from vidrl.rewards import vbench

# VBench's names of our rewards
NAMES = {f"vbench_{name}": name for name in (*vbench.QUALITY, *vbench.SEMANTIC, *vbench.I2V)} | {
    "vbench_aesthetic": "aesthetic_quality",
    "vbench_imaging": "imaging_quality",
}


def totals(dims: Sequence[Mapping[str, Any]], clips: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Quality, semantic and total of a set's clips, of VBench-I2V where its dims are
    measured; empty without any.

    A dim's number is the mean over clips, as VBench's on several GPUs is. A sum with a
    dimension missing is None, and "missing" lists the dimension: VBench's script puts the
    raw score 0 for it, which no reader can tell from bad videos.
    """
    found = {
        NAMES[dim["reward"]]: _mean(clips, dim["name"]) for dim in dims if dim["reward"] in NAMES
    }
    scored = {name: value for name, value in found.items() if value is not None}
    if not found:
        return {}
    if set(found) & set(vbench.I2V):
        parts, reckon = {"i2v": vbench.I2V, "quality": vbench.I2V_QUALITY}, vbench.i2v_totals
    else:
        parts, reckon = {"quality": vbench.QUALITY, "semantic": vbench.SEMANTIC}, vbench.totals
    known = {name for table in parts.values() for name in table}
    sums = reckon({name: value for name, value in scored.items() if name in known})
    whole = {
        part: sums[part] if set(table) <= set(scored) else None for part, table in parts.items()
    }
    total = sums["total"] if None not in whole.values() else None
    return {**whole, "total": total, "missing": sums["missing"]}


def _mean(clips: Sequence[Mapping[str, Any]], dim: str) -> float | None:
    values = [clip["value"][dim] for clip in clips if clip["value"].get(dim) is not None]
    return math.fsum(values) / len(values) if values else None
