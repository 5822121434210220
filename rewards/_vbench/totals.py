"""Compute the totals of VBench, VBench-I2V and VBench-2.0 from raw scores of dimensions.

Sources: VBench, arXiv:2311.17982, scripts/cal_final_score.py; VBench++, arXiv:2411.13503,
scripts/cal_i2v_final_score.py; VBench-2.0, arXiv:2503.21755,
VBench-2.0/scripts/cal_final_score.py.
"""

from __future__ import annotations

import difflib
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

QUALITY = {  # least, most, weight
    "subject_consistency": (0.1462, 1.0, 1.0),
    "background_consistency": (0.2615, 1.0, 1.0),
    "temporal_flickering": (0.6293, 1.0, 1.0),
    "motion_smoothness": (0.706, 0.9975, 1.0),
    "aesthetic_quality": (0.0, 1.0, 1.0),
    "imaging_quality": (0.0, 1.0, 1.0),
    "dynamic_degree": (0.0, 1.0, 0.5),
}
SEMANTIC = {
    "object_class": (0.0, 1.0, 1.0),
    "multiple_objects": (0.0, 1.0, 1.0),
    "human_action": (0.0, 1.0, 1.0),
    "color": (0.0, 1.0, 1.0),
    "spatial_relationship": (0.0, 1.0, 1.0),
    "scene": (0.0, 0.8222, 1.0),
    "appearance_style": (0.0009, 0.2855, 1.0),
    "temporal_style": (0.0, 0.364, 1.0),
    "overall_consistency": (0.0, 0.364, 1.0),
}
I2V = {
    "camera_motion": (0.0, 1.0, 0.1),
    "i2v_subject": (0.1462, 1.0, 1.0),
    "i2v_background": (0.2615, 1.0, 1.0),
}
I2V_QUALITY = {
    name: QUALITY[name]
    for name in (
        "subject_consistency",
        "background_consistency",
        "motion_smoothness",
        "dynamic_degree",
        "aesthetic_quality",
        "imaging_quality",
    )
}

# The five categories of VBench-2.0 and their 18 dimensions, by the names of its result
# files in small letters.
VBENCH2 = {
    "creativity": ("composition", "diversity"),
    "commonsense": ("instance_preservation", "motion_rationality"),
    "controllability": (
        "camera_motion",
        "complex_landscape",
        "complex_plot",
        "dynamic_attribute",
        "dynamic_spatial_relationship",
        "human_interaction",
        "motion_order_understanding",
    ),
    "human_fidelity": ("human_anatomy", "human_clothes", "human_identity"),
    "physics": ("material", "mechanics", "multi-view_consistency", "thermotics"),
}


def totals(dimensions: Mapping[str, float | None], strict: bool = False) -> dict[str, Any]:
    """Return Quality, Semantic and Total as VBench's cal_final_score.py prints them.

    The scores are raw, in [0, 1]. x' = (x - least) / (most - least), times the weight of
    the dimension (0.5 for dynamic degree, else 1); Quality = sum of 7 / 6.5, Semantic =
    mean of 9, Total = (4 Quality + Semantic) / 5.

    A missing dimension (absent, None or NaN) counts as in the script: as the raw score 0,
    before it is scaled. That is below the least score of five dimensions, so x' is negative
    there: a missing motion smoothness counts as -2.42. "missing" lists these dimensions; a
    total with an entry in "missing" does not compare with published totals. Raises
    ValueError for unknown names, for values that are no numbers, and with `strict` for
    missing dimensions; warns about percentages.

    >>> done = totals({"temporal_flickering": 0.97, "dynamic_degree": 0.6})
    >>> [round(done[name], 4) for name in ("quality", "semantic", "total")], len(done["missing"])
    ([-0.2659, -0.0004, -0.2128], 14)
    """
    given = _given(dimensions, [*QUALITY, *SEMANTIC], strict, "VBench")
    quality, semantic = _weighted(given, QUALITY), _weighted(given, SEMANTIC)
    total = (4 * quality + semantic) / 5
    return {"quality": quality, "semantic": semantic, "total": total, "missing": _missing(given)}


def i2v_totals(dimensions: Mapping[str, float | None], strict: bool = False) -> dict[str, Any]:
    """Return the I2V score, the Quality score and their mean as cal_i2v_final_score.py does.

    I2V = (0.1 camera + subject + background) / 2.1, Quality = weighted sum / 5.5 (without
    temporal flickering), Total = their mean. `totals` explains how each dimension is
    scaled, how a missing one counts, and which errors are raised.

    >>> done = i2v_totals({"camera_motion": 1.0, "i2v_subject": 1.0, "i2v_background": 1.0})
    >>> round(done["i2v"], 4), round(done["quality"], 4), done["missing"][:2]
    (1.0, -0.5359, ['subject_consistency', 'background_consistency'])
    """
    given = _given(dimensions, [*I2V, *I2V_QUALITY], strict, "VBench-I2V")
    to_image, quality = _weighted(given, I2V), _weighted(given, I2V_QUALITY)
    return {
        "i2v": to_image,
        "quality": quality,
        "total": (to_image + quality) / 2,
        "missing": _missing(given),
    }


