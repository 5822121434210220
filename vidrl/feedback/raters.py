"""Report on raters and their answers: agreement, sides, consistency, wins, power, pace and drift.

`run` reads a store of `vidrl label` or a file of judgments, and writes raters.json, raters.md and
an HTML page.
What cannot be known is NaN in Python and null in JSON, with its reason beside it.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vidrl.feedback import files, raters_page
from vidrl.feedback.answers import joined, pairs_of
from vidrl.feedback.judgments import OVERALL, Choice, Judgments, Points
from vidrl.feedback.pace import Timed, pace
from vidrl.feedback.reliability import Agreement, cohen, fleiss, krippendorff
from vidrl.feedback.store_tables import is_store
from vidrl.inference.means import Interval
from vidrl.inference.power import prompts_needed
from vidrl.inference.proportions import proportion_interval
from vidrl.lookup.grammar import counted
from vidrl.lookup.passwords import hidden
from vidrl.rewards._files.atomic_file import write_bytes

Row = dict[str, Any]


@dataclass(frozen=True)
class Vote:
    """A choice as it was made: the first clip on the left, why it was asked, how long it took."""

    choice: Choice
    reason: str = "random"
    expected: int | None = None  # the known answer of a gold pair
    seconds: float = math.nan
    at: str = ""  # UTC, ISO 8601


class Evidence(NamedTuple):
    """What a store or a file says of its raters."""

    votes: list[Vote]
    judgments: Judgments
    sides: bool  # whether the first clip of a vote was on the left
    answers: list[Timed]


def run(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    html: str | os.PathLike[str] | None = None,
) -> Row:
    """Return the report on a store or a file.

    Writes raters.json and raters.md to the folder `out`, and one HTML page to the file `html`.
    """
    found = {"source": hidden(os.fspath(path))} | report(*evidence(path))
    if out is not None:
        folder = Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False)
        write_bytes(folder / "raters.json", f"{text}\n".encode())
        write_bytes(folder / "raters.md", raters_page.page(found).encode())
    if html is not None:
        write_bytes(Path(html), raters_page.html(found).encode())
    return found


def evidence(path: str | os.PathLike[str]) -> Evidence:
    """Return what a store or a file says of its raters."""
    if not is_store(path):
        judgments = files.read(path).judgments
        votes = [Vote(choice) for choice in judgments.choices]
        return Evidence(votes, judgments, False, answered(votes, judgments))
    from vidrl.feedback.store import Store

    store = Store(path)
    try:
        rows, judgments = store.answers(), store.judgments()
        pairs = store.questionnaire.mode == "pairs"
    finally:
        store.close()
    answers = [one for one in rows if not one.skipped]
    judgments = replace(judgments, notes=_store_notes(rows))
    by_answer = {one.number: _votes(one) if pairs else [] for one in answers}
    timed = [
        Timed(one.rater, one.seconds or math.nan, one.at, _main_choice(by_answer[one.number]))
        for one in answers
    ]
    return Evidence([vote for some in by_answer.values() for vote in some], judgments, True, timed)


def _store_notes(rows: Sequence[Any]) -> list[str]:
    """Say which answers of a store have no part in some of the numbers."""
    checks = sum(one.reason in ("repeat", "gold") and not one.skipped for one in rows)
    skips = sum(one.skipped for one in rows)
    counts = {"answers to repeated and gold pairs do not count for agreement and wins": checks}
    counts |= {"skipped items have no answer": skips}
    return [counted(count, what) for what, count in counts.items() if count]


def _votes(answer: Any) -> list[Vote]:
    """Return the choice of each question that an answer to a pair has."""
    from vidrl.feedback.store import GIVEN

    first, second = (clip.path for clip in answer.shown)
    about = (answer.prompt, answer.rater)
    known = (answer.reason, GIVEN.get(answer.expected), answer.seconds or math.nan, answer.at)
    return [
        Vote(Choice(first, second, GIVEN[value], name, *about), *known)
        for name, value in answer.given.items()
    ]


def _main_choice(votes: Sequence[Vote]) -> int | None:
    """Return the choice of the aspect overall, else of the last one; None without a choice."""
    given = {vote.choice.aspect: vote.choice.choice for vote in votes}
    return given.get(OVERALL, next(reversed(given.values()), None))


def report(
    votes: Sequence[Vote],
    judgments: Judgments,
    sides: bool = False,
    answers: Sequence[Timed] | None = None,
) -> Row:
    """Return the numbers of the report, ready for JSON.

    `sides` is whether the first clip of a vote was on the left. The `answers` are those of which
    the pace is measured, by default what `answered` finds.
    """
    timed = answered(votes, judgments) if answers is None else answers
    first = first_answers(votes)
    implied = replace(judgments, choices=[]).all_choices()
    choices = [vote.choice for vote in first] + implied
    aspects = list(dict.fromkeys(one.aspect for one in choices))
    overall = _main(votes)
    return {
        "raters": dict(Counter(vote.choice.rater for vote in votes) or _raters(judgments)),
        "votes": len(votes),
        "ties": sum(vote.choice.choice == 0 for vote in votes),
        "points": len(judgments.points),
        "rankings": len(judgments.rankings),
        "notes": list(judgments.notes),
        "agreement": [_agreement(aspect, choices) for aspect in aspects]
        + [_points_agreement(aspect, judgments.points) for aspect in _aspects(judgments.points)],
        "sides_known": sides,
        "sides": [_side(name, some) for name, some in by_rater(votes).items()],
        "repeats": [_repeats(name, some) for name, some in by_rater(votes).items()],
        "gold": [_gold(name, some) for name, some in by_rater(overall).items()],
        "wins": [row for aspect in aspects for row in wins(aspect, _drawn(first, implied))],
        "pace": [
            pace(name, [one for one in timed if one.rater == name])
            for name in dict.fromkeys(one.rater for one in timed)
            if name
        ],
    }


# --- who answered what


def first_answers(votes: Iterable[Vote]) -> list[Vote]:
    """Return each rater's first answer on a pair and aspect, without gold pairs and repeats.

    Answers without a rater's name are those of different raters.
    """
    seen: set[tuple[Any, ...]] = set()
    kept = []
    for number, vote in enumerate(votes):
        one = vote.choice
        key = (frozenset((one.first, one.second)), one.prompt, one.aspect, one.rater or number)
        if vote.reason in ("gold", "repeat") or key in seen:
            continue
        seen.add(key)
        kept.append(vote)
    return kept


def by_rater(votes: Sequence[Vote]) -> dict[str, list[Vote]]:
    """Return the votes of all raters under "", and of each rater with a name."""
    found: dict[str, list[Vote]] = {"": list(votes)}
    for vote in votes:
        if vote.choice.rater:
            found.setdefault(vote.choice.rater, []).append(vote)
    return found


def _main(votes: Sequence[Vote]) -> list[Vote]:
    """Return one vote of each item: that of the aspect overall, else of the last aspect asked."""
    aspects = list(dict.fromkeys(vote.choice.aspect for vote in votes))
    chosen = OVERALL if OVERALL in aspects or not aspects else aspects[-1]
    return [vote for vote in votes if vote.choice.aspect == chosen]


def answered(votes: Sequence[Vote], judgments: Judgments) -> list[Timed]:
    """Return the answers of raters as far as a file has them, those that were sent in part too.

    An answer to a pair has a vote for each question; that of the aspect overall counts as its
    choice, or the last. An answer to a clip has points for each question, one to a ranking places.
    """
    timed = [
        Timed(vote.choice.rater, vote.seconds, vote.at, vote.choice.choice)
        for vote in _one_of_each_answer(votes)
    ]
    clips = dict.fromkeys((one.rater, one.clip, one.prompt) for one in judgments.points)
    orders = dict.fromkeys((one.rater, one.clips, one.prompt) for one in judgments.rankings)
    return timed + [Timed(key[0]) for key in (*clips, *orders)]


def _one_of_each_answer(votes: Sequence[Vote]) -> list[Vote]:
    """Return the vote of the aspect overall, else the last one, of each answer to a pair."""
    found: dict[tuple[Any, ...], Vote] = {}
    times: Counter[tuple[Any, ...]] = Counter()
    for vote in votes:
        one = vote.choice
        pair = (frozenset((one.first, one.second)), one.prompt, one.rater, vote.reason, vote.at)
        times[(*pair, one.aspect)] += 1
        key = (*pair, times[(*pair, one.aspect)])
        if key not in found or found[key].choice.aspect != OVERALL:
            found[key] = vote
    return list(found.values())


def _drawn(first: Sequence[Vote], implied: Sequence[Choice]) -> list[Choice]:
    """Return the choices of pairs that were drawn at random: others may not be averaged."""
    return [vote.choice for vote in first if vote.reason == "random"] + list(implied)


def _raters(judgments: Judgments) -> Counter[str]:
    return Counter([one.rater for one in judgments.points] + [r.rater for r in judgments.rankings])


def _aspects(points: Sequence[Points]) -> list[str]:
    return list(dict.fromkeys(one.aspect for one in points))


# --- agreement


def _agreement(aspect: str, choices: Sequence[Choice]) -> Row:
    """Return the agreement of raters on the pairs of one aspect."""
    pairs = pairs_of(one for one in choices if one.aspect == aspect)
    answers = [
        {_key(one.rater, n): float(one.choice) for n, one in enumerate(pair)} for pair in pairs
    ]
    prompts = [pair[0].prompt for pair in pairs]
    return {
        "aspect": aspect,
        "kind": "choices",
        "pairs": len(pairs),
        "alpha_nominal": _numbers(krippendorff(answers, "nominal", prompts)),
        "alpha_ordinal": _numbers(krippendorff(answers, "ordinal", prompts)),
        "cohen": _cohen(answers),
        "fleiss": _fleiss(answers),
    }


def _points_agreement(aspect: str, points: Sequence[Points]) -> Row:
    """Return the agreement of raters on the points of one aspect."""
    units: dict[tuple[str, str], dict[Hashable, float]] = {}
    for n, one in enumerate(points):
        if one.aspect == aspect:
            units.setdefault((one.clip, one.prompt), {})[_key(one.rater, n)] = one.points
    answers, prompts = list(units.values()), [prompt for _, prompt in units]
    return {
        "aspect": aspect,
        "kind": "points",
        "pairs": len(units),
        "alpha_interval": _numbers(krippendorff(answers, "interval", prompts)),
        "alpha_ordinal": _numbers(krippendorff(answers, "ordinal", prompts)),
    }


def _key(rater: str, number: int) -> Hashable:
    """Return a rater's name, or the number of an answer without a name as a rater of its own."""
    return rater or number


