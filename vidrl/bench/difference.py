"""Compare two sets on one dim: the difference, its interval and p, and the win rate.

A clip without a number counts against its set, see `vidrl.bench.unscored_clips`. The claim
"the second set is better" needs two results: the difference over scored clips is beyond
doubt, and so is the difference in which clips without a number count as the worst. Its p
value is therefore the larger one of the two (intersection-union test: Berger 1982,
doi:10.1080/00401706.1982.10487790), and 1 where their signs differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vidrl.bench import duplicates, unscored_clips
from vidrl.bench.comparison_notes import equality_notes, few_clips_note, unscored_note
from vidrl.bench.pairing import UNPAIRED, Clip, Match, Pair, matches, scored_pair
from vidrl.bench.statistics import as_limits, finite_ends, json_number
from vidrl.bench.unscored_clips import Range
from vidrl.inference.clusters import Array, Clusters, clusters
from vidrl.inference.effects import hedges_g
from vidrl.inference.exchange import exchange_p
from vidrl.inference.families import simultaneous_level
from vidrl.inference.flips import sign_flip_p
from vidrl.inference.means import (
    Interval,
    difference,
    dominant_group_notes,
    interval,
    limits_of_difference,
)
from vidrl.inference.proportions import proportion_interval
from vidrl.inference.resampling import DRAWS

Row = dict[str, Any]
Set = Mapping[str, Any]  # of results.json


@dataclass(frozen=True)
class MatchedSets:
    """Two sets with their clips matched: what the comparisons on all dims have in common.

    `by` says by what the clips were matched. `groups` has the group of each match: matches
    of one group are dependent, and are resampled together. `sides` are the clips of either
    set: unpaired sets are compared by them, and the worst value is searched in them.
    """

    names: tuple[str, str]
    by: str
    found: list[Match]
    groups: list[int]
    sides: tuple[list[Clip], list[Clip]]
    notes: list[str]


def match_sets(first: Set, second: Set) -> MatchedSets:
    """Match the clips of two sets, without duplicates."""
    clips_of_sets = (unscored_clips.all_clips(first), unscored_clips.all_clips(second))
    names = (first["name"], second["name"])
    matched = matches(*clips_of_sets, names)
    found, notes = _without_copies(matched.found)
    groups = duplicates.connected_groups([_match_keys(match) for match in found])
    sides = (
        (
            duplicates.without_duplicates(clips_of_sets[0]),
            duplicates.without_duplicates(clips_of_sets[1]),
        )
        if matched.by == UNPAIRED
        else clips_of_sets
    )
    return MatchedSets(names, matched.by, found, groups, sides, matched.notes + notes)


@dataclass(frozen=True)
class DimRequest:
    """A dim to compare, with the range of its values and the margin.

    `margin` is the largest difference that does not matter, None where it is not known.
    """

    dim: str
    range: Range = (None, None)
    margin: float | None = None

    @classmethod
    def of(cls, dim: str | Mapping[str, Any], margins: Mapping[str, float]) -> DimRequest:
        """Return the request of a dim that is given by its name or as results.json stores it."""
        if isinstance(dim, str):
            return cls(dim, margin=margins.get(dim))
        return cls(
            dim["name"],
            tuple(dim.get("range") or (None, None)),
            margins.get(dim["name"], dim.get("relevant")),
        )


def compare_dims(
    first: Set, second: Set, requests: Sequence[DimRequest], least: int, family: int
) -> list[Row]:
    """Compare two sets on all dims, as part of a family of `family` comparisons.

    The simultaneous intervals follow Bonferroni's rule: each has level 1 − 0.05 / family.
    """
    sets = match_sets(first, second)
    return [compare_dim(sets, request, least, family) for request in requests]


def compare_dim(sets: MatchedSets, request: DimRequest, least: int, family: int = 1) -> Row:
    """Compare two sets on one dim, as results.json stores it, before p is corrected."""
    numbers = (
        _unpaired(sets, request, family) if sets.by == UNPAIRED else _paired(sets, request, family)
    )
    enough = min(numbers["clips"]) >= least and numbers["groups"] > 1
    notes = [
        *few_clips_note(sets.names, numbers, least),
        *equality_notes(numbers),
        *numbers["estimate_notes"],
        *sets.notes,
        *unscored_note(sets.names, numbers),
    ]
    numbers = {
        key: value for key, value in numbers.items() if key not in ("equal", "estimate_notes")
    }
    numbers |= {
        "margin": request.margin,
        "within": margin_statement(numbers, request.margin) if enough else None,
    }
    return {
        "first": sets.names[0],
        "second": sets.names[1],
        "dim": request.dim,
        **numbers,
        "paired_by": sets.by,
        "pairing": sets.notes,
        "enough": enough,
        "notes": notes,
    }


def _match_keys(match: Match) -> list[Hashable]:
    """Return what makes matches dependent: their prompt, and duplicates on either side."""
    return [
        key
        for side, clips in enumerate((match.first, match.second))
        for clip in clips
        for key in duplicates.dependence_keys(clip, side)
    ]


def _without_copies(found: Sequence[Match]) -> tuple[list[Match], list[str]]:
    """Leave out matches whose clips on both sides are duplicates of another match's clips.

    Only matches without a known prompt are left out. With a prompt, a model that gives the
    same clip for two prompts has answered both.
    """
    numbers = [
        duplicates.content_numbers([clip for match in found for clip in side(match)])
        for side in (lambda match: match.first, lambda match: match.second)
    ]
    seen: dict[Hashable, Match] = {}
    start = [0, 0]
    for i, match in enumerate(found):
        ends = start[0] + len(match.first), start[1] + len(match.second)
        key = tuple(tuple(sorted(numbers[side][start[side] : ends[side]])) for side in (0, 1))
        start = list(ends)
        seen.setdefault(("alone", i) if match.prompt else key, match)
    removed = len(found) - len(seen)
    return list(seen.values()), [
        f"{removed} pairs are copies of other pairs and not counted again"
    ] if removed else []


# --- paired ---------------------------------------------------------------------------


def _paired(sets: MatchedSets, request: DimRequest, family: int) -> Row:
    """Return the numbers of paired sets: mean difference, interval, p, wins and effect.

    The difference is taken within each match (same prompt, and same seed where possible),
    because prompts differ much more than models: the variation between prompts cancels.
    """
    dim = request.dim
    counted = [
        (match, group)
        for match_of_sets, group in zip(sets.found, sets.groups, strict=True)
        if (match := unscored_clips.counted_clips(match_of_sets, dim))
    ]
    scored = [(pair, group) for match, group in counted if (pair := scored_pair(match, dim))]
    worst = unscored_clips.worst_value(sets.sides, dim, request.range)
    pairs, groups = [pair for pair, _ in scored], [group for _, group in scored]
    gaps = np.array(
        [unscored_clips.mean_difference(_as_match(pair), dim, math.nan) for pair in pairs]
    )
    scored_estimate = _paired_estimate(gaps, groups, request, family)
    worst_estimate = _paired_estimate(
        np.array([unscored_clips.mean_difference(match, dim, worst) for match, _ in counted]),
        [g for _, g in counted],
        request,
        family,
    )
    unscored = [
        sum(unscored_clips.count_unscored(side(match), dim) for match, _ in counted)
        for side in _SIDES
    ]
    prompts = len({pair.prompt for pair in pairs} - {""})
    return (
        _with_bound(scored_estimate, worst_estimate if any(unscored) and pairs else None, worst)
        | _wins(counted if pairs else [], dim)
        | {
            "effect": json_number(_effect(pairs, dim, scored_estimate["difference"])),
            "n": len(pairs),
            "prompts": prompts,
            "groups": len(set(groups)),
            "spread": json_number(_group_std(gaps, groups)),
            "clips": [sum(len(side(pair)) for pair in pairs) for side in _SIDES],
            "unscored": {
                "counts": unscored,
                "of": [sum(len(side(match)) for match, _ in counted) for side in _SIDES],
                "p": _unscored_p(counted, dim),
            },
            "equal": bool(pairs) and not gaps.any(),
        }
    )


_SIDES = (lambda pair: pair.first, lambda pair: pair.second)


def _as_match(pair: Pair) -> Match:
    return Match(pair.prompt, pair.first, pair.second)


def _paired_estimate(
    gaps: Array, groups: Sequence[Hashable], request: DimRequest, family: int
) -> Row:
    """Return mean, intervals and p of paired differences, in the limits of the dim's range."""
    limits = limits_of_difference(as_limits(request.range))
    return _with_intervals(lambda **how: interval(gaps, groups, limits=limits, **how), family) | {
        "estimate_notes": dominant_group_notes(gaps, groups)
    }