def vbench2_totals(dimensions: Mapping[str, float | None], strict: bool = False) -> dict[str, Any]:
    """Return the five category scores of VBench-2.0 and their mean, as its script prints them.

    A category is the plain mean of its dimensions in `VBENCH2`, and Total the plain mean of
    the five categories. Each dimension is a raw score in [0, 1], which VBench-2.0 neither
    scales nor weights. vidrl scores none of these dimensions: the scores come from
    VBench-2.0's own tool, whose files `read_results` reads.

    A missing dimension (absent, None or NaN) counts as 0, as in the script. "missing" lists
    these dimensions; a total with an entry in "missing" does not compare with published
    totals. `totals` explains which errors are raised.

    >>> done = vbench2_totals({"Composition": 0.5, "Diversity": 0.7, "Multi-View Consistency": 0.4})
    >>> [round(done[name], 4) for name in ("creativity", "physics", "total")], len(done["missing"])
    ([0.6, 0.1, 0.14], 15)
    """
    given = _given(
        dimensions, [name for names in VBENCH2.values() for name in names], strict, "VBench-2.0"
    )
    raw = {name: 0.0 if math.isnan(value) else value for name, value in given.items()}
    sums = {
        category: sum(raw[name] for name in names) / len(names)
        for category, names in VBENCH2.items()
    }
    return {**sums, "total": sum(sums.values()) / len(sums), "missing": _missing(given)}


def aggregate(
    per_frame_scores: Sequence[Sequence[float]], how: Literal["frames", "videos"] = "frames"
) -> float:
    """Return one number of a dimension from the terms of each video; NaN videos are left out.

    "frames" is the mean of all terms of all videos, as VBench computes its consistencies on
    one GPU; "videos" is the mean of the videos' means, as on several GPUs. They differ if
    lengths do.

    >>> aggregate([[1.0], [0.0, 0.0, 0.0]], "frames"), aggregate([[1.0], [0.0, 0.0, 0.0]], "videos")
    (0.25, 0.5)
    """
    if how not in ("frames", "videos"):
        raise ValueError(f"expected how to be 'frames' or 'videos', got {how!r}")
    kept = [
        list(terms) for terms in per_frame_scores if len(terms) and all(map(math.isfinite, terms))
    ]
    if not kept:
        return math.nan
    if how == "frames":
        return math.fsum(map(math.fsum, kept)) / sum(map(len, kept))
    return math.fsum(math.fsum(terms) / len(terms) for terms in kept) / len(kept)


def _given(
    dimensions: Mapping[str, float | None], known: Sequence[str], strict: bool, of: str
) -> dict[str, float]:
    """Return every dimension of the benchmark `of`, NaN if missing; names may have blanks."""
    named = {
        name.strip().lower().replace(" ", "_"): _number(name, value)
        for name, value in dimensions.items()
    }
    unknown = [name for name in named if name not in known]
    if unknown:
        close = difflib.get_close_matches(unknown[0], known, n=1, cutoff=0.5)
        advice = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(
            f"{of} has no dimension {unknown[0]!r}: {advice}known: {', '.join(sorted(known))}"
        )
    given = {name: named.get(name, math.nan) for name in known}
    if strict and _missing(given):
        raise ValueError(
            f"expected every dimension, missing: {', '.join(_missing(given))}; with strict=False "
            "each of "
            "them counts as the raw score 0, as in VBench's script"
        )
    return given


def _number(name: str, value: Any) -> float:
    """Return the score of a dimension, NaN if there is none; raise ValueError for another value."""
    try:
        score = math.nan if value is None else float(value)
    except (TypeError, ValueError):
        raise ValueError(
            f"expected the score of {name!r} as one number, got {type(value).__name__}: of an "
            "entry "
            "[score, clips] of VBench's result files pass the score alone, as read_results gives it"
        ) from None
    if abs(score) > 1.5:  # raw scores lie in [0, 1], a few beside it by a little
        warnings.warn(
            f"expected the raw score of {name!r}, in [0, 1], got {score:g}: divide percentages by "
            "100",
            stacklevel=4,
        )
    return score


def _missing(given: Mapping[str, float]) -> list[str]:
    """Return the names of the missing dimensions."""
    return [name for name, value in given.items() if math.isnan(value)]


def _weighted(given: Mapping[str, float], table: Mapping[str, tuple[float, float, float]]) -> float:
    """Return the weighted mean of the scaled scores; a missing one is 0 before it is scaled."""
    raw = {name: 0.0 if math.isnan(given[name]) else given[name] for name in table}
    scaled = [
        (raw[name] - least) / (most - least) * weight
        for name, (least, most, weight) in table.items()
    ]
    return sum(scaled) / sum(weight for _, _, weight in table.values())
