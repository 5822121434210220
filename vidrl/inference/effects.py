"""How large a difference is: standardised effect sizes."""

from __future__ import annotations

import math

import numpy as np

from vidrl.inference.clusters import Values, finite_values, rounding_error


def hedges_g(first: Values, second: Values, difference: float | None = None) -> float:
    """Hedges' g: the difference of the means by the pooled std of the clips, times 1 − 3 /
    (4 (n1 + n2) − 9).

    The unit is the spread among clips, so that paired and unpaired sets, and dims, can be
    compared. NaN without spread. `difference` is taken instead of that of the means, where
    the sets were compared in another way, as by prompt. Source: Hedges 1981,
    doi:10.3102/10769986006002107.

    >>> round(hedges_g([1.0, 2.0, 3.0], [2.0, 3.0, 4.0]), 6)  # one std apart, times 0.8
    0.8
    """
    a, b = (finite_values(values, None)[0] for values in (first, second))
    if len(a) < 2 or len(b) < 2:
        return math.nan
    pooled = math.sqrt(
        ((len(a) - 1) * a.var(ddof=1) + (len(b) - 1) * b.var(ddof=1)) / (len(a) + len(b) - 2)
    )
    small = 1 - 3 / (4 * (len(a) + len(b)) - 9)
    between = b.mean() - a.mean() if difference is None else difference
    return (
        float(small * between / pooled)
        if pooled > rounding_error(np.concatenate([a, b]))
        else math.nan
    )