def _cohen(answers: Sequence[Mapping[Hashable, float]]) -> Row:
    """Return Cohen's kappa of the two raters with a name who share the most units."""
    named = [sorted(key for key in unit if isinstance(key, str)) for unit in answers]
    shared = Counter(pair for names in named for pair in combinations(names, 2))
    if not shared:
        return {"value": None, "why": "no two named raters judged the same unit"}
    (a, b), _ = shared.most_common(1)[0]
    both = [unit for unit in answers if a in unit and b in unit]
    kappa = cohen([unit[a] for unit in both], [unit[b] for unit in both])
    why = "" if math.isfinite(kappa) else "both always give the same answer"
    return {"value": _number(kappa), "raters": [a, b], "units": len(both), "why": why}


def _fleiss(answers: Sequence[Mapping[Hashable, float]]) -> Row:
    """Return Fleiss' kappa over the units with the most frequent number of answers above one."""
    sizes = Counter(len(unit) for unit in answers if len(unit) > 1)
    if not sizes:
        return {"value": None, "why": "no unit has two answers"}
    size = sizes.most_common(1)[0][0]
    counts = [
        [sum(value == v for value in unit.values()) for v in (-1.0, 0.0, 1.0)]
        for unit in answers
        if len(unit) == size
    ]
    kappa = fleiss(counts)
    why = "" if math.isfinite(kappa) else "all answers are the same"
    return {"value": _number(kappa), "answers": size, "units": len(counts), "why": why}


