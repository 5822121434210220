"""Choose what a rater sees next: the most informative pair, a random one, or a check.

A pair's expected information is that of the Bradley-Terry model with ties
(`vidrl.feedback.bradley_terry.expected_gain`); where a fitted ensemble of rewards is given, the
mutual information between its members and the answer is added. Both are in nats.

Estimates from chosen pairs alone are biased towards the pairs that a model finds hard. So a
share of all pairs is set apart for each rater before any answer, by a hash of rater and clips:
these pairs are shown as "random" and are never chosen for their information. An average over
the random pairs estimates the average over all pairs.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vidrl.feedback.bradley_terry import expected_gain, strengths

Array = NDArray[Any]
Item = tuple[int, ...]  # clips that are shown together, by their places in the set of clips
KEPT = ("random", "informative")  # the reasons whose answers count as information
PRIOR_STD = 1.0  # of the strength of a clip
DISTANCE = 5  # answers between a pair and its repetition


@dataclass(frozen=True)
class Shares:
    """The shares of random pairs, of repeated pairs and of gold pairs, each from 0 to 1.

    Raises ValueError for a share outside 0 to 1, or repeats and gold pairs of more than half.
    """

    random: float = 0.2
    repeats: float = 0.05
    gold: float = 0.05

    def __post_init__(self) -> None:
        for name in ("random", "repeats", "gold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"expected a share of 0 to 1, got {name} {getattr(self, name)}")
        if self.repeats + self.gold > 0.5:
            raise ValueError(
                "expected repeated and gold pairs to be at most half of all, got "
                f"{self.repeats + self.gold:g}"
            )


@dataclass(frozen=True)
class Pick:
    """What is shown next: the clips by their places, or the number of a gold pair; and why.

    A repeated item is in the order in which it is shown, the reverse of the first time.
    """

    item: Item
    reason: str


def mutual_information(first_wins: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return how much an answer says about which member of an ensemble is right, in nats.

    `first_wins` (E,) holds each member's probability that the first clip wins, `weights` (E,) how
    much each member counts, by default equally. The information is H(mean p) − mean H(p)
    (arXiv 1112.5745): 0 where all members agree.

    >>> mutual_information([0.7, 0.7])
    0.0
    >>> round(mutual_information([1.0, 0.0]), 3)  # ln 2
    0.693
    """
    p = np.asarray(first_wins, float)
    counts = np.ones_like(p) if weights is None else np.asarray(weights, float)
    share = counts / counts.sum()
    return max(0.0, float(_entropy(p @ share) - _entropy(p) @ share))


def _entropy(p: ArrayLike) -> Array:
    """Return the entropy of answers of probability p, in nats."""
    inside = np.clip(np.asarray(p, float), 1e-12, 1 - 1e-12)
    return -(inside * np.log(inside) + (1 - inside) * np.log1p(-inside))


@lru_cache(maxsize=4096)
def gains(pairs: tuple[Item, ...], answers: tuple[tuple[int, int, int], ...]) -> Array:
    """Return the expected information of each pair of one group of clips, (N,), in nats.

    An answer is (first, second, choice), with choice 1, −1 or 0. A clip without an answer has
    the prior N(0, 1), as in `vidrl.feedback.bradley_terry`.

    >>> gained = gains(((0, 1), (0, 2)), ((0, 1, 1),))
    >>> bool(gained[1] > gained[0])
    True
    """
    named = [*pairs, *(answer[:2] for answer in answers)]
    place = {
        clip: number for number, clip in enumerate(sorted({c for pair in named for c in pair}))
    }
    first, second = ([place[answer[side]] for answer in answers] for side in (0, 1))
    choices = [answer[2] for answer in answers]
    known = strengths(first, second, choices, len(place), prior_std=PRIOR_STD)
    return expected_gain(known, [place[a] for a, _ in pairs], [place[b] for _, b in pairs])


