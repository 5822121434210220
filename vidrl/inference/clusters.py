"""Values in groups: the sums and counts of each prompt's clips, and the variance of their
mean.

Groups are drawn or changed as wholes everywhere in this package, because clips of one
prompt resemble each other.

Legend: n values, G groups (prompts); a group has the sum s and the number c of its values;
the mean is Σs / Σc.
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
    """Sums (G,) and counts (G,) of the groups' values, in an order that does not depend on
    that of the clips."""

    sums: Array
    counts: Array

    @property
    def mean(self) -> float:
        """Over clips: each counts the same."""
        return float(self.sums.sum() / self.counts.sum()) if len(self.sums) else math.nan

    @property
    def effective_groups(self) -> float:
        """How many groups of equal size are worth as much, (Σc)² / Σc² (Kish 1965): few
        large ones decide a mean."""
        return float(self.counts.sum() ** 2 / (self.counts**2).sum())

    @property
    def variance(self) -> float:
        """Of the mean, by the groups' residuals: G / (G − 1) Σ (s − mean c)² / (Σc)²; NaN
        for a single group."""
        G, residuals = len(self.sums), self.sums - self.mean * self.counts
        return (
            float(G / (G - 1) * (residuals**2).sum() / self.counts.sum() ** 2)
            if G > 1
            else math.nan
        )


def finite_values(values: Values, groups: Groups) -> tuple[Array, list[Hashable]]:
    """The values that are there and their groups."""
    if groups is not None and len(groups) != len(values):
        raise ValueError(f"expected a group for each of {len(values)} values, got {len(groups)}")
    found = np.array([math.nan if value is None else value for value in values], float)
    given = [None] * len(found) if groups is None else groups
    names = [SingleClip() if name is None or name == "" else name for name in given]
    known = np.isfinite(found)
    return found[known], [name for name, is_known in zip(names, known, strict=True) if is_known]


def clusters(values: Array, groups: Iterable[Hashable]) -> Clusters:
    """Sums and counts of groups; sorted, so that they do not depend on the order or the
    names."""
    rows = group_numbers(list(groups))
    order = np.argsort(values, kind="stable")
    sums, counts = np.bincount(rows[order], values[order]), np.bincount(rows)
    order = np.lexsort((sums, counts))
    return Clusters(sums[order], counts[order].astype(float))


class SingleClip:
    """The group of a clip that shares its prompt with none."""


def negated(side: Clusters) -> Clusters:
    """The groups of the negated values, in their order."""
    order = np.lexsort((-side.sums, side.counts))
    return Clusters(-side.sums[order], side.counts[order])


def group_numbers(names: Sequence[Hashable]) -> Array:
    """Names as numbers from 0, in order of appearance.

    >>> group_numbers(["b", "a", "b"])
    array([0, 1, 0])
    """
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], int)


def rounding_error(known: Array) -> float:
    """A difference that is no more than the rounding of such numbers."""
    return 1e-12 * float(np.abs(known).max())