# --- one rater: sides, consistency


def _side(rater: str, votes: Sequence[Vote]) -> Row:
    """Return the share of decided choices of the clip on the left."""
    decided = [vote.choice for vote in votes if vote.choice.choice and vote.reason != "gold"]
    return {"rater": rater} | _share([float(c.choice == 1) for c in decided], _prompts(decided))


def _repeats(rater: str, votes: Sequence[Vote]) -> Row:
    """Return the share of pairs that a rater answered alike at the second time."""
    groups: dict[tuple[Any, ...], list[Choice]] = {}
    for vote in votes:
        one = vote.choice
        if one.rater and vote.reason != "gold":
            key = (frozenset((one.first, one.second)), one.prompt, one.aspect, one.rater)
            groups.setdefault(key, []).append(one)
    twice = [pair for same in groups.values() if len(same) > 1 for pair in pairs_of(same, True)]
    alike = [float(a.choice == b.choice) for pair in twice for a, b in combinations(pair[:2], 2)]
    return {"rater": rater} | _share(alike, [pair[0].prompt for pair in twice])


def _gold(rater: str, votes: Sequence[Vote]) -> Row:
    """Return the share of pairs with a known answer that a rater answered so."""
    known = [v for v in votes if v.reason == "gold" and v.expected is not None]
    right = [float(v.choice.choice == v.expected) for v in known]
    return {"rater": rater} | _share(right, _prompts(v.choice for v in known))


