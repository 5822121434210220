"""Compare sets of clips: is one set better than another, by how much, and how sure is it?

The null hypothesis of each p value is "the mean difference over prompts is 0". It assumes
nothing about the shape of the differences or, for unpaired sets, about their variances. The
interval and the p value come from one calculation, see `vidrl.inference.means`.

All comparisons of a page, each pair of sets on each dim, form one family. With many tests
some p values fall below 0.05 by chance, so p is corrected by Holm's method over the whole
family: a page then holds a false claim in at most 5 % of cases, however many sets and dims
it has.

A dim that was named before the clips were measured, `primary`, is tested first and needs no
correction for the other dims. The others may be claimed only where the primary dim is
(serial gatekeeping: Westfall and Krishen 2001, doi:10.1016/S0378-3758(01)00077-5). With
several pairs of sets, each pair has an equal part of the 5 %.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vidrl.bench import difference
from vidrl.bench.difference import DimRequest
from vidrl.bench.pairing import Pair, Pairs, pairs
from vidrl.inference.families import holm

__all__ = [
    "Pair",
    "Pairs",
    "compare_results",
    "shared_dims",
    "compare",
    "compare_all",
    "order_pairs",
    "pairs",
]

Row = dict[str, Any]
Set = Mapping[str, Any]  # of results.json
Dims = Iterable[str | Mapping[str, Any]]  # by name, or as results.json stores them, with "range"


def compare(
    first: Set,
    second: Set,
    dims: Dims,
    least: int = 20,
    primary: str | None = None,
    margins: Mapping[str, float] | None = None,
) -> list[Row]:
    """Compare two sets of results.json on each dim, one row a dim as "comparisons" has it.

    The row of a dim has, for the clips that are scored:

    - `difference`: the mean of the second set less that of the first, over prompts; `low`
      and `high` are the ends of its 95 % interval.
    - `worst`: the same numbers with every clip without a number counted as the worst value;
      None where all clips have a number.
    - `p`: the larger p value of these two, see `vidrl.bench.difference`; `p_holm` is
      corrected over all rows.
    - `unscored`: the counts of clips without a number in the two sets, and the p value of
      "both sets lack equally many".
    - `n`: the number of pairs, or for unpaired sets the clips of the smaller set; `clips`:
      how many clips of either set the difference rests on; `enough`: at least `least` clips
      of each set, and two prompts.
    - `effect`: Hedges' g, the difference divided by the standard deviation among clips.
    - `wins`, `ties`, `losses`: counts of prompts. `win_rate`: how often a clip of the
      second set is better than a clip of the first set of the same prompt; a tie counts
      1/2, a clip without a number loses; `win_low` and `win_high` are its interval.
    - `notes`: how clips were paired, why, and what was left out.

    >>> clip = lambda i, x: {
    ...     "path": f"{i}.mp4", "prompt": str(i), "seed": 0, "value": {"flicker": x}}
    >>> a, b = (
    ...     {"name": name, "clips": [clip(i, i**power) for i in range(8)]}
    ...     for name, power in (("a", 1), ("b", 2))
    ... )
    >>> row, = compare(a, b, ["flicker"], least=8)
    >>> row["difference"], round(row["p"], 3), row["wins"], row["n"], row["prompts"]
    (14.0, 0.091, 6, 8, 8)
    >>> row["paired_by"]
    'prompt and seed'
    """
    return compare_all([first, second], dims, least, primary, margins)


def compare_all(
    sets: Sequence[Set],
    dims: Dims,
    least: int = 20,
    primary: str | None = None,
    margins: Mapping[str, float] | None = None,
) -> list[Row]:
    """Compare every set with every set before it, as `compare` does, in one family of tests.

    `all_low` and `all_high` are the ends of intervals that hold for all comparisons
    together in 95 % of cases. `margin` is the largest difference that does not matter: of
    `margins`, else the dim's least relevant difference. `within` says what the simultaneous
    interval shows about it: "equivalent", "not worse", "not better", or None.

    Raises ValueError if `primary` is none of the dims.
    """
    requests = [DimRequest.of(dim, margins or {}) for dim in dims]
    pairs = [(first, second) for i, first in enumerate(sets) for second in sets[i + 1 :]]
    return with_holm(
        [
            row
            for first, second in pairs
            for row in difference.compare_dims(
                first, second, requests, least, len(requests) * len(pairs)
            )
        ],
        primary,
    )


def compare_results(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Row]:
    """Compare the first set of one results.json with the sets of another, on the shared dims.

    Raises ValueError as `shared_dims` does.
    """
    names = shared_dims(first, second)
    dims = [dim for dim in first["dims"] if dim["name"] in names]
    return compare_all([first["sets"][0], *second["sets"]], dims, int(first["suite"]["least"]))


def shared_dims(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Return the names of the dims that two results have in common.

    Raises ValueError if the protocols differ, if a dim of one name was measured in two
    ways, or if there is no common dim: such numbers must not be compared.
    """
    a, b = (results["protocol"] for results in (first, second))
    if a["hash"] != b["hash"]:
        unlike = [key for key in a if key != "hash" and a[key] != b.get(key)]
        differences = ", ".join(f"{key} {a[key]!r} and {b.get(key)!r}" for key in unlike)
        raise ValueError(
            f"expected one protocol, got {a['hash']} and {b['hash']} ({differences}): measure "
            "both sets in one run, or with the same --fps, --side and --frames"
        )
    own, other = ({dim["name"]: dim for dim in results["dims"]} for results in (first, second))
    shared = [name for name in own if name in other]
    for name in shared:
        if own[name]["hash"] != other[name]["hash"]:
            raise ValueError(
                f"dim {name!r} was measured in two ways, {own[name]['hash']} and "
                f"{other[name]['hash']}: "
                "its reward's options, version or weights differ; measure both sets in one run"
            )
    if not shared:
        raise ValueError(f"expected a dim in common, got {', '.join(own)} and {', '.join(other)}")
    return shared


