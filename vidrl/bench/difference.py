"""One dim of two sets: the difference, its interval and p, and how often the second is
better.

Clips without a number count against their set, see `vidrl.bench.unscored_clips`: the claim "the
second is better" needs that the difference over scored clips and the one that counts the
others as the worst are both beyond doubt. Its p is therefore the larger one of the two (an
intersection-union test: Berger 1982, doi:10.1080/00401706.1982.10487790), and 1 where their
signs differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vidrl.bench import duplicates, unscored_clips
from vidrl.bench.pairing import UNPAIRED, Clip, Match, Pair, matches, scored_pair
from vidrl.bench.statistics import as_limits, finite_ends, json_number
from vidrl.bench.unscored_clips import Range
from vidrl.inference.clusters import Array, Clusters, clusters
from vidrl.inference.effects import effect
from vidrl.inference.exchange import exchange_p
from vidrl.inference.families import simultaneous
from vidrl.inference.flips import sign_flip_p
from vidrl.inference.means import Interval, difference, heavy, interval, of_differences
from vidrl.inference.resampling import DRAWS
from vidrl.inference.shares import share

Row = dict[str, Any]
Set = Mapping[str, Any]  # of results.json


@dataclass(frozen=True)
class MatchedSets:
    """Two sets, their clips matched: what all dims share. `groups` are of the matches;
    `sides` are for no matches."""

    names: tuple[str, str]
    by: str
    found: list[Match]
    groups: list[int]
    sides: tuple[list[Clip], list[Clip]]
    notes: list[str]


def match_sets(first: Set, second: Set) -> MatchedSets:
    """The clips of two sets matched, copies counted once."""
    everything = (unscored_clips.all_clips(first), unscored_clips.all_clips(second))
    names = (first["name"], second["name"])
    made = matches(*everything, names)
    found, copied = _without_copies(made.found)
    groups = duplicates.connected_groups([_match_keys(match) for match in found])
    once = (
        (duplicates.without_duplicates(everything[0]), duplicates.without_duplicates(everything[1]))
        if made.by == UNPAIRED
        else everything
    )
    return MatchedSets(names, made.by, found, groups, once, made.notes + copied)


@dataclass(frozen=True)
class DimRequest:
    """A dim, the range of its values, and the largest difference that does not matter; None
    where it is not known."""

    dim: str
    range: Range = (None, None)
    margin: float | None = None

    @classmethod
    def of(cls, dim: str | Mapping[str, Any], margins: Mapping[str, float]) -> DimRequest:
        """A dim by its name, or as results.json has it."""
        if isinstance(dim, str):
            return cls(dim, margin=margins.get(dim))
        return cls(
            dim["name"],
            tuple(dim.get("range") or (None, None)),
            margins.get(dim["name"], dim.get("relevant")),
        )


def compare_dims(
    first: Set, second: Set, asked: Sequence[DimRequest], least: int, family: int
) -> list[Row]:
    """The comparisons on all dims, of a family of so many, whose intervals hold all
    together by Bonferroni's rule."""
    both = match_sets(first, second)
    return [compare_dim(both, one, least, family) for one in asked]


def compare_dim(both: MatchedSets, asked: DimRequest, least: int, family: int = 1) -> Row:
    """The comparison on one dim, as results.json has it, without a corrected p, of so many
    comparisons."""
    numbers = (
        _unpaired(both, asked, family) if both.by == UNPAIRED else _paired(both, asked, family)
    )
    enough = min(numbers["clips"]) >= least and numbers["groups"] > 1
    notes = [
        *_few_clips_note(both, numbers, least),
        *_equality_notes(numbers),
        *numbers["said"],
        *both.notes,
        *_unscored_note(both, numbers),
    ]
    numbers = {key: value for key, value in numbers.items() if key not in ("equal", "said")}
    numbers |= {
        "margin": asked.margin,
        "within": margin_statement(numbers, asked.margin) if enough else None,
    }
    return {
        "first": both.names[0],
        "second": both.names[1],
        "dim": asked.dim,
        **numbers,
        "paired_by": both.by,
        "pairing": both.notes,
        "enough": enough,
        "notes": notes,
    }


