"""Join several answers on one pair of clips into one, and find the main aspect."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from vidrl.feedback.judgments import OVERALL, Choice, Points

# Aspects that a file means as the whole judgment, in small letters.
MAIN = (OVERALL, "preference", "overall_rating")


def majority(tallies: Mapping[int, float]) -> int:
    """Return the answer with the largest tally; where several lead, the sign of the sum of all.

    `tallies` maps 1, −1 and 0 (a tie) to their number, or to the sum of their weights. Two answers
    for a clip against one for the other and one tie give the clip; one against one gives a tie.

    >>> majority({1: 2, -1: 1}), majority({1: 1, -1: 1}), majority({1: 1, 0: 1}), majority({0: 1})
    (1, 0, 1, 0)
    """
    most = max(tallies.values())
    leading = [answer for answer, count in tallies.items() if count == most]
    if len(leading) == 1:
        return leading[0]
    total = tallies.get(1, 0) - tallies.get(-1, 0)
    return (total > 0) - (total < 0)


def joined(choices: Iterable[Choice], keep_raters: bool = False) -> list[Choice]:
    """Return one choice for each pair, prompt and aspect: the majority, by weight.

    The clips are in the order of the pair's first choice. Labels of segments are joined in
    the same way, segment by segment, if all that exist are equally many. With `keep_raters`
    each rater's answers are joined by themselves. The weight of a joined choice is 1.

    >>> votes = [Choice("a", "b", 1), Choice("b", "a", -1), Choice("a", "b", -1)]
    >>> [(one.first, one.second, one.choice) for one in joined(votes)]
    [('a', 'b', 1)]
    """
    return [_one(pair, keep_raters) for pair in pairs_of(choices, keep_raters)]


def pairs_of(choices: Iterable[Choice], keep_raters: bool = False) -> list[list[Choice]]:
    """Return the choices of each pair, prompt and aspect, all with the clips in one order.

    The order is that of the pair's first choice. With `keep_raters` each rater's choices of
    a pair are a list of their own.
    """
    groups: dict[tuple[object, ...], list[Choice]] = {}
    for one in choices:
        clips = frozenset((one.first, one.second))
        key = (clips, one.prompt, one.aspect, one.rater if keep_raters else "")
        pair = groups.setdefault(key, [])
        pair.append(one if not pair or one.first == pair[0].first else one.flipped())
    return list(groups.values())


def tally(answers: Iterable[tuple[int, float]]) -> dict[int, float]:
    """Return the sum of the weights of each answer.

    >>> tally([(1, 0.5), (-1, 1.0), (1, 0.25)])
    {1: 0.75, -1: 1.0}
    """
    found: dict[int, float] = {}
    for answer, weight in answers:
        found[answer] = found.get(answer, 0.0) + weight
    return found


def _one(pair: Sequence[Choice], keep_rater: bool) -> Choice:
    """Return the choice of all answers on one pair."""
    answer = majority(tally((one.choice, one.weight) for one in pair))
    ties = [one.both_bad for one in pair if one.choice == 0]
    return replace(
        pair[0],
        choice=answer,
        labels=_labels(pair),
        both_bad=answer == 0 and bool(ties) and all(ties),
        weight=1.0,
        rater=pair[0].rater if keep_rater else "",
    )


def _labels(pair: Sequence[Choice]) -> tuple[int, ...]:
    """Return the label of each segment by majority; () if the numbers of labels differ."""
    given = [one for one in pair if one.labels]
    if not given or len({len(one.labels) for one in given}) > 1:
        return ()
    segments = range(len(given[0].labels))
    return tuple(majority(tally((one.labels[s], one.weight) for one in given)) for s in segments)


def mean_points(points: Iterable[Points]) -> list[Points]:
    """Return one entry for each clip, prompt, aspect and scale: the mean over raters."""
    groups: dict[tuple[object, ...], list[Points]] = {}
    for one in points:
        groups.setdefault((one.clip, one.prompt, one.aspect, one.low, one.high), []).append(one)
    return [
        replace(group[0], points=sum(one.points for one in group) / len(group), rater="")
        for group in groups.values()
    ]


def main_aspect(aspects: Sequence[str]) -> str | None:
    """Return the aspect that stands for the whole judgment, or None if that is not clear.

    It is the only aspect, or the one that is called overall, preference or overall_rating.

    >>> main_aspect(["VQ", "Overall"]), main_aspect(["VQ"]), main_aspect(["VQ", "MQ"])
    ('Overall', 'VQ', None)
    """
    if len(aspects) == 1:
        return aspects[0]
    return next((one for name in MAIN for one in aspects if one.lower() == name), None)
