"""Turn judgments into arrays for a fit, and refuse what nothing can be learned from.

Legend: C clips, N choices, L local comparisons, P points, F frames, K features.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from vidrl.feedback.judgments import OVERALL, Choice, Fault, Judgments, Points
from vidrl.lookup.advice import nearest
from vidrl.lookup.grammar import counted

LEAST = 20  # decided answers, or points: fewer cannot rank even a few features
LEVELS = 10  # at most, into which points of a fine scale are sorted


class TooLittle(ValueError):
    """Labels from which nothing can be learned."""


@dataclass(frozen=True)
class Data:
    """Labels of one aspect as arrays; clips are numbers.

    - `clips`: C names; `prompts`: C texts.
    - `first`, `second`, `choice`, `weight`, `rater` (N,): the choices; a weight is how many answers
      a choice stands for, as where a file holds the share of the votes for each clip of a pair.
    - `sided` (N,): whether the order of the two clips may be that in which they were shown. It is
      not in what rankings and points imply, nor where every choice names the chosen clip first.
    - `local_first`, `local_second` (L, F): weights of the frames of the two sides, which sum to 1
      in each row; `local_clips` (L, 2); `local_choice`, `local_weight`, `local_rater`
      (L,); `local_row` (L,), the choice that a local comparison belongs to, −1 for one of a marked
      fault.
    - `scored`, `level`, `point_rater` (P,): points, sorted into levels from 0; `levels`: how many.
    - `notes`: sentences for the card.
    """

    clips: list[str]
    prompts: list[str]
    first: np.ndarray
    second: np.ndarray
    choice: np.ndarray
    weight: np.ndarray
    rater: np.ndarray
    sided: np.ndarray
    local_clips: np.ndarray
    local_first: np.ndarray
    local_second: np.ndarray
    local_choice: np.ndarray
    local_weight: np.ndarray
    local_rater: np.ndarray
    local_row: np.ndarray
    scored: np.ndarray
    level: np.ndarray
    point_rater: np.ndarray
    levels: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def decided(self) -> np.ndarray:
        """Return which choices are no ties, bool (N,)."""
        return self.choice != 0

    @property
    def answers(self) -> float:
        """Return how many answers the decided choices stand for."""
        return answers(self.weight[self.decided])

    @property
    def raters(self) -> list[str]:
        """Return the names of the raters."""
        named = (self.rater, self.point_rater, self.local_rater)
        return sorted({name for names in named for name in names.tolist()} - {""})

    @property
    def ballots(self) -> np.ndarray:
        """Return the ballot of each choice, (N,): shares of the votes on one pair are one ballot.

        Any other choice is a ballot by itself.
        """
        sides = np.sort(np.stack([self.first, self.second], 1), 1).tolist()
        rows = zip(sides, self.rater.tolist(), self.weight.tolist(), strict=True)
        return ballots([(*pair, rater, weight) for pair, rater, weight in rows])

    def subset(
        self,
        rows: np.ndarray,
        points: np.ndarray | None = None,
        faults: np.ndarray | None = None,
    ) -> Data:
        """Return the choices `rows`, bool (N,), with their local comparisons, and the points.

        `points` (P,) and `faults` (L,) are the points and the marked faults to keep, all by
        default. A marked fault stays only with a clip that the remaining choices or points name.
        """
        points = np.ones(len(self.scored), bool) if points is None else points
        faults = np.ones(len(self.local_row), bool) if faults is None else faults
        kept = np.zeros(len(self.clips), bool)
        kept[np.concatenate([self.first[rows], self.second[rows], self.scored[points]])] = True
        # one more entry, so that the row −1 of a fault has an index too
        asked, number = np.append(rows, False), np.append(np.cumsum(rows) - 1, -1)
        of_fault = kept[self.local_clips].all(1) & faults
        local = np.where(self.local_row < 0, of_fault, asked[self.local_row])
        row = number[self.local_row]
        of_choices = ("first", "second", "choice", "weight", "rater", "sided")
        of_local = ("clips", "first", "second", "choice", "weight", "rater")
        of_points = ("scored", "level", "point_rater")
        changed = {name: getattr(self, name)[rows] for name in of_choices}
        changed |= {f"local_{name}": getattr(self, f"local_{name}")[local] for name in of_local}
        changed |= {name: getattr(self, name)[points] for name in of_points}
        return replace(self, local_row=row[local], **changed)


def answers(weights: Iterable[float]) -> float:
    """Return the sum of weights, free of the rounding of shares.

    >>> answers([0.7, 0.3] * 20)
    20.0
    """
    return round(math.fsum(weights), 6)


def ballots(rows: Sequence[tuple[Any, Any, str, float]]) -> np.ndarray:
    """Return the ballot of each row (clip, other clip, rater, weight), (N,), numbers from 0.

    All rows of one pair and one rater are one ballot where a weight among them is not 1, in
    whatever order the clips are named: they are shares of the votes. Any other row is one by
    itself.

    >>> ballots([("a", "b", "", 0.7), ("b", "a", "", 0.3), ("c", "d", "", 1), ("c", "d", "", 1)])
    array([0, 0, 1, 2])
    """
    pairs: list[Hashable] = [(frozenset((a, b)), rater) for a, b, rater, _ in rows]
    shared = {pair for pair, row in zip(pairs, rows, strict=True) if row[3] != 1}
    names = [pair if pair in shared else n for n, pair in enumerate(pairs)]
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], int)


def aspect_of(judgments: Judgments, aspect: str = "") -> str:
    """Return the aspect to fit: the named one, else "overall", else the most frequent one.

    Raises ValueError with the nearest name for an aspect that no label has.
    """
    known = judgments.aspects
    if aspect:
        if aspect not in known:
            raise ValueError(
                f"no label of the aspect {aspect!r}: {nearest(aspect, known)}"
                if known
                else "expected labels, got none"
            )
        return aspect
    counts = Counter(one.aspect for one in judgments.all_choices())
    counts.update(one.aspect for one in judgments.points)
    if not counts:
        raise TooLittle(f"expected at least {LEAST} labels, got none")
    return OVERALL if OVERALL in counts else counts.most_common(1)[0][0]


def collect(
    judgments: Judgments,
    aspect: str,
    frames: Mapping[str, int],
    seconds: Mapping[str, float],
) -> Data:
    """Return the labels of an aspect on the clips that have features.

    `frames` and `seconds` hold the length of each such clip; labels of other clips are left
    out. Raises TooLittle where nothing can be learned, with the number that is needed.
    """
    known = list(frames)
    at = {clip: i for i, clip in enumerate(known)}
    named = [one for one in _choices(judgments, aspect) if {one.first, one.second} <= at.keys()]
    points = [one for one in _lone_points(judgments, aspect) if one.clip in at]
    check(named, points)
    prompts = prompts_of(judgments)
    faults = [one for one in judgments.faults if one.clip in at]
    local = _Local(at, frames, seconds)
    for row, one in enumerate(named):
        local.add_labels(row, one)
    marked = sum([local.add_fault(fault) for fault in faults])
    levels = _levels(points)
    sided = _sided(named, set(map(id, judgments.choices)))
    return Data(
        clips=known,
        prompts=[prompts.get(clip, "") for clip in known],
        first=np.array([at[one.first] for one in named], int),
        second=np.array([at[one.second] for one in named], int),
        choice=np.array([one.choice for one in named], int),
        weight=np.array([one.weight for one in named], float),
        rater=np.array([one.rater for one in named], object),
        sided=sided,
        scored=np.array([at[one.clip] for one in points], int),
        level=levels,
        point_rater=np.array([one.rater for one in points], object),
        levels=int(levels.max()) + 1 if len(levels) else 0,
        notes=_notes(named, sided, marked, len(faults) - marked, points),
        **local.arrays(),
    )


def prompts_of(judgments: Judgments) -> dict[str, str]:
    """Return the prompt of each clip for which a label names one.

    >>> named = [Choice("a", "b", 1, prompt="a dog"), Choice("a", "b", 1)]
    >>> prompts_of(Judgments(named))
    {'a': 'a dog', 'b': 'a dog'}
    """
    named = [(fault.clip, fault.prompt) for fault in judgments.faults]
    named += [(one.clip, one.prompt) for one in judgments.points]
    named += [(clip, c.prompt) for c in judgments.all_choices() for clip in (c.first, c.second)]
    return {clip: prompt for clip, prompt in named if prompt}


def check_labels(judgments: Judgments, aspect: str) -> None:
    """Raise TooLittle for an aspect of which nothing can be learned, before any clip is read."""
    check(_choices(judgments, aspect), _lone_points(judgments, aspect))


def _choices(judgments: Judgments, aspect: str) -> list[Choice]:
    return [one for one in judgments.all_choices() if one.aspect == aspect]


def _lone_points(judgments: Judgments, aspect: str) -> list[Points]:
    """Return the points for the ordinal regression.

    Points of several clips of one prompt by one rater are choices already, free of the rater's
    own scale; counted a second time they would weigh twice. Several points of one clip are no
    choice, so all of them count here.
    """
    of_aspect = [one for one in judgments.points if one.aspect == aspect]
    rated: dict[tuple[str, str], set[str]] = {}
    for one in of_aspect:
        rated.setdefault((one.prompt, one.rater), set()).add(one.clip)
    return [one for one in of_aspect if not one.prompt or len(rated[one.prompt, one.rater]) == 1]


def _sided(choices: Sequence[Choice], asked: set[int]) -> np.ndarray:
    """Return for which choices the order of the clips may say which was shown first, bool (N,).

    `asked` holds the ids of the choices that people made, beside those that rankings and points
    imply. Where all of the decided ones have the chosen clip at one side, as in files with columns
    for the chosen and the rejected clip, a preference for that side would explain every answer.
    """
    sided = np.array([id(one) in asked for one in choices], bool)
    sides = {one.choice for one, made in zip(choices, sided, strict=True) if made and one.choice}
    return sided if len(sides) == 2 else np.zeros(len(choices), bool)


def _levels(points: Sequence[Points]) -> np.ndarray:
    """Return points as levels from 0, (P,); points of a fine scale are sorted by quantiles."""
    shares = np.array([(one.points - one.low) / (one.high - one.low) for one in points])
    distinct = np.unique(shares)
    if len(distinct) > LEVELS:
        edges = np.unique(np.quantile(shares, np.linspace(0, 1, LEVELS + 1)[1:-1]))
        return np.unique(np.searchsorted(edges, shares), return_inverse=True)[1]
    return np.searchsorted(distinct, shares)


def check(choices: Sequence[Choice], points: Sequence[Points]) -> None:
    """Raise TooLittle for labels from which nothing can be learned, with the cure.

    A choice counts as many times as its weight, the answers that it stands for.
    """
    decided = answers(one.weight for one in choices if one.choice)
    tied = answers(one.weight for one in choices if not one.choice)
    clips = {clip for one in choices for clip in (one.first, one.second)}
    clips |= {one.clip for one in points}
    if choices and not decided and not points:
        raise TooLittle(
            f"expected choices of one clip over another, got {tied:g} ties and nothing else: "
            "ask again with clips that differ more, or by a finer question"
        )
    if len(clips) == 1:
        raise TooLittle(
            f"expected labels of several clips, got all of one, {next(iter(clips))}: "
            "nothing can be compared"
        )
    if decided < LEAST and len(points) < LEAST:
        ties = f" and {tied:g} ties" if tied else ""
        given = f", {len(points)} points" if points else ""
        raise TooLittle(
            f"expected at least {LEAST} choices that are no ties, or {LEAST} points; got "
            f"{decided:g} choices{ties}{given}: collect "
            f"{math.ceil(LEAST - max(decided, len(points)))} more (a useful fit needs about 200)"
        )
    if points and not choices and len({one.points for one in points}) == 1:
        raise TooLittle(f"expected points that differ, got {points[0].points} for every clip")


def contradictions(choices: Iterable[Choice]) -> tuple[int, int]:
    """Return how many pairs were decided both ways, and how many were decided more than once.

    Shares of the votes on one pair are one decision, that of the larger share. Ties are left out.

    >>> rows = [("a", "b", 1), ("b", "a", 1), ("c", "d", 1), ("c", "d", 1), ("e", "f", 1)]
    >>> contradictions([Choice(*row) for row in rows])
    (1, 2)
    >>> contradictions([Choice("a", "b", 1, weight=0.7), Choice("a", "b", -1, weight=0.3)])
    (0, 0)
    """
    given = list(choices)
    ballot = ballots([(one.first, one.second, one.rater, one.weight) for one in given])
    total, pairs = np.zeros(len(given)), dict[int, frozenset[str]]()
    for number, one in zip(ballot.tolist(), given, strict=True):
        pairs[number] = frozenset((one.first, one.second))
        total[number] += one.weight * one.choice * (1 if one.first < one.second else -1)
    sides: dict[frozenset[str], list[float]] = {}
    for number, pair in pairs.items():
        if abs(total[number]) > 1e-9:
            sides.setdefault(pair, []).append(float(np.sign(total[number])))
    repeated = [found for found in sides.values() if len(found) > 1]
    return sum(len(set(found)) > 1 for found in repeated), len(repeated)


def _notes(
    choices: Sequence[Choice],
    sided: np.ndarray,
    marked: int,
    unmarked: int,
    points: Sequence[Points],
) -> list[str]:
    """Return sentences for the card; `unmarked` faults could not be compared within their clips."""
    both, repeated = contradictions(choices)
    found = []
    if repeated:
        found.append(
            f"pairs that were decided more than once: {repeated}, of which {both} were decided "
            f"both ways ({100 * both / repeated:.0f} %); no reward agrees with both answers"
        )
    if choices and not sided.any():
        found.append(
            "no label says on which side a clip was shown: the labels are rankings or points, or "
            "all of them name the chosen clip at one side. So no preference for a side was fitted"
        )
    again = Counter((one.clip, one.rater, one.prompt) for one in points if one.rater)
    if more := sum(count > 1 for count in again.values()):
        rated = counted(more, "clips that one rater rated several times")
        found.append(f"{rated}; all of these points count")
    if marked:
        found.append(f"{counted(marked, 'marked faults')} compared with the rest of the clip")
    if unmarked:
        whole = counted(unmarked, "marked faults of a whole clip")
        found.append(f"{whole} left out: the clip has no other part to compare with")
    if points:
        found.append(f"{counted(len(points), 'points')} used by ordinal regression")
    return found


class _Local:
    """Comparisons of parts of clips, from labels of segments and from marked faults."""

    def __init__(
        self, at: Mapping[str, int], frames: Mapping[str, int], seconds: Mapping[str, float]
    ) -> None:
        self.at, self.frames = at, frames
        self.seconds, self.longest = seconds, max(frames.values(), default=0)
        self.rows: list[tuple[tuple[int, int], np.ndarray, np.ndarray, int, float, str, int]] = []

    def add_labels(self, row: int, one: Choice) -> None:
        """Add a comparison for each label; all labels of a choice together count once."""
        for n, label in enumerate(one.labels):
            ends = (n / len(one.labels), (n + 1) / len(one.labels))
            sides = [self._inside(clip, *ends) for clip in (one.first, one.second)]
            if all(side.any() for side in sides):
                pair = (self.at[one.first], self.at[one.second])
                weight = one.weight / len(one.labels)
                self._add(pair, sides[0], sides[1], label, weight, one.rater, row)

    def add_fault(self, fault: Fault) -> bool:
        """Add the comparison of the frames outside a fault with those inside it.

        Return whether there are both.
        """
        length, frame = self.seconds[fault.clip], 1 / max(self.frames[fault.clip], 1)
        # a fault at one moment covers the frame of that moment, and the last one at the very end
        begin = min(fault.begin / length, 1 - frame)
        inside = self._inside(fault.clip, begin, max(fault.end / length, begin + frame))
        outside = self._inside(fault.clip, 0, 1) & ~inside
        if both := bool(inside.any() and outside.any()):
            clip = self.at[fault.clip]
            self._add((clip, clip), outside, inside, 1, 1.0, fault.rater, -1)
        return both

    def _add(
        self,
        pair: tuple[int, int],
        first: np.ndarray,
        second: np.ndarray,
        choice: int,
        weight: float,
        rater: str,
        row: int,
    ) -> None:
        sides = [side / side.sum() for side in (first, second)]
        self.rows.append((pair, sides[0], sides[1], choice, weight, rater, row))

    def _inside(self, clip: str, begin: float, end: float) -> np.ndarray:
        """Return the frames whose middle lies in a part of the clip, bool (longest,)."""
        frames = self.frames[clip]
        middle = (np.arange(self.longest) + 0.5) / frames
        return (middle >= begin) & (middle < end) & (np.arange(self.longest) < frames)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the fields of `Data` that hold the local comparisons."""
        wide = (len(self.rows), self.longest)
        clips, first, second, choice, weight, rater, row = (
            zip(*self.rows, strict=True) if self.rows else ([],) * 7
        )
        return {
            "local_clips": np.array(clips, int).reshape(-1, 2),
            "local_first": np.array(first, float).reshape(wide),
            "local_second": np.array(second, float).reshape(wide),
            "local_choice": np.array(choice, int),
            "local_weight": np.array(weight, float),
            "local_rater": np.array(rater, object),
            "local_row": np.array(row, int),
        }