@lru_cache(maxsize=1 << 18)
def reserved(rater: str, clips: tuple[str, ...], seed: str) -> float:
    """Return a number in [0, 1) that depends on rater, the names of the clips and seed alone.

    Clips whose number is below the share of random items are set apart for random draws.

    >>> reserved("Ann", ("a.mp4", "b.mp4"), "s") == reserved("Ann", ("a.mp4", "b.mp4"), "s")
    True
    """
    digest = hashlib.sha256("\0".join((seed, rater, *clips)).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


@dataclass(frozen=True)
class Past:
    """Clips that were shown before: to whom, from left to right, why, and the choice if any.

    `choice` is that of the clip of the lower place: 1 if it was better, −1 if it was worse.
    """

    rater: str
    shown: Item
    reason: str
    choice: int | None = None

    @property
    def item(self) -> Item:
        """Return the clips in the order of their places, whatever their sides were."""
        return tuple(sorted(self.shown))


@dataclass(frozen=True)
class Selection:
    """Chooses items of a set of clips for raters.

    `groups` holds the items of each prompt: two clips of a pair, one clip for points, several
    for a ranking. `gold` are the numbers of the gold pairs. `seed` decides which
    items are set apart for random draws, and `names` names each clip for these draws, so that a
    clip that is added changes no other item; without names the places count. `pairs` is whether
    items are pairs, of which the most informative is chosen; of other items, the one with the
    fewest answers is. `disagreement` returns the mutual information of an ensemble about a pair,
    in nats.
    """

    groups: tuple[tuple[Item, ...], ...]
    shares: Shares = Shares()
    gold: tuple[int, ...] = ()
    seed: str = ""
    pairs: bool = True
    disagreement: Callable[[Item], float] = lambda item: 0.0
    names: tuple[str, ...] = ()

    def drawn(self, rater: str, item: Item) -> float:
        """Return the number by which an item is set apart; see `reserved`."""
        clips = (self.names[place] if self.names else str(place) for place in item)
        return reserved(rater, tuple(sorted(clips)), self.seed)

    def pick(
        self, rater: str, past: Sequence[Past], taken: Collection[Item], draw: random.Random
    ) -> Pick | None:
        """Return what a rater sees next, or None where the rater has seen all.

        `past` is what was shown and answered, `taken` the items that wait for an answer now: the
        rater's own are not shown again, and those of others only where nothing else is left.
        """
        mine = [one for one in past if one.rater == rater]
        turn = draw.random()
        if turn < self.shares.gold and (pick := self._gold(mine, draw)):
            return pick
        repeats = self.shares.gold <= turn < self.shares.gold + self.shares.repeats
        if repeats and (pick := self._repeat(mine, draw)):
            return pick
        seen = {one.item for one in mine if one.reason != "gold"}
        free = [item for group in self.groups for item in group if item not in seen]
        drawn = {item: self.drawn(rater, item) for item in free}
        apart = [item for item in free if drawn[item] < self.shares.random]
        rest = [item for item in free if drawn[item] >= self.shares.random]
        if apart and (not rest or draw.random() < self.shares.random):
            return Pick(min(apart, key=lambda item: drawn[item]), "random")
        return self._informative(rest, past, taken, draw)

    def _gold(self, mine: Sequence[Past], draw: random.Random) -> Pick | None:
        """Return a gold item that the rater has not seen, or None."""
        seen = {one.item[0] for one in mine if one.reason == "gold"}
        free = [number for number in self.gold if number not in seen]
        return Pick((draw.choice(free),), "gold") if free else None

    def _repeat(self, mine: Sequence[Past], draw: random.Random) -> Pick | None:
        """Return an item that the rater answered once and some answers ago, or None."""
        known = {item for group in self.groups for item in group}
        shown = [one for one in mine if one.reason != "gold"]
        often = Counter(one.item for one in shown)
        old = [one for one in shown[:-DISTANCE] if often[one.item] == 1 and one.choice is not None]
        free = [one.shown[::-1] for one in old if one.item in known]
        return Pick(draw.choice(free), "repeat") if free else None

    def _informative(
        self,
        free: Sequence[Item],
        past: Sequence[Past],
        taken: Collection[Item],
        draw: random.Random,
    ) -> Pick | None:
        """Return the free item of most information, of equal ones a random one."""
        open_ones = [item for item in free if item not in taken] or list(free)
        if not open_ones:
            return None
        gained = self._gains(past)
        best = max(gained[item] for item in open_ones)
        chosen = draw.choice([item for item in open_ones if gained[item] >= best - 1e-12])
        return Pick(chosen, "informative" if self.pairs else "random")

    def _gains(self, past: Sequence[Past]) -> dict[Item, float]:
        """Return the expected information of each item; for points and rankings, fewest answers."""
        counts = Counter(one.item for one in past if one.choice is not None)
        found: dict[Item, float] = {}
        answers: dict[Item, list[tuple[int, int, int]]] = {}
        for one in past:
            if self.pairs and one.choice is not None and one.reason in KEPT:
                answers.setdefault(one.item, []).append((one.item[0], one.item[1], one.choice))
        for group in self.groups:
            if not self.pairs:
                found |= {item: -float(counts[item]) for item in group}
                continue
            given = tuple(answer for item in group for answer in answers.get(item, ()))
            for item, gain in zip(group, gains(group, given), strict=True):
                found[item] = float(gain) + self.disagreement(item)
        return found
