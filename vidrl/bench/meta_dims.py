"""The dims of the meta-evaluation: the composite, our rewards that see time and need no weights, and others' beside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vidrl import plugin
from vidrl.bench.dims import Dim, check, version_of

OURS = ("default", "warp_error", "temporal_flicker", "flicker", "pumping", "drift", "motion_consistency", "jerk",
        "freeze", "dynamic_degree", "frame_quality", "cut", "loop", "motion_target")
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {  # name: the reward and its options
    "vbench_temporal_flickering": ("vbench_temporal_flickering", {}),
    "vbench_motion_smoothness": ("vidrl.bench.stand_ins:MotionSmoothnessByRife", {}),
    "vbench_dynamic_degree": ("vbench_dynamic_degree", {"flow": "dis"}),
    "lai_warping_error": ("lai_warping_error", {}),
    "evalcrafter_warping_error": ("evalcrafter_warping_error", {}),
}
NOTES = {
    "vbench_motion_smoothness": "VBench's formula with RIFE in place of AMT-S, which may not be shipped",
    "vbench_dynamic_degree": "VBench's formula with OpenCV's DIS flow in place of RAFT",
}


def dims(names: Sequence[str] = ()) -> list[Dim]:
    """All of them, or some by name; a name that is none of these is a reward.

    Raises `plugin.UnknownName` for a name that is neither.

    >>> [(dim.name, dim.profile) for dim in dims(["default", "vbench_dynamic_degree"])]
    [('default', 'vidrl'), ('vbench_dynamic_degree', 'vbench')]
    """
    return [_dim(name) for name in names or (*OURS, *OTHERS)]


def _dim(name: str) -> Dim:
    if name not in OTHERS and name != "default" and ":" not in name and name not in plugin.names("rewards"):
        known = ["default", *OTHERS, *plugin.names("rewards")]
        raise plugin.UnknownName(f"no dim {name!r}: {plugin.nearest(name, known)}")
    reward, options = OTHERS.get(name, (name, {}))
    profile = "vbench" if name in OTHERS else "vidrl"
    return check(Dim(name, reward, options, profile, version_of(reward)))