def _match_keys(match: Match) -> list[Hashable]:
    """What makes matches depend on each other: their prompt, and copies on either side."""
    return [
        key
        for side, clips in enumerate((match.first, match.second))
        for clip in clips
        for key in duplicates.dependence_keys(clip, side)
    ]


def _without_copies(found: Sequence[Match]) -> tuple[list[Match], list[str]]:
    """The matches without those, of no known prompt, whose clips on both sides are copies
    of those of another match."""
    numbers = [
        duplicates.content_numbers([clip for match in found for clip in side(match)])
        for side in (lambda match: match.first, lambda match: match.second)
    ]
    seen: dict[Hashable, Match] = {}
    at = [0, 0]
    for i, match in enumerate(found):
        ends = at[0] + len(match.first), at[1] + len(match.second)
        key = tuple(tuple(sorted(numbers[side][at[side] : ends[side]])) for side in (0, 1))
        at = list(ends)
        seen.setdefault(("alone", i) if match.prompt else key, match)
    left = len(found) - len(seen)
    return list(seen.values()), [
        f"{left} pairs are copies of other pairs and not counted again"
    ] if left else []


# --- paired
# ----------------------------------------------------------------------------------------------------------


def _paired(both: MatchedSets, asked: DimRequest, family: int) -> Row:
    """The numbers of pairs: mean difference, its interval and p over prompts, wins,
    effect."""
    dim = asked.dim
    kept = [
        (match, group)
        for one, group in zip(both.found, both.groups, strict=True)
        if (match := unscored_clips.counted_clips(one, dim))
    ]
    scored = [(pair, group) for match, group in kept if (pair := scored_pair(match, dim))]
    bottom = unscored_clips.worst_value(both.sides, dim, asked.range)
    found, groups = [pair for pair, _ in scored], [group for _, group in scored]
    gaps = np.array(
        [unscored_clips.mean_difference(_as_match(pair), dim, math.nan) for pair in found]
    )
    known = _paired_estimate(gaps, groups, asked, family)
    bound = _paired_estimate(
        np.array([unscored_clips.mean_difference(match, dim, bottom) for match, _ in kept]),
        [g for _, g in kept],
        asked,
        family,
    )
    lost = [
        sum(unscored_clips.count_unscored(side(match), dim) for match, _ in kept) for side in _SIDES
    ]
    prompts = len({pair.prompt for pair in found} - {""})
    return (
        _with_bound(known, bound if any(lost) and found else None, bottom)
        | _wins(kept if found else [], dim)
        | {
            "effect": json_number(_effect(found, dim, known["difference"])),
            "n": len(found),
            "prompts": prompts,
            "groups": len(set(groups)),
            "spread": json_number(_group_std(gaps, groups)),
            "clips": [sum(len(side(pair)) for pair in found) for side in _SIDES],
            "unscored": {
                "counts": lost,
                "of": [sum(len(side(match)) for match, _ in kept) for side in _SIDES],
                "p": _unscored_p(kept, dim),
            },
            "equal": bool(found) and not gaps.any(),
        }
    )


_SIDES = (lambda pair: pair.first, lambda pair: pair.second)


def _as_match(pair: Pair) -> Match:
    return Match(pair.prompt, pair.first, pair.second)


def _paired_estimate(
    gaps: Array, groups: Sequence[Hashable], asked: DimRequest, family: int
) -> Row:
    """Mean, intervals and p of paired differences of values within the dim's range."""
    limits = of_differences(as_limits(asked.range))
    return _with_intervals(lambda **how: interval(gaps, groups, limits=limits, **how), family) | {
        "said": heavy(gaps, groups)
    }


def _with_intervals(made: Callable[..., Interval], family: int) -> Row:
    """The numbers of a difference, NaN where there is none, why there is no interval, and
    the interval of all together.

    A p of draws cannot be below 2 / draws, so that a family of many tests needs more of
    them.
    """
    draws = max(DRAWS, 250 * family)
    over, together = made(draws=draws), made(level=simultaneous(max(1, family)), draws=draws)
    ends = [
        math.nan if end is None else end for one in (over, together) for end in finite_ends(one)
    ]
    return {
        "difference": over.mean,
        "p": over.p,
        "note": over.note,
        **dict(zip(("low", "high", "all_low", "all_high"), ends, strict=True)),
    }


_NUMBERS = ("difference", "low", "high", "all_low", "all_high", "p")