def _with_intervals(interval_of: Callable[..., Interval], family: int) -> Row:
    """Return the numbers of a difference with its own and its simultaneous interval.

    NaN where there is no interval; `note` says why. A p value of B bootstrap draws cannot
    be below 2 / B, so a large family, whose level is 0.05 / family, needs more draws.
    """
    # with 250 family draws, 2 / B is 0.008 / family, well below the level
    draws = max(DRAWS, 250 * family)
    single, simultaneous_interval = (
        interval_of(draws=draws),
        interval_of(level=simultaneous_level(max(1, family)), draws=draws),
    )
    ends = [
        math.nan if end is None else end
        for estimate in (single, simultaneous_interval)
        for end in finite_ends(estimate)
    ]
    return {
        "difference": single.mean,
        "p": single.p,
        "note": single.note,
        **dict(zip(("low", "high", "all_low", "all_high"), ends, strict=True)),
    }


_NUMBERS = ("difference", "low", "high", "all_low", "all_high", "p")


def _with_bound(scored_estimate: Row, worst_estimate: Row | None, bottom: float) -> Row:
    """Combine the difference over scored clips with the one that counts the others as worst.

    p is the larger p value of the two, and 1 where the signs differ; `worst` holds the
    bound.
    """
    notes = [
        *[scored_estimate["note"]] * bool(scored_estimate["note"]),
        *scored_estimate.get("estimate_notes", []),
    ]
    row = {key: json_number(scored_estimate[key]) for key in _NUMBERS} | {"estimate_notes": notes}
    if worst_estimate is None:
        return {**row, "p_scored": row["p"], "p_holm": None, "worst": None}
    worst = {key: json_number(worst_estimate[key]) for key in _NUMBERS}
    same_sign = scored_estimate["difference"] * worst_estimate["difference"] > 0
    return {
        **row,
        "p": _p_of_both(json_number(scored_estimate["p"]), worst["p"], same_sign),
        "p_scored": row["p"],
        "p_holm": None,
        "worst": {"value": json_number(bottom), **worst},
    }


