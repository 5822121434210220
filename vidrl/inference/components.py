"""Where the variance of clips comes from: prompts, or the seeds of a prompt; and what more
of either would buy.

Legend: G prompts with c clips each, n clips in all; the one-way random effects x = mean +
prompt + clip.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from vidrl.inference.clusters import Groups, Values, finite_values, group_numbers


class Components(NamedTuple):
    """Variances between prompts' true means and within prompts, and of how many clips and
    prompts; NaN: not known."""

    between: float
    within: float
    n: int
    groups: int

    @property
    def intraclass_correlation(self) -> float:
        """The share of the variance that lies between prompts (the intraclass correlation);
        NaN without variance."""
        whole = self.between + self.within
        return self.between / whole if whole > 0 else math.nan


def components(values: Values, groups: Groups) -> Components:
    """The two variances by the analysis of variance of unequal groups; a negative estimate
    is 0.

    within = Σ (x − mean_g)² / (n − G); between = (MSB − within) / c₀, c₀ = (n − Σ c² / n) /
    (G − 1) (Searle, Casella and McCulloch 1992, "Variance Components", 3.6). NaN: between,
    of fewer than two prompts, or where no prompt has two clips; within, where none has two.

    >>> components([1.0, 3.0, 11.0, 13.0], "aabb")
    Components(between=49.0, within=2.0, n=4, groups=2)
    """
    known, names = finite_values(values, groups)
    rows = group_numbers(names)
    n, sizes = len(known), np.bincount(rows)
    G = len(sizes)
    if n == G or G < 2:
        inside = float(known.var(ddof=1)) if G == 1 and n > 1 else math.nan
        return Components(math.nan, inside, n, G)
    means = np.bincount(rows, known) / sizes
    inside = float(((known - means[rows]) ** 2).sum() / (n - G))
    across = float((sizes * (means - known.mean()) ** 2).sum() / (G - 1))
    balance = (n - (sizes**2).sum() / n) / (G - 1)
    return Components(max(0.0, float((across - inside) / balance)), inside, n, G)


def standard_error(found: Components, prompts: int, seeds: int) -> float:
    """The standard error of the mean that so many prompts of so many seeds each would have:
    √(b / G + w / (G c)).

    More seeds only lower the second term: where prompts differ, more prompts buy more.

    >>> found = Components(49.0, 2.0, 4, 2)
    >>> round(standard_error(found, 10, 1), 3), round(standard_error(found, 10, 9), 3)
    (2.258, 2.219)
    """
    if prompts < 1 or seeds < 1:
        raise ValueError(f"expected at least one prompt and one seed, got {prompts} and {seeds}")
    return math.sqrt(found.between / prompts + found.within / (prompts * seeds))
