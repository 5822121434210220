"""Compute how large a difference is, in units of the standard deviation of the clips.

A p value says whether a difference is real, an effect size whether it is large. Rules of
thumb (Cohen 1988): 0.2 is small, 0.5 medium, 0.8 large.
"""

from __future__ import annotations

import math

import numpy as np

from vidrl.inference.clusters import Values, finite_values, rounding_error


def hedges_g(first: Values, second: Values, difference: float | None = None) -> float:
    """Return Hedges' g, the difference of the means divided by the pooled std of the clips.

    g = (mean₂ − mean₁) / s · (1 − 3 / (4 (n₁ + n₂) − 9)), where s² is the pooled variance;
    the last factor removes the bias of small samples. The unit is the std among clips, so
    that paired and unpaired sets, and different dims, can be compared. `difference` replaces
    mean₂ − mean₁ where the sets were compared in another manner, such as by prompt. NaN with
    fewer than two values in a set, or where the values do not vary. Source: Hedges 1981,
    doi:10.3102/10769986006002107.

    >>> round(hedges_g([1.0, 2.0, 3.0], [2.0, 3.0, 4.0]), 6)  # one std of difference, times 0.8
    0.8
    """
    a, b = (finite_values(values, None)[0] for values in (first, second))
    if len(a) < 2 or len(b) < 2:
        return math.nan
    pooled = math.sqrt(
        ((len(a) - 1) * a.var(ddof=1) + (len(b) - 1) * b.var(ddof=1)) / (len(a) + len(b) - 2)
    )
    if pooled <= rounding_error(np.concatenate([a, b])):
        return math.nan
    correction = 1 - 3 / (4 * (len(a) + len(b)) - 9)
    gap = b.mean() - a.mean() if difference is None else difference
    return float(correction * gap / pooled)