def _p_of_both(scored: float | None, worst: float | None, same_sign: bool) -> float | None:
    """Return the p value of the claim that needs both differences; None if either has none."""
    if scored is None or worst is None:
        return None
    return max(scored, worst) if same_sign else 1.0


def _effect(found: Sequence[Pair], dim: str, difference: float) -> float:
    """Return Hedges' g of the difference, in units of the standard deviation among clips.

    The unit is the same however clips were paired, so that effects can be compared.
    """
    first, second = (
        [clip["value"][dim] for pair in found for clip in side(pair)] for side in _SIDES
    )
    return hedges_g(first, second, difference) if found else math.nan


def _group_std(gaps: Array, groups: Sequence[Hashable]) -> float:
    """Return the standard deviation of the groups' mean differences, NaN for one group.

    It is √(G · variance of the mean), so that std / √G is the standard error of the
    difference with G groups.
    """
    per_group = clusters(gaps, groups) if len(gaps) else None
    return (
        math.sqrt(per_group.variance * len(per_group.sums))
        if per_group and len(per_group.sums) > 1
        else math.nan
    )


def _wins(kept: Sequence[tuple[Match, int]], dim: str) -> Row:
    """Count prompts on which the second set is better, equal and worse, and the win rate."""
    prompts: dict[Hashable, list[tuple[Match, int]]] = {}
    for i, (match, group) in enumerate(kept):
        prompts.setdefault(match.prompt or i, []).append((match, group))
    win_shares = np.array(
        [
            unscored_clips.win_share(_merged([match for match, _ in part]), dim)
            for part in prompts.values()
        ]
    )
    rate = proportion_interval(win_shares, [part[0][1] for part in prompts.values()])
    return {
        "wins": int((win_shares > 0.5).sum()),
        "ties": int((win_shares == 0.5).sum()),
        "losses": int((win_shares < 0.5).sum()),
        "win_rate": json_number(rate.mean),
        "win_low": json_number(rate.low),
        "win_high": json_number(rate.high),
    }


def _merged(part: Sequence[Match]) -> Match:
    """Return the matches of one prompt as one match of all their clips."""
    return Match(
        part[0].prompt,
        tuple(clip for match in part for clip in match.first),
        tuple(clip for match in part for clip in match.second),
    )


def _unscored_p(kept: Sequence[tuple[Match, int]], dim: str) -> float | None:
    """Return the exact p value of "both sets are equally likely to have unscored clips".

    The sign of each group's difference is flipped in every way, as in McNemar's test;
    groups without a difference carry no information, and are left out.
    """
    gaps = np.array(
        [
            unscored_clips.count_unscored(match.second, dim) / len(match.second)
            - unscored_clips.count_unscored(match.first, dim) / len(match.first)
            for match, _ in kept
        ]
    )
    sums = clusters(gaps, [group for _, group in kept]).sums if len(gaps) else gaps
    unequal = sums[np.abs(sums) > 1e-12]
    return float(sign_flip_p(unequal)) if len(unequal) else None


