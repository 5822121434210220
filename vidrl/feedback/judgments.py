"""What people said of clips: choices between two, points of one, rankings of several, faults.

The page of labels, the readers of files, the fit of a reward and `vidrl bench` share these types.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

OVERALL = "overall"  # the aspect of a judgment that names none


@dataclass(frozen=True)
class Choice:
    """One answer to "which clip is better": 1 for the first, −1 for the second, 0 for a tie.

    `both_bad` marks a tie of two clips that the rater finds bad. `labels` holds a number for each
    segment: 1 if the first clip is better there, −1 if it is worse, 0 if neither is. `weight` is
    the number of answers that this one stands for, as in files that hold counts of answers.
    Raises ValueError for a choice, label or weight outside these values, or for two equal clips.

    >>> Choice("a.mp4", "b.mp4", 1).flipped().choice
    -1
    """

    first: str
    second: str
    choice: int
    aspect: str = OVERALL
    prompt: str = ""
    rater: str = ""
    labels: tuple[int, ...] = ()
    both_bad: bool = False
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.choice not in (-1, 0, 1):
            raise ValueError(f"expected a choice of 1, -1 or 0, got {self.choice}")
        if self.first == self.second:
            raise ValueError(f"expected two different clips, got {self.first} twice")
        if not set(self.labels) <= {-1, 0, 1}:
            raise ValueError(f"expected labels of 1, -1 or 0, got {list(self.labels)}")
        if self.both_bad and self.choice:
            raise ValueError("expected both_bad with a tie only, got it with a clip chosen")
        if not self.weight > 0:
            raise ValueError(f"expected a weight above 0, got {self.weight}")

    def flipped(self) -> Choice:
        """Return the same answer with the two clips exchanged."""
        labels = tuple(-label for label in self.labels)
        return replace(
            self, first=self.second, second=self.first, choice=-self.choice, labels=labels
        )


@dataclass(frozen=True)
class Points:
    """The points that a rater gave one clip, on a scale from `low` to `high`.

    Raises ValueError for points outside the scale, or a scale without two ends.
    """

    clip: str
    points: float
    low: float
    high: float
    aspect: str = OVERALL
    prompt: str = ""
    rater: str = ""

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"expected a scale with low < high, got {self.low} to {self.high}")
        if not self.low <= self.points <= self.high:
            raise ValueError(
                f"expected points from {self.low} to {self.high} of {self.clip}, got {self.points}"
            )


@dataclass(frozen=True)
class Ranking:
    """Clips of one prompt in a rater's order: `places[i]` is the place of `clips[i]`, 1 the best.

    Two clips of one place tie. Raises ValueError for fewer than two clips, a clip that is
    named twice, or another number of places.
    """

    clips: tuple[str, ...]
    places: tuple[int, ...]
    aspect: str = OVERALL
    prompt: str = ""
    rater: str = ""

    def __post_init__(self) -> None:
        if len(self.clips) < 2 or len(set(self.clips)) != len(self.clips):
            raise ValueError(f"expected at least two different clips, got {list(self.clips)}")
        if len(self.places) != len(self.clips):
            raise ValueError(f"expected {len(self.clips)} places, got {len(self.places)}")


@dataclass(frozen=True)
class Fault:
    """A span of one clip, in seconds, that a rater marked as wrong, with tags that say why."""

    clip: str
    begin: float
    end: float
    tags: tuple[str, ...] = ()
    prompt: str = ""
    rater: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.begin <= self.end:
            raise ValueError(f"expected 0 <= begin <= end in seconds, got {self.begin}, {self.end}")


@dataclass(frozen=True)
class Judgments:
    """All that a store or a file holds; `notes` says what was left out of it, and why."""

    choices: list[Choice] = field(default_factory=list)
    points: list[Points] = field(default_factory=list)
    rankings: list[Ranking] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def clips(self) -> list[str]:
        """The different clips, in the order in which they are named."""
        named = [clip for choice in self.choices for clip in (choice.first, choice.second)]
        named += [one.clip for one in self.points]
        named += [clip for ranking in self.rankings for clip in ranking.clips]
        return list(dict.fromkeys(named + [fault.clip for fault in self.faults]))

    @property
    def aspects(self) -> list[str]:
        """The different aspects, in the order in which they are named."""
        named = [one.aspect for one in self.choices] + [one.aspect for one in self.points]
        return list(dict.fromkeys(named + [one.aspect for one in self.rankings]))

    def all_choices(self) -> list[Choice]:
        """Return the choices, and those that the rankings and the points of one prompt imply."""
        implied = [choice for ranking in self.rankings for choice in choices_of_ranking(ranking)]
        return [*self.choices, *implied, *choices_of_points(self.points)]


def choices_of_ranking(ranking: Ranking) -> list[Choice]:
    """Return the n(n − 1)/2 choices that a ranking of n clips implies.

    >>> found = choices_of_ranking(Ranking(("a", "b", "c"), (1, 2, 2)))
    >>> [(one.first, one.second, one.choice) for one in found]
    [('a', 'b', 1), ('a', 'c', 1), ('b', 'c', 0)]
    """
    placed = zip(ranking.clips, ranking.places, strict=True)
    return [
        Choice(a, b, (y > x) - (y < x), ranking.aspect, ranking.prompt, ranking.rater)
        for (a, x), (b, y) in combinations(placed, 2)
    ]


def choices_of_points(points: Iterable[Points]) -> list[Choice]:
    """Return the choices that points imply, between clips of one prompt, aspect and rater.

    Points without a prompt imply none, because clips of different prompts are not comparable.

    >>> given = [Points(clip, n, 1, 5, prompt="a dog") for clip, n in [("a", 4), ("b", 2)]]
    >>> [one.choice for one in choices_of_points(given)]
    [1]
    """
    groups: dict[tuple[str, str, str], list[Points]] = {}
    for one in points:
        if one.prompt:
            groups.setdefault((one.prompt, one.aspect, one.rater), []).append(one)
    return [
        Choice(a.clip, b.clip, (a.points > b.points) - (a.points < b.points), aspect, prompt, rater)
        for (prompt, aspect, rater), group in groups.items()
        for a, b in combinations(group, 2)
        if a.clip != b.clip
    ]


def segment_labels(
    first: Sequence[Fault], second: Sequence[Fault], spans: Sequence[tuple[float, float]]
) -> tuple[int, ...]:
    """Return a label for each span of seconds: 1 if only the second clip has a fault there.

    The label is −1 if only the first clip has a fault in the span, and 0 if both or neither
    have one: the labels of DenseDPO (arXiv 2506.03517), from faults that a rater marked.

    >>> wrong = [Fault("b", 0.6, 0.8)]
    >>> segment_labels([], wrong, [(0.0, 0.5), (0.5, 1.0)])
    (0, 1)
    """

    def faulty(faults: Sequence[Fault], begin: float, end: float) -> bool:
        return any(fault.begin < end and fault.end >= begin for fault in faults)

    return tuple(int(faulty(second, *span)) - int(faulty(first, *span)) for span in spans)
