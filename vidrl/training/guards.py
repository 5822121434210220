"""Judge a guarded measure: it stays in its band, it left its band, or neither is proven.

A mean inside the band proves nothing by itself: by chance of the clips, the true value may
be below the band. The measure stays in its band where the whole 95 % interval of the paired
difference lies in the band. This is a test of non-inferiority at 2.5 % on each side
(`vidrl.inference.margins`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

STAYS, LEFT = "stays in band", "left band"
INSIDE, OUTSIDE = "in band (not beyond doubt)", "out of band (not beyond doubt)"

# These measures are 0 for a good base model, so that a band cannot be a fraction of its value:
# the band holds limits of the measure itself.
OWN = ("unscored_share", "weight_drift")


def unit(name: str, before: float) -> float:
    """Return what a band is a fraction of: the base model's value, or 1 for a measure in `OWN`."""
    return 1.0 if name in OWN else before


def allowed(name: str, band: tuple[float, float], before: float) -> tuple[float, float]:
    """Return the smallest and the largest change that a band allows.

    A change is a difference from the base model's value `before`.

    >>> allowed("dynamic_degree", (0.5, 2.0), 0.8), allowed("unscored_share", (0.0, 0.25), 0.0)
    ((-0.4, 0.8), (0.0, 0.25))
    """
    low, high = sorted(unit(name, before) * share - before for share in band)
    return low, high


def verdict(row: Mapping[str, Any], zone: tuple[float, float]) -> str:
    """Return the verdict on a row of `evaluate.compare`, for the `allowed` changes `zone`.

    >>> zone = (-0.05, 1.0)
    >>> verdict({"difference": 0.0, "low": -0.04, "high": 0.04}, zone)
    'stays in band'
    >>> verdict({"difference": -0.2, "low": -0.3, "high": -0.1}, zone)
    'left band'
    >>> verdict({"difference": 0.0, "low": -0.1, "high": 0.1}, zone)
    'in band (not beyond doubt)'
    >>> verdict({"difference": -0.06, "low": None}, zone)
    'out of band (not beyond doubt)'
    """
    low, high = row.get("low"), row.get("high")
    if low is not None and high is not None:
        if zone[0] <= low and high <= zone[1]:
            return STAYS
        if high < zone[0] or low > zone[1]:
            return LEFT
    return INSIDE if zone[0] <= row["difference"] <= zone[1] else OUTSIDE


def verdicts(
    bands: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Return the allowed changes and the verdict of each guard whose measure is in `rows`."""
    found = {}
    for name, band in bands.items():
        if name in rows:
            zone = allowed(name, (band[0], band[1]), rows[name]["before"])
            found[name] = {"allowed": list(zone), "verdict": verdict(rows[name], zone)}
    return found