# --- unpaired -------------------------------------------------------------------------


def _unpaired(sets: MatchedSets, request: DimRequest, family: int) -> Row:
    """Return the numbers of two sets without pairs: the difference of the means over clips.

    There are no wins, because no clips belong together.
    """
    dim = request.dim
    sides = [
        [
            clip
            for clip in side
            if unscored_clips.count_unscored([clip], dim) == 0
            or not unscored_clips.is_inapplicable(clip, dim)
        ]
        for side in sets.sides
    ]
    worst = unscored_clips.worst_value(sides, dim, request.range)
    unscored = [unscored_clips.count_unscored(side, dim) for side in sides]
    scored = [
        [clip for clip in side if not unscored_clips.count_unscored([clip], dim)] for side in sides
    ]
    a, b = ([clip["value"][dim] for clip in side] for side in scored)
    scored_estimate = _unpaired_estimate(
        [_clusters(side, dim, worst) for side in scored], request, family
    )
    worst_estimate = (
        _unpaired_estimate([_clusters(side, dim, worst) for side in sides], request, family)
        if any(unscored) and a and b
        else None
    )
    prompts = [len({clip["prompt"] for clip in side if clip.get("prompt")}) for side in scored]
    no_wins = dict.fromkeys(("wins", "ties", "losses", "win_rate", "win_low", "win_high"))
    return (
        _with_bound(scored_estimate, worst_estimate, worst)
        | no_wins
        | {
            "effect": json_number(hedges_g(a, b)),
            "n": min(len(a), len(b)),
            "prompts": min(prompts),
            "groups": min(len(set(duplicates.dependence_groups(side))) for side in scored),
            "spread": None,
            "clips": [len(a), len(b)],
            "unscored": {
                "counts": unscored,
                "of": [len(side) for side in sides],
                "p": _unpaired_unscored_p(sides, dim, unscored),
            },
            "equal": False,
        }
    )


def _clusters(clips: Sequence[Clip], dim: str, bottom: float) -> Clusters:
    """Return the clips' values summed by group, clips without a number as `bottom`."""
    values = np.array([unscored_clips.mean_value([clip], dim, bottom) for clip in clips])
    return clusters(values, duplicates.dependence_groups(clips))


def _unpaired_estimate(sides: Sequence[Clusters], request: DimRequest, family: int) -> Row:
    """Return mean, intervals and p of the difference of two sets without pairs."""
    limits = as_limits(request.range)
    return _with_intervals(lambda **how: difference(sides[0], sides[1], limits, **how), family)


def _unpaired_unscored_p(
    sides: Sequence[Sequence[Clip]], dim: str, unscored: Sequence[int]
) -> float | None:
    """Return the p value of "both sets are equally likely to have unscored clips".

    Prompts, with all their clips, are exchanged between the sets.
    """
    if not any(unscored):
        return None
    sums = [
        clusters(
            np.array([float(unscored_clips.count_unscored([clip], dim)) for clip in side]),
            duplicates.dependence_groups(side),
        )
        for side in sides
    ]
    return json_number(exchange_p(sums[0], sums[1]))


# --- small differences ----------------------------------------------------------------


def margin_statement(row: Mapping[str, Any], margin: float | None) -> str | None:
    """Return what is shown about a margin: "equivalent", "not worse", "not better" or None.

    A difference is equivalent if the simultaneous interval lies in (−margin, margin), also
    with unscored clips counted as the worst (two one-sided tests: Schuirmann 1987,
    doi:10.1007/BF01068419).

    >>> ends = {"all_low": -0.02, "all_high": 0.3, "worst": None}
    >>> [margin_statement(ends, margin) for margin in (0.5, 0.1, 0.01, None)]
    ['equivalent', 'not worse', None, None]
    """
    estimates = [estimate for estimate in (row, row["worst"]) if estimate is not None]
    if margin is None or any(
        estimate["all_low"] is None or estimate["all_high"] is None for estimate in estimates
    ):
        return None
    not_worse = all(estimate["all_low"] > -margin for estimate in estimates)
    not_better = all(estimate["all_high"] < margin for estimate in estimates)
    if not_worse and not_better:
        return "equivalent"
    return "not worse" if not_worse else "not better" if not_better else None
