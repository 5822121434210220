"""Count what a file of judgments holds: kinds, aspects, raters, ties and contradictions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from vidrl.feedback.answers import joined, pairs_of
from vidrl.feedback.judgments import Choice, Judgments
from vidrl.lookup.grammar import counted


def summary(judgments: Judgments) -> dict[str, Any]:
    """Return the counts of judgments, for JSON and for `text`.

    `ties`, `contradictions` and `cycles` are those of the choices. A contradiction is a pair
    of one prompt and aspect with choices of both clips: `between` raters, or `within` one
    rater. A cycle is three clips of which, by majority, each is better than the next.
    """
    choices = judgments.choices
    return {
        "choices": len(choices),
        "points": len(judgments.points),
        "rankings": len(judgments.rankings),
        "faults": len(judgments.faults),
        "clips": len(judgments.clips),
        "missing_clips": sum(not Path(clip).exists() for clip in judgments.clips),
        "prompts": len({one.prompt for one in _all(judgments)} - {""}),
        "aspects": {aspect: _of_aspect(judgments, aspect) for aspect in judgments.aspects},
        "raters": dict(Counter(one.rater or "(no name)" for one in _all(judgments))),
        "ties": sum(one.choice == 0 for one in choices),
        "both_bad": sum(one.both_bad for one in choices),
        "labelled": sum(bool(one.labels) for one in choices),
        "contradictions": {
            "between": sum(_opposed(pair) for pair in pairs_of(choices)),
            "within": sum(_opposed(pair) for pair in _named(pairs_of(choices, keep_raters=True))),
        },
        "cycles": len(cycles(choices)),
        "notes": list(judgments.notes),
    }


def text(found: dict[str, Any]) -> str:
    """Return the counts as lines."""
    kinds = ("choices", "points", "rankings", "faults")
    held = ", ".join(counted(found[kind], kind) for kind in kinds if found[kind]) or "nothing"
    opposed = found["contradictions"]
    aspects = {name: sum(counts.values()) for name, counts in found["aspects"].items()}
    lines = [
        f"{held}; {counted(found['clips'], 'clips')} ({found['missing_clips']} not found), "
        f"{counted(found['prompts'], 'prompts')}",
        f"aspects: {_counts(aspects)}",
        f"raters: {_counts(found['raters'])}",
    ]
    if found["choices"]:
        lines += [
            f"ties: {found['ties']} ({found['both_bad']} of two bad clips); with labels of "
            f"segments: {found['labelled']}",
            f"contradictions: {counted(opposed['between'], 'pairs')} with choices of both clips "
            f"({opposed['within']} of one rater); {counted(found['cycles'], 'cycles')} of three "
            "clips",
        ]
    return "\n".join([*lines, *(f"note: {note}" for note in found["notes"])])


def cycles(choices: Iterable[Choice]) -> list[tuple[str, str, str]]:
    """Return the triples of clips of one prompt and aspect of which each beats the next.

    >>> votes = [Choice("a", "b", 1), Choice("b", "c", 1), Choice("c", "a", 1)]
    >>> cycles(votes)
    [('a', 'b', 'c')]
    """
    beats: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for one in joined(choices):
        if one.choice:
            won, lost = (one.first, one.second)[:: one.choice]
            beats.setdefault((one.prompt, one.aspect), set()).add((won, lost))
    return [triple for pairs in beats.values() for triple in _cycles(pairs)]


def _cycles(pairs: set[tuple[str, str]]) -> list[tuple[str, str, str]]:
    """Return the cycles of three clips; each is named once."""
    after: dict[str, set[str]] = {}
    for won, lost in pairs:
        after.setdefault(won, set()).add(lost)
    return sorted(
        (a, b, c)
        for a, b in pairs
        for c in after.get(b, ())
        if a in after.get(c, ()) and a == min(a, b, c)
    )


def _all(judgments: Judgments) -> Sequence[Any]:
    return [*judgments.choices, *judgments.points, *judgments.rankings, *judgments.faults]


def _of_aspect(judgments: Judgments, aspect: str) -> dict[str, int]:
    """Return how many judgments of each kind an aspect has."""
    kinds = ("choices", "points", "rankings")
    return {k: sum(one.aspect == aspect for one in getattr(judgments, k)) for k in kinds}


def _named(pairs: Iterable[Sequence[Choice]]) -> list[Sequence[Choice]]:
    """Return the lists of choices whose rater has a name."""
    return [pair for pair in pairs if pair[0].rater]


def _opposed(pair: Sequence[Choice]) -> bool:
    """Return whether answers of a pair choose both clips."""
    return any(a.choice * b.choice == -1 for a, b in combinations(pair, 2))


def _counts(counts: dict[str, int], most: int = 12) -> str:
    """Return names with their counts, the largest first."""
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    more = [f"and {len(ordered) - most} more"] if len(ordered) > most else []
    return ", ".join([f"{name} {count}" for name, count in ordered[:most]] + more) or "none"