def _with_bound(known: Row, bound: Row | None, bottom: float) -> Row:
    """The difference over scored clips, its p no smaller than that of the bound; `worst` is
    the bound."""
    notes = [*[known["note"]] * bool(known["note"]), *known.get("said", [])]
    found = {key: json_number(known[key]) for key in _NUMBERS} | {"said": notes}
    if bound is None:
        return {**found, "p_scored": found["p"], "p_holm": None, "worst": None}
    least = {key: json_number(bound[key]) for key in _NUMBERS}
    agree = known["difference"] * bound["difference"] > 0
    p = (
        None
        if found["p"] is None or least["p"] is None
        else max(found["p"], least["p"])
        if agree
        else 1.0
    )
    return {
        **found,
        "p": p,
        "p_scored": found["p"],
        "p_holm": None,
        "worst": {"value": json_number(bottom), **least},
    }


def _effect(found: Sequence[Pair], dim: str, difference: float) -> float:
    """Hedges' g of the difference, by the spread among clips, whatever they were paired
    by."""
    first, second = (
        [clip["value"][dim] for pair in found for clip in side(pair)] for side in _SIDES
    )
    return effect(first, second, difference) if found else math.nan


def _group_std(gaps: Array, groups: Sequence[Hashable]) -> float:
    """The standard deviation of the groups' mean differences, as their mean's variance has
    it; NaN of one group."""
    made = clusters(gaps, groups) if len(gaps) else None
    return math.sqrt(made.variance * len(made.sums)) if made and len(made.sums) > 1 else math.nan


def _wins(kept: Sequence[tuple[Match, int]], dim: str) -> Row:
    """On how many prompts the second is better, equal and worse, and how often a clip of it
    is; ties half."""
    prompts: dict[Hashable, list[tuple[Match, int]]] = {}
    for i, (match, group) in enumerate(kept):
        prompts.setdefault(match.prompt or i, []).append((match, group))
    shares = np.array(
        [
            unscored_clips.win_share(_merged([match for match, _ in part]), dim)
            for part in prompts.values()
        ]
    )
    rate = share(shares, [part[0][1] for part in prompts.values()])
    return {
        "wins": int((shares > 0.5).sum()),
        "ties": int((shares == 0.5).sum()),
        "losses": int((shares < 0.5).sum()),
        "win_rate": json_number(rate.mean),
        "win_low": json_number(rate.low),
        "win_high": json_number(rate.high),
    }


def _merged(part: Sequence[Match]) -> Match:
    return Match(
        part[0].prompt,
        tuple(clip for one in part for clip in one.first),
        tuple(clip for one in part for clip in one.second),
    )


def _unscored_p(kept: Sequence[tuple[Match, int]], dim: str) -> float | None:
    """Exact p of "either set is as likely to have unscored clips": sign flips of the groups
    that differ (McNemar's)."""
    gaps = np.array(
        [
            unscored_clips.count_unscored(match.second, dim) / len(match.second)
            - unscored_clips.count_unscored(match.first, dim) / len(match.first)
            for match, _ in kept
        ]
    )
    sums = clusters(gaps, [group for _, group in kept]).sums if len(gaps) else gaps
    apart = sums[np.abs(sums) > 1e-12]
    return float(sign_flip_p(apart)) if len(apart) else None


# --- unpaired
# --------------------------------------------------------------------------------------------------------


def _unpaired(both: MatchedSets, asked: DimRequest, family: int) -> Row:
    """The numbers of two sets without pairs: the difference of the means over clips; nobody
    wins."""
    dim = asked.dim
    sides = [
        [
            clip
            for clip in side
            if unscored_clips.count_unscored([clip], dim) == 0
            or not unscored_clips.is_inapplicable(clip, dim)
        ]
        for side in both.sides
    ]
    bottom = unscored_clips.worst_value(sides, dim, asked.range)
    lost = [unscored_clips.count_unscored(side, dim) for side in sides]
    scored = [
        [clip for clip in side if not unscored_clips.count_unscored([clip], dim)] for side in sides
    ]
    a, b = ([clip["value"][dim] for clip in side] for side in scored)
    known = _unpaired_estimate([_clusters(side, dim, bottom) for side in scored], asked, family)
    bound = (
        _unpaired_estimate([_clusters(side, dim, bottom) for side in sides], asked, family)
        if any(lost) and a and b
        else None
    )
    given = [len({clip["prompt"] for clip in side if clip.get("prompt")}) for side in scored]
    nobody = dict.fromkeys(("wins", "ties", "losses", "win_rate", "win_low", "win_high"))
    return (
        _with_bound(known, bound, bottom)
        | nobody
        | {
            "effect": json_number(effect(a, b)),
            "n": min(len(a), len(b)),
            "prompts": min(given),
            "groups": min(len(set(duplicates.dependence_groups(side))) for side in scored),
            "spread": None,
            "clips": [len(a), len(b)],
            "unscored": {
                "counts": lost,
                "of": [len(side) for side in sides],
                "p": _unpaired_unscored_p(sides, dim, lost),
            },
            "equal": False,
        }
    )


