"""Reduce judgments to what a format can hold, and count what it cannot.

`vidrl -> format -> vidrl` gives the reduced judgments back; the losses are printed, and
`vidrl pairs convert --strict` refuses them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from vidrl.data.prompt import Prompt, of
from vidrl.feedback.answers import joined, main_aspect, mean_points, pairs_of, tally
from vidrl.feedback.formats.base import Format, Judgment
from vidrl.feedback.judgments import (
    OVERALL,
    Choice,
    Judgments,
    choices_of_points,
    choices_of_ranking,
)
from vidrl.lookup.advice import nearest
from vidrl.lookup.grammar import counted

One = TypeVar("One", bound=Judgment)
KINDS = ("choices", "points", "rankings", "faults")


def reduced(
    judgments: Judgments, form: Format | type[Format], aspect: str = ""
) -> tuple[Judgments, list[str]]:
    """Return what a format can hold of judgments, and one line for each kind of loss.

    `aspect` keeps one aspect alone; a format without aspects gets the main one. Points and
    rankings become the choices that they imply where the format has choices only, and
    answers on one pair are joined where it has no raters. Raises ValueError for an unknown
    aspect, and if the main aspect is not clear.

    >>> from vidrl.feedback.formats.trl import Trl
    >>> given = [Choice("a", "b", 1, prompt="x"), Choice("c", "d", 0, prompt="x")]
    >>> kept, lost = reduced(Judgments(given), Trl)
    >>> len(kept.choices), lost
    (1, ['1 tie is left out'])
    """
    lost: list[str] = []
    found = _of_aspect(judgments, form, aspect, lost)
    found = _implied(found, form.holds, lost)
    found = _scaled(found, form.scales, lost)
    found = _joined(found, form.holds, lost)
    choices = _choices(found.choices, form.holds, lost)
    found = replace(found, choices=choices, notes=judgments.notes)
    return _references(found, form.references, lost), lost


def _of_aspect(
    judgments: Judgments, form: Format | type[Format], aspect: str, lost: list[str]
) -> Judgments:
    """Keep the named aspect, or the main one for a format without aspects."""
    aspects = judgments.aspects
    if aspect and aspect not in aspects:
        raise ValueError(
            f"expected an aspect of the file, got {aspect!r}: {nearest(aspect, aspects)}"
        )
    single = not ({"aspects"} & form.holds or form.scales)
    if single and not aspect and len(aspects) > 1:
        aspect = main_aspect(aspects) or ""
        if not aspect:
            raise ValueError(
                f"expected one aspect for a format without aspects, got {', '.join(aspects)}: name "
                "one by --aspect"
            )
    kept = {kind: _only(getattr(judgments, kind), aspect) for kind in KINDS[:3]}
    others = sum(len(getattr(judgments, kind)) - len(some) for kind, some in kept.items())
    _count(lost, others, f"judgments of other aspects than {aspect} are left out")
    if single:
        kept = {k: [_overall(one) for one in some] for k, some in kept.items()}
    if form.scales:  # its rankings have no aspect
        whole = _only(kept["rankings"], OVERALL)
        _count(lost, len(kept["rankings"]) - len(whole), "rankings of an aspect are left out")
        kept["rankings"] = whole
    return replace(judgments, **kept)


def _overall(one: Any) -> Any:
    return one if one.aspect == OVERALL else replace(one, aspect=OVERALL)


def _only(some: Sequence[Any], aspect: str) -> list[Any]:
    return [one for one in some if not aspect or one.aspect == aspect]


def _implied(found: Judgments, holds: Collection[str], lost: list[str]) -> Judgments:
    """Replace points and rankings by choices, or leave out the kinds that are not held."""
    choices = list(found.choices)
    left: dict[str, Any] = {}
    if "rankings" not in holds and found.rankings and "choices" in holds:
        more = [choice for ranking in found.rankings for choice in choices_of_ranking(ranking)]
        read = counted(len(found.rankings), "rankings of clips are read as")
        lost.append(f"{read} {counted(len(more), 'choices')}")
        choices, left["rankings"] = choices + more, []
    if "points" not in holds and found.points and "choices" in holds:
        more = choices_of_points(found.points)
        read = counted(len(found.points), "points of clips are read as")
        lost.append(f"{read} {counted(len(more), 'choices')} between clips of one prompt")
        choices, left["points"] = choices + more, []
    found = replace(found, choices=choices, **left)
    for kind in KINDS:
        if kind not in holds:
            _count(lost, len(getattr(found, kind)), f"{kind} are left out")
            found = replace(found, **{kind: []})
    return found


def _scaled(
    found: Judgments, scales: Mapping[str, tuple[float, float]], lost: list[str]
) -> Judgments:
    """Leave out points of aspects or scales that a format has no column for."""
    if not scales:
        return found
    kept = [one for one in found.points if scales.get(one.aspect) == (one.low, one.high)]
    _count(lost, len(found.points) - len(kept), "points of other aspects or scales are left out")
    return replace(found, points=kept)


def _joined(found: Judgments, holds: Collection[str], lost: list[str]) -> Judgments:
    """Join the answers on one pair where raters or weights are not held."""
    raters = "raters" in holds
    if not raters:
        names = {one.rater for kind in KINDS for one in getattr(found, kind)} - {""}
        _count(lost, len(names), "names of raters are left out")
    choices, points = found.choices, found.points
    weighted = any(one.weight != 1 for one in choices)
    if "shares" in holds:
        choices = _shares(choices, lost)
    elif not raters or (weighted and "weights" not in holds):
        choices = joined(choices, keep_raters=raters)
        _count(lost, len(found.choices) - len(choices), "answers are joined with others on a pair")
    if "weights" not in holds and "shares" not in holds and weighted:
        lost.append("the weights of choices are left out")
    if not raters:
        points = mean_points(points)
        _count(lost, len(found.points) - len(points), "points are joined with others of a clip")
    rankings = found.rankings if raters else [replace(one, rater="") for one in found.rankings]
    return replace(found, choices=choices, points=points, rankings=rankings)


def _shares(choices: Sequence[Choice], lost: list[str]) -> list[Choice]:
    """Return two choices for each pair and aspect, whose weights are the shares of the answers."""
    pairs = pairs_of(choices)
    found = [share for pair in pairs for share in _two(pair)]
    several = len(choices) - len(pairs)
    _count(lost, several, "answers are joined with others on a pair, to shares of the answers")
    _count(lost, sum(c.choice == 0 for c in choices), "ties count half for each clip")
    _count(lost, sum(bool(c.labels) for c in choices), "choices lose the labels of their segments")
    return found


def _two(pair: Sequence[Choice]) -> list[Choice]:
    """Return the choices of both clips of a pair with their shares; none for a share of 0."""
    votes = tally((one.choice, one.weight) for one in pair)
    halves = {side: votes.get(side, 0.0) + votes.get(0, 0.0) / 2 for side in (1, -1)}
    total = sum(halves.values())
    plain = replace(pair[0], labels=(), both_bad=False, rater="")
    return [
        replace(plain, choice=side, weight=votes / total) for side, votes in halves.items() if votes
    ]


def _choices(choices: Sequence[Choice], holds: Collection[str], lost: list[str]) -> list[Choice]:
    """Return choices without what is not held: ties, words on bad clips, labels."""
    kept = list(choices)
    if "no_prompt" not in holds:
        kept = [one for one in kept if one.prompt.strip()]
        _count(lost, len(choices) - len(kept), "choices without a prompt are left out")
    if "shares" in holds:
        return kept
    if "ties" not in holds:
        _count(lost, sum(one.choice == 0 for one in kept), "ties are left out")
        kept = [one for one in kept if one.choice]
    if "sides" not in holds:
        kept = [one.flipped() if one.choice == -1 else one for one in kept]
    if "both_bad" not in holds:
        _count(
            lost, sum(one.both_bad for one in kept), "ties of two bad clips are written like others"
        )
        kept = [replace(one, both_bad=False) if one.both_bad else one for one in kept]
    if "labels" not in holds:
        labelled = sum(bool(one.labels) for one in kept)
        _count(lost, labelled, "choices lose the labels of their segments")
        kept = [replace(one, labels=()) if one.labels else one for one in kept]
    if "weights" in holds:
        return kept
    return [one if one.weight == 1 else replace(one, weight=1.0) for one in kept]


def _references(found: Judgments, held: frozenset[str] | None, lost: list[str]) -> Judgments:
    """Leave out references of prompts that a format has no place for."""
    if held is None:
        return found
    names = {
        name
        for kind in KINDS
        for one in getattr(found, kind)
        for name in of(one.prompt)
        if name not in held
    }
    _count(lost, len(names), f"references are left out ({', '.join(sorted(names))})")

    def plain(one: One) -> One:
        if not of(one.prompt):
            return one
        kept = {name: value for name, value in of(one.prompt).items() if name in held}
        return replace(one, prompt=Prompt(str(one.prompt), kept) if kept else str(one.prompt))

    return replace(found, **{kind: [plain(x) for x in getattr(found, kind)] for kind in KINDS})


def _count(lost: list[str], number: int, what: str) -> None:
    """Add a line on a loss, if there is one."""
    if number:
        lost.append(counted(number, what))
