"""What may be said of a guarded measure: that it stays in its band, that it left it, or
that neither is shown.

A mean inside its band shows nothing by itself: the measure may as well have fallen below
it. That a measure got not worse by more than the band allows is shown where the whole 95 %
interval of its paired difference lies in the band, a test of non-inferiority at 2.5 % on
each side (`vidrl.inference.margins`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

STAYS, LEFT = "stays in band", "left band"
INSIDE, OUTSIDE = "in band (not beyond doubt)", "out of band (not beyond doubt)"


# 0 for the base model, so that their bands are of the values themselves
OWN = ("unscored_share", "weight_drift")


def unit(name: str, before: float) -> float:
    """What a band is a fraction of: the base model's value; of a measure that is 0 for a
    good one (`OWN`), 1."""
    return 1.0 if name in OWN else before


def allowed(name: str, band: tuple[float, float], before: float) -> tuple[float, float]:
    """The least and the greatest difference from the base model's value `before` that a
    band allows.

    >>> allowed("dynamic_degree", (0.5, 2.0), 0.8), allowed("unscored_share", (0.0, 0.25), 0.0)
    ((-0.4, 0.8), (0.0, 0.25))
    """
    low, high = sorted(unit(name, before) * share - before for share in band)
    return low, high


def verdict(row: Mapping[str, Any], zone: tuple[float, float]) -> str:
    """What the row of `evaluate.compare` shows of the differences that are allowed.

    >>> zone = (-0.05, 1.0)
    >>> verdict({"difference": 0.0, "low": -0.04, "high": 0.04}, zone)
    'stays in band'
    >>> verdict({"difference": -0.2, "low": -0.3, "high": -0.1}, zone)
    'left band'
    >>> verdict({"difference": 0.0, "low": -0.1, "high": 0.1}, zone), verdict({"difference": -0.06, "low": None}, zone)
    ('in band (not beyond doubt)', 'out of band (not beyond doubt)')
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
    """Of each guard whose measure is in `rows`: the differences that its band allows, and
    the verdict."""
    found = {}
    for name, band in bands.items():
        if name in rows:
            zone = allowed(name, (band[0], band[1]), rows[name]["before"])
            found[name] = {"allowed": list(zone), "verdict": verdict(rows[name], zone)}
    return found
