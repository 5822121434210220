"""The base of what is measured of two sets of clips as a whole: distances between the
distributions of their features.

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

BLOCKS = 20
NOT_ASYMPTOTIC = (
    "too few clips: the distance does not fall as 1 / N yet, and cannot be extrapolated to an "
    "unbiased one"
)
PUBLISHED_OUTSIDE = "the interval is of the unbiased distance: few clips add to the other one"
Groups = Sequence[Hashable]
Blocks = tuple[Array, Array]  # the number of each clip's block, (N,) and (N',)


@dataclass(frozen=True)
class Distance:
    """A distance as it is published, `value`; freed of what few clips add to it,
    `unbiased`, with the 95 % interval of that. NaN: not there, for the reason in
    `notes`."""

    value: float
    unbiased: float
    low: float
    high: float
    n: tuple[int, int]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Nearer:
    """How much nearer the second set is to a reference than the first: the first's unbiased
    distance less the second's, and its interval. NaN: not there, for the reason in
    `notes`."""

    difference: float
    low: float
    high: float
    notes: tuple[str, ...] = ()


class Benchmark(ABC):
    """A distance between two sets of features, lower is nearer; constructor arguments are
    its options.

    One gives `biased`, the published formula, and, where `exact`, `unbiased`, whose mean
    does not depend on N. Where that is not known, or clips share prompts and so are not
    independent, it is extrapolated to endless N as FID_∞ is (arXiv:1911.07023), F(N) = F_∞
    + c / N, with N and N (1 − 1 / K) for points (Quenouille 1956,
    doi:10.1093/biomet/43.3-4.353). The interval is of a jackknife that leaves out K blocks
    of prompts in turn, in both sets at once where they share prompts. Where halves of the
    sets show that the distance does not fall as 1 / N yet, there is neither.
    """

    fewest: ClassVar[int] = 10  # clips below which there is no number, of any number of features
    least: ClassVar[int] = 100  # below which it is marked
    exact: ClassVar[bool] = False  # whether `unbiased` is known
    instead: ClassVar[str] = ""  # what to do where clips are too few, as the end of a sentence

    def fewest_for(self, D: int) -> tuple[int, int]:
        """The clips of D features below which there is no number, and below which it has no
        interval."""
        return self.fewest, self.fewest

    @abstractmethod
    def biased(self, first: Array, second: Array) -> float:
        """The distance of features (N, D) and (N', D) as published."""

    def unbiased(self, first: Array, second: Array) -> float:
        """The same without bias, where `exact`."""
        raise NotImplementedError(
            f"{type(self).__name__} knows no unbiased formula: it is extrapolated"
        )

    def statistics(self, first: Array, second: Array, blocks: Blocks) -> tuple[float, Array]:
        """Of all clips, and (K,) without each block: the unbiased distance where `exact`,
        else the biased one.

        `assign_blocks` are the numbers, 0 to K − 1, of the clips' blocks.
        """
        kept = [
            (first[blocks[0] != k], second[blocks[1] != k]) for k in range(count_blocks(blocks))
        ]
        statistic = self.unbiased if self.exact else self.biased
        found = [statistic(*pair) for pair in [(first, second), *kept]]
        return found[0], np.array(found[1:])

    def notes(self, first: Array, second: Array) -> tuple[str, ...]:
        """What a reader must know of a distance of such sets."""
        few = min(len(first), len(second))
        return (f"fewer than {self.least} clips: {few}",) if few < self.least else ()

    def measure(
        self, first: Array, second: Array, groups: tuple[Groups, Groups] | None = None
    ) -> Distance:
        """The distance of features (N, D) and (N', D), of clips of the prompts `groups`;
        without, each has its own.

        Raises ValueError where the features are no two tables of finite numbers with as
        many columns.
        """
        first, second = _checked(first, second)
        n = (len(first), len(second))
        if why := self._refused(min(n), first.shape[1]):
            return Distance(math.nan, math.nan, math.nan, math.nan, n, (why,))
        groups = groups or (range(n[0]), range(-n[1], 0))
        value, parts = self.biased(first, second), assign_blocks(groups)
        prompts = min(len(set(part.tolist())) for part in parts)
        if prompts < 4:
            few = f"{prompts} prompts in a set: too few for an interval"
            return Distance(
                value, math.nan, math.nan, math.nan, n, (*self.notes(first, second), few)
            )
        if why := self._few(min(n), first.shape[1]):
            return Distance(
                value, math.nan, math.nan, math.nan, n, (*self.notes(first, second), why)
            )
        alone = len({*groups[0], *groups[1]}) == sum(n)
        unbiased, reach = self._jackknifed(first, second, parts, self.exact and alone)
        notes = self.notes(first, second)
        bend = 0.0 if self.exact else abs(self._halves(first, second, parts) - 2 * value + unbiased)
        if bend > reach + 1e-9 * abs(value):
            return Distance(value, math.nan, math.nan, math.nan, n, (*notes, NOT_ASYMPTOTIC))
        held = unbiased - reach <= value <= unbiased + reach
        return Distance(
            value,
            unbiased,
            unbiased - reach,
            unbiased + reach,
            n,
            notes + (PUBLISHED_OUTSIDE,) * (not held),
        )

    def nearer(
        self,
        first: Array,
        second: Array,
        reference: Array,
        groups: tuple[Groups, Groups, Groups] | None = None,
        level: float = 0.95,
    ) -> Nearer:
        """Is the second set nearer to the reference than the first, and by how much?

        The reference's own clips are in both distances, and prompts may be in all three
        sets, so that two intervals that overlap say nothing: the jackknife leaves the same
        prompts out of all three sets and looks at the difference. `level` is that of the
        interval. Raises ValueError as `measure` does.
        """
        first, reference = _checked(first, reference)
        second, _ = _checked(second, reference)
        sets, D = (first, second, reference), first.shape[1]
        fewest = min(map(len, sets))
        if why := self._refused(fewest, D) or self._few(fewest, D):
            return Nearer(math.nan, math.nan, math.nan, (why,))
        sides = groups or tuple(
            range(1_000_000 * k, 1_000_000 * k + len(one)) for k, one in enumerate(sets)
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
        alone = len({group for side in sides for group in side}) == sum(map(len, sets))
        there, here = (
            self._pseudo(one, reference, (part, parts[2]), K) for one, part in zip(sets, parts[:2])
        )
        gap = there - here
        reach = t_quantile(K - 1, (1 + level) / 2) * float(gap.std(ddof=1)) / math.sqrt(K)
        found = float(gap.mean()) if not (self.exact and alone) else self._exactly(sets)
        return Nearer(found, found - reach, found + reach)

    def _exactly(self, sets: tuple[Array, Array, Array]) -> float:
        return self.unbiased(sets[0], sets[2]) - self.unbiased(sets[1], sets[2])

    def _pseudo(self, first: Array, second: Array, parts: Blocks, K: int) -> Array:
        """The jackknife's pseudo-values of K blocks, (K,), of which some may be in neither
        set."""
        whole, left = self.statistics(first, second, parts)
        left = np.concatenate([left, np.full(K - len(left), whole)])
        return K * whole - (K - 1) * left

    def _refused(self, n: int, D: int) -> str:
        """Why so few clips of D features have no distance; empty where they have one."""
        fewest = self.fewest_for(D)[0]
        of = f" of {D} features" if fewest > self.fewest else ""
        return (
            f"refused: a distance of {n} clips{of} says nothing, at least {fewest} are needed"
            f"{self.instead}"
        ) * (n < fewest)

    def _few(self, n: int, D: int) -> str:
        """Why so few clips of D features have a distance without an interval; empty where
        they have one."""
        fewest = self.fewest_for(D)[1]
        return (
            f"no interval: {n} clips of {D} features, at least {fewest} are needed for one"
            f"{self.instead}"
        ) * (n < fewest)

    def _jackknifed(
        self, first: Array, second: Array, parts: Blocks, exact: bool
    ) -> tuple[float, float]:
        """The unbiased distance, and how far its interval reaches."""
        K, (whole, left) = count_blocks(parts), self.statistics(first, second, parts)
        pseudo = K * whole - (K - 1) * left
        reach = t_quantile(K - 1) * float(pseudo.std(ddof=1)) / math.sqrt(K)
        return whole if exact else float(pseudo.mean()), reach

    def _halves(self, first: Array, second: Array, parts: Blocks) -> float:
        """Mean biased distance of the halves of the sets: F_∞ + 2 c / N, so 2 F(N) − F_∞,
        where it falls as 1 / N."""
        even = [np.unique(part, return_inverse=True)[1] % 2 == 0 for part in parts]
        halves = [(first[even[0]], second[even[1]]), (first[~even[0]], second[~even[1]])]
        return float(np.mean([self.biased(*half) for half in halves]))


def count_blocks(blocks: Blocks) -> int:
    """How many blocks there are, K."""
    return int(max(block.max() for block in blocks)) + 1


def assign_blocks(groups: tuple[Groups, Groups], most: int = BLOCKS) -> Blocks:
    """The number of each clip's block: clips of one group are in one, in both sets.

    >>> [part.tolist() for part in assign_blocks((["a", "a", "b", "c"], ["c", "a"]), most=2)]
    [[0, 0, 1, 0], [0, 0]]
    """
    first, second = _numbered(groups, most)
    return first, second


def _numbered(sides: Sequence[Groups], most: int = BLOCKS) -> list[Array]:
    """`assign_blocks` of any number of sets."""
    numbers: dict[Hashable, int] = {}
    for side in sides:
        for group in side:
            numbers.setdefault(group, len(numbers))
    K = min(most, len(numbers))
    return [np.array([numbers[group] % K for group in side], int) for side in sides]


def _checked(first: Array, second: Array) -> tuple[Array, Array]:
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
