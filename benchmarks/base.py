"""Define the base of distances between two sets of clips, by the distribution of features.

Legend: N clips of a set, D features of a clip, K blocks of clips that are left out in turn.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from vidrl.inference.student import Array, t_quantile

BLOCKS = 20  # most blocks of the jackknife; more cost time and hardly narrow the interval
NOT_ASYMPTOTIC = (
    "too few clips: the distance does not fall as 1 / N yet, and cannot be extrapolated to an "
    "unbiased one"
)
PUBLISHED_OUTSIDE = "the interval is of the unbiased distance: few clips add to the other one"
Groups = Sequence[Hashable]
Blocks = tuple[Array, Array]  # the block number of each clip of both sets, (N,) and (N',)


@dataclass(frozen=True)
class Distance:
    """A distance as published, `value`, and without the bias of few clips, `unbiased`.

    `low` and `high` are the 95 % interval of `unbiased`; `n` counts the clips of both sets.
    NaN where a number cannot be given, for the reason in `notes`.
    """

    value: float
    unbiased: float
    low: float
    high: float
    n: tuple[int, int]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Nearer:
    """How much nearer the second set is to a reference than the first set is.

    `difference` is the first set's unbiased distance less the second's, with its interval;
    above 0 the second set is nearer. NaN where it cannot be given, for the reason in
    `notes`.
    """

    difference: float
    low: float
    high: float
    notes: tuple[str, ...] = ()


class Benchmark(ABC):
    """A distance between two sets of features, lower is nearer; options are the constructor's.

    A subclass gives `biased`, the published formula, and, if `exact`, `unbiased`, whose
    mean does not depend on N. If no unbiased formula is known, or if clips share prompts
    and so are not independent, the unbiased distance is extrapolated to infinitely many
    clips as FID_∞ is (arXiv:1911.07023): F(N) = F_∞ + c / N, fitted to N and to N (1 − 1 /
    K) clips (Quenouille 1956, doi:10.1093/biomet/43.3-4.353).

    The interval comes from a jackknife that leaves out K blocks of prompts in turn, in both
    sets at once if they share prompts. The distance between halves of the sets tests the
    model F_∞ + c / N: if the model does not predict it, there is neither an unbiased
    distance nor an interval.
    """

    fewest: ClassVar[int] = 10  # with fewer clips there is no distance, whatever the features
    least: ClassVar[int] = 100  # with fewer clips the distance gets a note
    exact: ClassVar[bool] = False  # whether the subclass has the formula `unbiased`
    instead: ClassVar[str] = ""  # end of the sentence "too few clips": what to do instead

    def fewest_for(self, D: int) -> tuple[int, int]:
        """Return the fewest clips of D features for a distance, and the fewest for an interval."""
        return self.fewest, self.fewest

    @abstractmethod
    def biased(self, first: Array, second: Array) -> float:
        """Return the published distance of features (N, D) and (N', D)."""

    def unbiased(self, first: Array, second: Array) -> float:
        """Return the distance without bias, if `exact`."""
        raise NotImplementedError(
            f"{type(self).__name__} knows no unbiased formula: it is extrapolated"
        )

    def statistics(self, first: Array, second: Array, blocks: Blocks) -> tuple[float, Array]:
        """Return the distance of all clips, and (K,) distances without each block.

        It is the unbiased distance if `exact`, else the biased one. `blocks` are the
        numbers, 0 to K − 1, of the clips' blocks.
        """
        kept = [
            (first[blocks[0] != k], second[blocks[1] != k]) for k in range(count_blocks(blocks))
        ]
        statistic = self.unbiased if self.exact else self.biased
        found = [statistic(*pair) for pair in [(first, second), *kept]]
        return found[0], np.array(found[1:])

    def notes(self, first: Array, second: Array) -> tuple[str, ...]:
        """Return what a reader must know about a distance of these sets."""
        few = min(len(first), len(second))
        return (f"fewer than {self.least} clips: {few}",) if few < self.least else ()

    def measure(
        self, first: Array, second: Array, groups: tuple[Groups, Groups] | None = None
    ) -> Distance:
        """Return the distance of features (N, D) and (N', D) of clips of the prompts `groups`.

        Without `groups` each clip has its own prompt. Raises ValueError for features that
        are not two tables of finite numbers with the same number of columns.
        """
        first, second = _checked(first, second)
        n = (len(first), len(second))
        if why := self._refused(min(n), first.shape[1]):
            return Distance(math.nan, math.nan, math.nan, math.nan, n, (why,))
        # Without groups: positive numbers for one set and negative for the other, so that no
        # two clips share a prompt.
        groups = groups or (range(n[0]), range(-n[1], 0))
        value, parts = self.biased(first, second), assign_blocks(groups)
        fewest_prompts = min(len(set(part.tolist())) for part in parts)
        if fewest_prompts < 4:
            few = f"{fewest_prompts} prompts in a set: too few for an interval"
            return Distance(
                value, math.nan, math.nan, math.nan, n, (*self.notes(first, second), few)
            )
        if why := self._few(min(n), first.shape[1]):
            return Distance(
                value, math.nan, math.nan, math.nan, n, (*self.notes(first, second), why)
            )
        # With shared prompts the clips are not independent, so that the mean of an unbiased
        # formula is biased after all; the jackknife's extrapolation is used instead.
        independent = len({*groups[0], *groups[1]}) == sum(n)
        unbiased, half_width = self._jackknifed(first, second, parts, self.exact and independent)
        notes = self.notes(first, second)
        # F(N) = F_∞ + c / N predicts F(N / 2) = F_∞ + 2 c / N = 2 F(N) − F_∞.
        misfit = (
            0.0 if self.exact else abs(self._halves(first, second, parts) - 2 * value + unbiased)
        )
        if misfit > half_width + 1e-9 * abs(value):
            return Distance(value, math.nan, math.nan, math.nan, n, (*notes, NOT_ASYMPTOTIC))
        value_inside = unbiased - half_width <= value <= unbiased + half_width
        return Distance(
            value,
            unbiased,
            unbiased - half_width,
            unbiased + half_width,
            n,
            notes + (PUBLISHED_OUTSIDE,) * (not value_inside),
        )

    def nearer(
        self,
        first: Array,
        second: Array,
        reference: Array,
        groups: tuple[Groups, Groups, Groups] | None = None,
        level: float = 0.95,
    ) -> Nearer:
        """Return how much nearer the second set is to the reference than the first set is.

        Both distances contain the reference's clips, and prompts may be in all three sets,
        so two overlapping intervals would say nothing. The jackknife leaves the same
        prompts out of all three sets and takes the difference of the distances. `level` is
        the interval's. Raises ValueError as `measure` does.
        """
        first, reference = _checked(first, reference)
        second, _ = _checked(second, reference)
        sets, D = (first, second, reference), first.shape[1]
        fewest = min(map(len, sets))
        if why := self._refused(fewest, D) or self._few(fewest, D):
            return Nearer(math.nan, math.nan, math.nan, (why,))
        # Without groups: no two clips of the three sets get the same number.
        sides = groups or tuple(
            range(1_000_000 * k, 1_000_000 * k + len(side)) for k, side in enumerate(sets)
        )
        parts = _numbered(sides)
        prompts = min(len(set(part.tolist())) for part in parts)
        if prompts < 4:
            return Nearer(
                math.nan,
                math.nan,
                math.nan,
                (f"{prompts} prompts in a set: too few for an interval",),
            )
        K = 1 + int(max(part.max() for part in parts))
        independent = len({group for side in sides for group in side}) == sum(map(len, sets))
        pseudo_first, pseudo_second = (
            self._pseudo(side, reference, (part, parts[2]), K)
            for side, part in zip(sets, parts[:2])
        )
        gap = pseudo_first - pseudo_second
        half_width = t_quantile(K - 1, (1 + level) / 2) * float(gap.std(ddof=1)) / math.sqrt(K)
        difference = float(gap.mean()) if not (self.exact and independent) else self._exactly(sets)
        return Nearer(difference, difference - half_width, difference + half_width)

    def _exactly(self, sets: tuple[Array, Array, Array]) -> float:
        """Return the difference of the unbiased distances to the reference."""
        return self.unbiased(sets[0], sets[2]) - self.unbiased(sets[1], sets[2])

    def _pseudo(self, first: Array, second: Array, parts: Blocks, K: int) -> Array:
        """Return the jackknife's pseudo-values of K blocks, (K,): K F − (K − 1) F_without_k.

        A block may be in neither of the two sets; leaving it out then changes nothing.
        """
        distance, without_block = self.statistics(first, second, parts)
        without_block = np.concatenate([without_block, np.full(K - len(without_block), distance)])
        return K * distance - (K - 1) * without_block

    def _refused(self, n: int, D: int) -> str:
        """Return why so few clips of D features have no distance, "" if they have one."""
        fewest = self.fewest_for(D)[0]
        of = f" of {D} features" if fewest > self.fewest else ""
        return (
            f"refused: a distance of {n} clips{of} says nothing, at least {fewest} are needed"
            f"{self.instead}"
        ) * (n < fewest)

    def _few(self, n: int, D: int) -> str:
        """Return why so few clips of D features have no interval, "" if they have one."""
        fewest = self.fewest_for(D)[1]
        return (
            f"no interval: {n} clips of {D} features, at least {fewest} are needed for one"
            f"{self.instead}"
        ) * (n < fewest)

    def _jackknifed(
        self, first: Array, second: Array, parts: Blocks, exact: bool
    ) -> tuple[float, float]:
        """Return the unbiased distance, and half of the width of its interval."""
        K = count_blocks(parts)
        distance, without_block = self.statistics(first, second, parts)
        pseudo = K * distance - (K - 1) * without_block
        half_width = t_quantile(K - 1) * float(pseudo.std(ddof=1)) / math.sqrt(K)
        return distance if exact else float(pseudo.mean()), half_width

    def _halves(self, first: Array, second: Array, parts: Blocks) -> float:
        """Return the mean biased distance of the two halves of the sets."""
        even = [np.unique(part, return_inverse=True)[1] % 2 == 0 for part in parts]
        halves = [(first[even[0]], second[even[1]]), (first[~even[0]], second[~even[1]])]
        return float(np.mean([self.biased(*half) for half in halves]))


def count_blocks(blocks: Blocks) -> int:
    """Return the number of blocks, K."""
    return int(max(block.max() for block in blocks)) + 1


def assign_blocks(groups: tuple[Groups, Groups], most: int = BLOCKS) -> Blocks:
    """Return the block number of each clip; clips of one group are in one block, in both sets.

    >>> [part.tolist() for part in assign_blocks((["a", "a", "b", "c"], ["c", "a"]), most=2)]
    [[0, 0, 1, 0], [0, 0]]
    """
    first, second = _numbered(groups, most)
    return first, second


def _numbered(sides: Sequence[Groups], most: int = BLOCKS) -> list[Array]:
    """Return the block numbers for any number of sets."""
    numbers: dict[Hashable, int] = {}
    for side in sides:
        for group in side:
            numbers.setdefault(group, len(numbers))
    K = min(most, len(numbers))
    return [np.array([numbers[group] % K for group in side], int) for side in sides]


def _checked(first: Array, second: Array) -> tuple[Array, Array]:
    """Return the features as float64. Raises ValueError for other shapes, NaN or infinity."""
    sides = [np.asarray(side, float) for side in (first, second)]
    shapes = " and ".join(str(side.shape) for side in sides)
    if any(side.ndim != 2 for side in sides) or sides[0].shape[1] != sides[1].shape[1]:
        raise ValueError(f"expected features of shapes (N, D) and (N', D), got {shapes}")
    if not all(np.isfinite(side).all() for side in sides):
        raise ValueError(
            "expected finite features, got NaN or infinity: leave out the clips that the "
            "encoder fails on"
        )
    return sides[0], sides[1]
