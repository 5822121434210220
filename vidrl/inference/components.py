"""Split the variance of clips into one between prompts and one between seeds of a prompt.

Use it to plan a test: where the variance lies between prompts, more prompts make a mean
more precise, and more seeds of the same prompts hardly do.

Legend: G prompts with c clips each, n clips in all. The model is the one-way random effects
model: value of a clip = mean + deviation of its prompt + deviation of the clip.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from vidrl.inference.clusters import Groups, Values, finite_values, group_numbers


class Components(NamedTuple):
    """The variance between prompts and within prompts; NaN where it cannot be estimated.

    `between` is the variance of the prompts' true means, `within` that of the clips of one
    prompt; `n` and `groups` are the numbers of clips and prompts.
    """

    between: float
    within: float
    n: int
    groups: int

    @property
    def intraclass_correlation(self) -> float:
        """Return the fraction of the variance between prompts; NaN without variance.

        between / (between + within), 0 where prompts do not differ, 1 where all seeds of a
        prompt give the same value.
        """
        total = self.between + self.within
        return self.between / total if total > 0 else math.nan


def components(values: Values, groups: Groups) -> Components:
    """Estimate both variances by the analysis of variance of groups of unequal size.

    within = Σ (x − mean_g)² / (n − G) and between = (MSB − within) / c₀, where MSB =
    Σ c (mean_g − mean)² / (G − 1) and c₀ = (n − Σ c² / n) / (G − 1). A negative estimate of
    `between` becomes 0. Source: Searle, Casella and McCulloch 1992, "Variance Components",
    3.6. NaN: `between` with fewer than two prompts or where no prompt has two clips;
    `within` where no prompt has two clips.

    >>> components([1.0, 3.0, 11.0, 13.0], "aabb")
    Components(between=49.0, within=2.0, n=4, groups=2)
    """
    numbers, names = finite_values(values, groups)
    rows = group_numbers(names)
    n, sizes = len(numbers), np.bincount(rows)
    G = len(sizes)
    if n == G or G < 2:
        inside = float(numbers.var(ddof=1)) if G == 1 and n > 1 else math.nan
        return Components(math.nan, inside, n, G)
    means = np.bincount(rows, numbers) / sizes
    inside = float(((numbers - means[rows]) ** 2).sum() / (n - G))
    between_square = float((sizes * (means - numbers.mean()) ** 2).sum() / (G - 1))  # MSB
    mean_size = (n - (sizes**2).sum() / n) / (G - 1)  # c₀: c where all groups have c clips
    return Components(max(0.0, float((between_square - inside) / mean_size)), inside, n, G)


def standard_error(found: Components, prompts: int, seeds: int) -> float:
    """Return the standard error of a mean over `prompts` prompts with `seeds` clips each.

    √(between / prompts + within / (prompts · seeds)). More seeds reduce only the second
    term, so that more prompts help more where prompts differ. Raises ValueError if either
    number is below 1.

    >>> found = Components(49.0, 2.0, 4, 2)
    >>> round(standard_error(found, 10, 1), 3), round(standard_error(found, 10, 9), 3)
    (2.258, 2.219)
    """
    if prompts < 1 or seeds < 1:
        raise ValueError(f"expected at least one prompt and one seed, got {prompts} and {seeds}")
    return math.sqrt(found.between / prompts + found.within / (prompts * seeds))