# --- models


def wins(aspect: str, choices: Sequence[Choice]) -> list[Row]:
    """Return how often clips of one folder win against those of another, ties counting half.

    A model is a folder: the clip's own. A row has the share of wins with its interval over
    prompts, p of "both win equally often", and how many more prompts, at as many answers a
    prompt as now, would show the difference in four of five studies (`vidrl.inference.power`).
    """
    scores: dict[tuple[str, str], list[tuple[float, str]]] = {}
    for one in joined(choice for choice in choices if choice.aspect == aspect):
        a, b = _folder(one.first), _folder(one.second)
        if a != b:
            score = (1 + (one.choice if a < b else -one.choice)) / 2
            scores.setdefault((min(a, b), max(a, b)), []).append((score, one.prompt))
    names = _short({name for pair in scores for name in pair})
    return [
        {"aspect": aspect, "first": names[a], "second": names[b]}
        | _share([s for s, _ in found], [p for _, p in found])
        | _power(found)
        for (a, b), found in scores.items()
    ]


def _power(found: Sequence[tuple[float, str]]) -> Row:
    """Return how many more prompts are needed, None with the reason where that is not known."""
    groups: dict[Any, list[float]] = {}
    for number, (score, prompt) in enumerate(found):
        groups.setdefault(prompt or number, []).append(score - 0.5)
    means = np.array([np.mean(values) for values in groups.values()])
    difference = abs(float(means.mean())) if len(means) else 0.0
    std = float(means.std(ddof=1)) if len(means) > 1 else 0.0
    if not (difference > 1e-12 and std > 1e-12):
        even = "both win equally often" if difference <= 1e-12 else "no prompt differs from another"
        return {"more_prompts": None, "why_no_number": even}
    try:
        needed = prompts_needed(std, difference)
    except ValueError:
        return {"more_prompts": None, "why_no_number": "more than a million prompts are needed"}
    return {"more_prompts": max(0, needed - len(groups)), "why_no_number": ""}


def _folder(clip: str) -> str:
    return str(Path(clip).parent)


def _short(folders: set[str]) -> dict[str, str]:
    """Return the folders without their common beginning."""
    if len(folders) < 2:
        return {name: name for name in folders}
    common = os.path.commonpath(folders) if len({*map(os.path.isabs, folders)}) == 1 else ""
    return {name: os.path.relpath(name, common) if common else name for name in folders}


def _share(values: Sequence[float], prompts: Sequence[str]) -> Row:
    """Return a share with its interval over prompts; None with the reason without values."""
    if not values:
        return {"value": None, "low": None, "high": None, "n": 0, "p": None, "why": "none"}
    found: Interval = proportion_interval(values, prompts)
    numbers = {key: _number(getattr(found, key)) for key in ("low", "high", "p")}
    return {"value": _number(found.mean), "n": found.n, "why": found.note} | numbers


def _prompts(choices: Iterable[Choice]) -> list[str]:
    return [one.prompt for one in choices]


def _numbers(found: Agreement) -> Row:
    numbers = {key: _number(getattr(found, key)) for key in ("value", "low", "high")}
    return numbers | {"units": found.units, "why": found.why}


def _number(value: float) -> float | None:
    return round(float(value), 6) if math.isfinite(value) else None