def order_pairs(first: Set, second: Set, dim: str) -> list[Pair]:
    """Return the pairs scored on both sides, from the best for the second set to the worst.

    The list is empty where the sets have no pairs.

    >>> clip = lambda i, x: {
    ...     "path": f"{i}.mp4", "prompt": str(i), "seed": 0, "value": {"flicker": x}}
    >>> values = ([0.1, 0.1, 0.1], [0.2, 0.0, 0.3])
    >>> a, b = ({"clips": [clip(i, x) for i, x in enumerate(xs)]} for xs in values)
    >>> [pair.prompt for pair in order_pairs(a, b, "flicker")]
    ['2', '0', '1']
    """
    return sorted(
        pairs(first["clips"], second["clips"], dim).pairs, key=lambda pair: -pair.difference
    )


# --- correction -----------------------------------------------------------------------


def with_holm(rows: list[Row], primary: str | None = None) -> list[Row]:
    """Add `p_holm` to the rows that have a p value, as one family or after the primary dim.

    Holm's method sorts m p values and multiplies the k-th smallest by m − k + 1 (Holm 1979,
    Scandinavian Journal of Statistics 6).

    >>> rows = [
    ...     {"first": "a", "second": "b", "dim": dim, "p": p}
    ...     for dim, p in (("x", 0.04), ("y", 0.01), ("z", 0.5))
    ... ]
    >>> [row["p_holm"] for row in with_holm(rows)]
    [0.08, 0.03, 0.5]
    >>> [row["p_holm"] for row in with_holm(rows, "x")]
    [0.04, 0.04, 0.5]
    """
    if primary is None:
        return _holm_over(rows)
    if primary not in (names := [row["dim"] for row in rows]) and rows:
        raise ValueError(
            f"expected one of the measured dims as the primary one, got {primary!r}; the dims are "
            f"{', '.join(dict.fromkeys(names))}"
        )
    pairs_of: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        pairs_of.setdefault((row["first"], row["second"]), []).append(row)
    for rows_of_pair in pairs_of.values():
        _correct_after_primary(rows_of_pair, primary, len(pairs_of))
    return rows


def _holm_over(rows: list[Row]) -> list[Row]:
    """Set `p_holm` of the rows that have a p value, corrected as one family."""
    tested = [row for row in rows if row["p"] is not None]
    for row, p in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["p_holm"] = p
    return rows


def _correct_after_primary(rows: list[Row], primary: str, pairs: int) -> None:
    """Correct the rows of one of `pairs` pairs of sets; no dim gets a p below the primary's."""
    first = next(row for row in rows if row["dim"] == primary)
    # Bonferroni over the pairs of sets: each pair may use an equal part of the 5 %.
    first["p_holm"] = None if first["p"] is None else min(1.0, pairs * first["p"])
    # Gatekeeping: the other dims are claimed only where the primary dim is, so their p
    # values are at least the primary's.
    gate = 1.0 if first["p_holm"] is None else first["p_holm"]
    for row in _holm_over([row for row in rows if row is not first]):
        row["p_holm"] = None if row["p"] is None else max(gate, min(1.0, pairs * row["p_holm"]))
