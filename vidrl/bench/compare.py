"""Is one set better than another, by how much, and how sure is that? Paired where clips were made alike.

p values are of sign flips over prompts (all clips of a prompt together), exact for few; of unpaired sets, of prompts
exchanged between the sets, by Student's ratio, which allows for unequal spreads (arXiv:1304.5939). Over dims, and over
sets, they are corrected by Holm's steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vidrl.bench.pairing import UNPAIRED, Pair, Pairs, pairs
from vidrl.bench.statistics import number
from vidrl.inference.clusters import Array, Clusters, clusters, scored
from vidrl.inference.effects import effect
from vidrl.inference.exchange import exchange_p
from vidrl.inference.families import holm
from vidrl.inference.flips import sign_flip_p
from vidrl.inference.means import interval
from vidrl.inference.resampling import DRAWS, bounds
from vidrl.inference.shares import share

__all__ = ["Pair", "Pairs", "between", "check", "compare", "compare_all", "order", "pairs"]

Row = dict[str, Any]
Set = Mapping[str, Any]  # of results.json
TIE = 1e-9  # of the larger of two values: differences below are rounding


def compare(first: Set, second: Set, dims: Iterable[str | Mapping[str, Any]], least: int = 20) -> list[Row]:
    """Two sets of results.json on each dim, as its "comparisons" has it; `p_holm` is corrected over these dims.

    `difference` is second less first. `n` counts pairs, of unpaired sets the clips of the smaller one, and below
    `least` it is noted. `effect` is Hedges' g. `win_rate` counts ties half; its interval is `win_low` to `win_high`.
    Clips that are unscored or without a partner are left out, and `notes` count them.

    >>> clip = lambda i, x: {"path": f"{i}.mp4", "prompt": str(i), "seed": 0, "value": {"flicker": x}}
    >>> a, b = ({"name": name, "clips": [clip(i, i + rise) for i in range(5)]} for name, rise in (("a", 0), ("b", 1)))
    >>> row, = compare(a, b, ["flicker"], least=5)
    >>> row["difference"], row["p"], row["wins"], row["paired_by"], row["n"], row["prompts"]
    (1.0, 0.0625, 5, 'prompt and seed', 5, 5)
    """
    return _corrected(_rows(first, second, dims, least))


def compare_all(sets: Sequence[Set], dims: Iterable[str | Mapping[str, Any]], least: int = 20) -> list[Row]:
    """Every other set against the first; `p_holm` is corrected over all of these comparisons."""
    dims = list(dims)
    return _corrected([row for second in sets[1:] for row in _rows(sets[0], second, dims, least)])


def between(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Row]:
    """The sets of another results.json against the first set of one, on the dims of both. Raises what `check` does."""
    dims = check(first, second)
    return compare_all([first["sets"][0], *second["sets"]], dims, int(first["suite"]["least"]))


def check(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """The dims that two results have in common.

    Raises ValueError where their protocols differ, where a dim of one name was measured in two ways, and where no dim
    is in common: such numbers must not be compared.
    """
    a, b = (results["protocol"] for results in (first, second))
    if a["hash"] != b["hash"]:
        unlike = [key for key in a if key != "hash" and a[key] != b.get(key)]
        told = ", ".join(f"{key} {a[key]!r} and {b.get(key)!r}" for key in unlike)
        raise ValueError(f"expected one protocol, got {a['hash']} and {b['hash']} ({told}): measure both sets in one "
                         "run, or with the same --fps, --side and --frames")
    mine, other = ({dim["name"]: dim for dim in results["dims"]} for results in (first, second))
    shared = [name for name in mine if name in other]
    for name in shared:
        if mine[name]["hash"] != other[name]["hash"]:
            raise ValueError(f"dim {name!r} was measured in two ways, {mine[name]['hash']} and {other[name]['hash']}: "
                             "its reward's options, version or weights differ; measure both sets in one run")
    if not shared:
        raise ValueError(f"expected a dim in common, got {', '.join(mine)} and {', '.join(other)}")
    return shared


def order(first: Set, second: Set, dim: str) -> list[Pair]:
    """The pairs scored on both sides, from the best for the second set to the worst; nothing where nothing pairs.

    >>> clip = lambda i, x: {"path": f"{i}.mp4", "prompt": str(i), "seed": 0, "value": {"flicker": x}}
    >>> a, b = ({"clips": [clip(i, x) for i, x in enumerate(xs)]} for xs in ([0.1, 0.1, 0.1], [0.2, 0.0, 0.3]))
    >>> [pair.prompt for pair in order(a, b, "flicker")]
    ['2', '0', '1']
    """
    return sorted(pairs(first["clips"], second["clips"], dim).pairs, key=lambda pair: -pair.difference)


# --- one dim ---------------------------------------------------------------------------------------------------------


def _rows(first: Set, second: Set, dims: Iterable[str | Mapping[str, Any]], least: int) -> list[Row]:
    names = [dim if isinstance(dim, str) else dim["name"] for dim in dims]
    return [_row(first, second, dim, least) for dim in names]


def _row(first: Set, second: Set, dim: str, least: int) -> Row:
    found = pairs(first["clips"], second["clips"], dim, (first["name"], second["name"]))
    numbers = _unpaired(first, second, dim) if found.by == UNPAIRED else _paired(found.pairs)
    what = "clips" if found.by == UNPAIRED else "pairs"
    few = [f"fewer than {least} {what}: {numbers['n']}"] if numbers["n"] < least else []
    row = {"first": first["name"], "second": second["name"], "dim": dim}
    return row | numbers | {"paired_by": found.by, "notes": [*few, *_alike(numbers), *found.notes]}


def _paired(found: Sequence[Pair]) -> Row:
    """The numbers of pairs: mean difference, its interval and p over prompts, wins, effect."""
    gaps, prompts = np.array([pair.difference for pair in found]), [pair.prompt for pair in found]
    gaps = np.where(_tied(found), 0.0, gaps) if found else gaps
    over = interval(gaps, prompts)
    p = sign_flip_p(_by_prompt(gaps, prompts).sums) if over.groups > 1 else math.nan
    size = effect([pair.before for pair in found], [pair.after for pair in found])
    return _numbers(over.mean, over.low, over.high, p) | _wins(gaps, prompts) | {
        "effect": number(size), "n": over.n, "prompts": len(set(prompts) - {""})}


def _unpaired(first: Set, second: Set, dim: str) -> Row:
    """The numbers of two sets without pairs: the difference of the means over clips; nobody wins."""
    known = [scored([clip["value"].get(dim) for clip in one["clips"]], [clip.get("prompt") for clip in one["clips"]])
             for one in (first, second)]
    (a, mine), (b, others) = known
    sides = [clusters(a, mine), clusters(b, others)]
    difference = sides[1].mean - sides[0].mean
    low, high = bounds(difference, sides[0].variance + sides[1].variance, sides, 0.95, DRAWS, 0)
    given = [len({clip["prompt"] for clip in one["clips"] if clip.get("prompt")}) for one in (first, second)]
    nobody = dict.fromkeys(("wins", "ties", "losses", "win_rate", "win_low", "win_high"))
    return _numbers(difference, low, high, exchange_p(sides[0], sides[1])) | nobody | {
        "effect": number(effect(a, b)), "n": min(len(a), len(b)), "prompts": min(given)}


def _numbers(difference: float, low: float, high: float, p: float) -> Row:
    return {"difference": number(difference), "low": number(low), "high": number(high), "p": number(p), "p_holm": None}


def _wins(gaps: Array, prompts: Sequence[str]) -> Row:
    """How often the second is better, and its share with ties half."""
    rate = share((np.sign(gaps) + 1) / 2, prompts)
    return {"wins": int((gaps > 0).sum()), "ties": int((gaps == 0).sum()), "losses": int((gaps < 0).sum()),
            "win_rate": number(rate.mean), "win_low": number(rate.low), "win_high": number(rate.high)}


def _tied(found: Sequence[Pair]) -> Array:
    """Whether the values of each pair are the same but for rounding."""
    before, after = (np.array([getattr(pair, side) for pair in found]) for side in ("before", "after"))
    return np.abs(after - before) <= TIE * np.maximum(np.abs(before), np.abs(after))


def _by_prompt(gaps: Array, prompts: Sequence[str]) -> Clusters:
    return clusters(*scored(gaps, prompts))


def _alike(numbers: Row) -> list[str]:
    one = ["one prompt: nothing is said of other prompts"] if numbers["n"] > 1 and numbers["p"] is None else []
    same = numbers["n"] and numbers["ties"] == numbers["n"]
    return one + [f"all {numbers['n']} pairs are equal"] * bool(same)


def _corrected(rows: list[Row]) -> list[Row]:
    """With `p_holm`, over those that have a p."""
    tested = [row for row in rows if row["p"] is not None]
    for row, p in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["p_holm"] = p
    return rows