def _clusters(clips: Sequence[Clip], dim: str, bottom: float) -> Clusters:
    values = np.array([unscored_clips.mean_value([clip], dim, bottom) for clip in clips])
    return clusters(values, duplicates.dependence_groups(clips))


def _unpaired_estimate(sides: Sequence[Clusters], asked: DimRequest, family: int) -> Row:
    """Mean, intervals and p of the difference of two sets without pairs."""
    limits = as_limits(asked.range)
    return _with_intervals(lambda **how: difference(sides[0], sides[1], limits, **how), family)


def _unpaired_unscored_p(
    sides: Sequence[Sequence[Clip]], dim: str, lost: Sequence[int]
) -> float | None:
    """p of "either set is as likely to have unscored clips", prompts exchanged between the
    sets."""
    if not any(lost):
        return None
    made = [
        clusters(
            np.array([float(unscored_clips.count_unscored([clip], dim)) for clip in side]),
            duplicates.dependence_groups(side),
        )
        for side in sides
    ]
    return json_number(exchange_p(made[0], made[1]))


# --- small differences
# ----------------------------------------------------------------------------------------------


def margin_statement(row: Mapping[str, Any], margin: float | None) -> str | None:
    """What is shown of a margin: by the interval of all differences together, also with
    unscored clips as the worst.

    >>> ends = {"all_low": -0.02, "all_high": 0.3, "worst": None}
    >>> margin_statement(ends, 0.5), margin_statement(ends, 0.1), margin_statement(ends, 0.01), margin_statement(ends, None)
    ('equivalent', 'not worse', None, None)
    """
    both = [one for one in (row, row["worst"]) if one is not None]
    if margin is None or any(one["all_low"] is None or one["all_high"] is None for one in both):
        return None
    above, below = (
        all(one["all_low"] > -margin for one in both),
        all(one["all_high"] < margin for one in both),
    )
    return (
        "equivalent"
        if above and below
        else "not worse"
        if above
        else "not better"
        if below
        else None
    )


# --- notes
# -----------------------------------------------------------------------------------------------------------


def _few_clips_note(both: MatchedSets, numbers: Row, least: int) -> list[str]:
    counts = numbers["clips"]
    said = (
        f"the difference rests on {counts[0]} clips of {both.names[0]} and {counts[1]} of {both.names[1]}, fewer "
        f"than the minimum of {least}"
    )
    return [said] if min(counts) < least else []


def _equality_notes(numbers: Row) -> list[str]:
    one = (
        ["one prompt: nothing is said of other prompts"]
        if numbers["n"] > 1 and numbers["groups"] == 1
        else []
    )
    return one + [f"all {numbers['n']} pairs are equal"] * numbers["equal"]


def _unscored_note(both: MatchedSets, numbers: Row) -> list[str]:
    """How many clips have no number, and what the difference would be if they were the
    worst."""
    counts, of, bound = numbers["unscored"]["counts"], numbers["unscored"]["of"], numbers["worst"]
    if not any(counts):
        return []
    said = " and ".join(
        f"{count} of {total} clips of {name}"
        for count, total, name in zip(counts, of, both.names, strict=True)
        if count
    )
    if bound is None or bound["difference"] is None:
        return [f"{said} have no number"]
    ends = "" if bound["low"] is None else f" [{bound['low']:.4g}, {bound['high']:.4g}]"
    return [
        f"{said} have no number: count as worst ({bound['value']:.4g}), the difference would be "
        f"{bound['difference']:+.4g}{ends}"
    ]
