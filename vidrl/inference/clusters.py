"""Collect the values of each group as sums and counts, and compute the variance of their mean.

Groups (prompts, videos) are resampled or permuted as units everywhere in this package,
because clips of one prompt resemble each other: to treat them as independent would make
intervals too narrow.

Legend: n values, G groups; a group has the sum s and the count c of its values; the mean is
Σs / Σc, in which each value has the same weight unless weights are given.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from vidrl.inference.student import Array

Values = Sequence[float | None] | Array
Groups = Sequence[Hashable] | None


class Clusters(NamedTuple):
    """The sums (G,) and counts (G,) of the groups' values; `clusters` makes them.

    The order of the groups does not depend on the order of the clips.
    """

    sums: Array
    counts: Array

    @property
    def mean(self) -> float:
        """Return the mean over clips, Σs / Σc; NaN without groups."""
        return float(self.sums.sum() / self.counts.sum()) if len(self.sums) else math.nan

    @property
    def effective_groups(self) -> float:
        """Return Kish's effective number of groups, (Σc)² / Σc² (Kish 1965, "Survey Sampling").

        So many groups of equal size would give the mean the same precision: G where all
        groups have equal size, fewer where a few large groups dominate the mean.
        """
        return float(self.counts.sum() ** 2 / (self.counts**2).sum())

    @property
    def variance(self) -> float:
        """Return the cluster-robust variance of the mean; NaN for a single group.

        G / (G − 1) Σ (s − mean · c)² / (Σc)², the variance of a ratio of two sums over groups
        (Cochran 1977, "Sampling Techniques").
        """
        G, residuals = len(self.sums), self.sums - self.mean * self.counts
        return (
            float(G / (G - 1) * (residuals**2).sum() / self.counts.sum() ** 2)
            if G > 1
            else math.nan
        )


def finite_values(values: Values, groups: Groups) -> tuple[Array, list[Hashable]]:
    """Return the values that are finite numbers, and the group of each of them.

    None, NaN and infinite values are left out. A value whose group is None or "" becomes a
    group by itself, and so does each value if `groups` is None. Raises ValueError if values
    and groups differ in number.
    """
    if groups is not None and len(groups) != len(values):
        raise ValueError(f"expected a group for each of {len(values)} values, got {len(groups)}")
    numbers = np.array([math.nan if value is None else value for value in values], float)
    given = [None] * len(numbers) if groups is None else groups
    names = [SingleClip() if name is None or name == "" else name for name in given]
    finite = np.isfinite(numbers)
    return numbers[finite], [name for name, keep in zip(names, finite, strict=True) if keep]


def clusters(values: Array, groups: Iterable[Hashable], weights: Array | None = None) -> Clusters:
    """Return the sums and counts of the values of each group, each value times its weight.

    A weight is how many equal values the value stands for, 1 by default. The result does not
    depend on the order of the values or on the groups' names, to the last digit.

    >>> clusters(np.array([1.0, 0.0]), ["a", "a"], np.array([0.75, 0.25])).mean
    0.75
    """
    rows = group_numbers(list(groups))
    w = np.ones(len(values)) if weights is None else weights
    # Sorted before and after the sums: a sum of floats depends on the order of its terms,
    # and a seeded bootstrap depends on the order of the groups.
    order = np.lexsort((w, values))
    sums = np.bincount(rows[order], (w * values)[order])
    counts = np.bincount(rows[order], w[order])
    order = np.lexsort((sums, counts))
    return Clusters(sums[order], counts[order])


class SingleClip:
    """The group of a clip that belongs to no prompt; each instance differs from all others."""


def negated(side: Clusters) -> Clusters:
    """Return the groups of the values with opposite sign, in the order that `clusters` gives."""
    order = np.lexsort((-side.sums, side.counts))
    return Clusters(-side.sums[order], side.counts[order])


def group_numbers(names: Sequence[Hashable]) -> Array:
    """Return a number for each name: 0 for the first name, and so on in order of appearance.

    >>> group_numbers(["b", "a", "b"])
    array([0, 1, 0])
    """
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], int)


def rounding_error(values: Array) -> float:
    """Return the largest difference that rounding may cause between equal values of this size."""
    return 1e-12 * float(np.abs(values).max())
