"""Is one set better than another, by how much, and how sure is that? Every set against
every other one.

The null of a p value is that the mean difference over prompts is 0, whatever the shape of
the differences and, of unpaired sets, whatever their spreads. Intervals and p values are of
one calculation, see `vidrl.inference.means`.

All comparisons of a page, each pair of sets on each dim, are one family: p values are
corrected by Holm's steps over all of them, so that a page holds a false claim in at most 5
% of cases, however many sets and dims it has. A dim that was named before the clips were
measured, `primary`, is tested first and not corrected for the others, which may then be
claimed only where it is (serial gatekeeping: Westfall and Krishen 2001,
doi:10.1016/S0378-3758(01)00077-5). With several pairs of sets each pair has an equal part
of the 5 %.
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
Dims = Iterable[str | Mapping[str, Any]]  # by name, or as results.json has them, with their "range"


def compare(
    first: Set,
    second: Set,
    dims: Dims,
    least: int = 20,
    primary: str | None = None,
    margins: Mapping[str, float] | None = None,
) -> list[Row]:
    """Two sets of results.json on each dim, as its "comparisons" has it; `p_holm` is
    corrected over these dims.

    `difference` is second less first, over the clips that are scored; `low` and `high` its
    95 % interval. `worst` has the same numbers with every clip without a number counted as
    the worst, None where all have one, and `p` is of both, see `vidrl.bench.difference`.
    `unscored` counts those clips of the two sets, with the p of equal shares of them.

    `n` counts pairs, of unpaired sets the clips of the smaller one; `clips` are those of
    either set that the difference rests on, and `enough` is at least `least` of them and
    two prompts. `effect` is Hedges' g by the spread among clips. `wins`, `ties` and
    `losses` count prompts; `win_rate` is how often a clip of the second set is better than
    one of the first of the same prompt, ties half, a clip without a number lost, from
    `win_low` to `win_high`. None of these depends on the way of pairing, which the `notes`
    tell, with what was left out.

    >>> clip = lambda i, x: {"path": f"{i}.mp4", "prompt": str(i), "seed": 0, "value": {"flicker": x}}
    >>> a, b = ({"name": name, "clips": [clip(i, i**rise) for i in range(8)]} for name, rise in (("a", 1), ("b", 2)))
    >>> row, = compare(a, b, ["flicker"], least=8)
    >>> row["difference"], round(row["p"], 3), row["wins"], row["paired_by"], row["n"], row["prompts"]
    (14.0, 0.091, 6, 'prompt and seed', 8, 8)
    """
    return compare_all([first, second], dims, least, primary, margins)


def compare_all(
    sets: Sequence[Set],
    dims: Dims,
    least: int = 20,
    primary: str | None = None,
    margins: Mapping[str, float] | None = None,
) -> list[Row]:
    """Every set against every one before it; `p_holm` is corrected over all of these
    comparisons.

    `all_low` to `all_high` are intervals that hold all together in 95 % of cases. `margin`
    is the largest difference that does not matter, of `margins` or the dim's least relevant
    one, and `within` what such an interval says of it: "equivalent", "not worse" or "not
    better"; None where it says nothing.

    Raises ValueError where the primary dim is none of the dims.
    """
    asked = [DimRequest.of(dim, margins or {}) for dim in dims]
    pairs = [(first, second) for i, first in enumerate(sets) for second in sets[i + 1 :]]
    return with_holm(
        [
            row
            for first, second in pairs
            for row in difference.compare_dims(first, second, asked, least, len(asked) * len(pairs))
        ],
        primary,
    )


def compare_results(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Row]:
    """The first set of one results.json and the sets of another, on the dims of both.
    Raises what `shared_dims` does."""
    shared = shared_dims(first, second)
    dims = [dim for dim in first["dims"] if dim["name"] in shared]
    return compare_all([first["sets"][0], *second["sets"]], dims, int(first["suite"]["least"]))


def shared_dims(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """The dims that two results have in common.

    Raises ValueError where their protocols differ, where a dim of one name was measured in
    two ways, and where no dim is in common: such numbers must not be compared.
    """
    a, b = (results["protocol"] for results in (first, second))
    if a["hash"] != b["hash"]:
        unlike = [key for key in a if key != "hash" and a[key] != b.get(key)]
        told = ", ".join(f"{key} {a[key]!r} and {b.get(key)!r}" for key in unlike)
        raise ValueError(
            f"expected one protocol, got {a['hash']} and {b['hash']} ({told}): measure both sets in one "
            "run, or with the same --fps, --side and --frames"
        )
    mine, other = ({dim["name"]: dim for dim in results["dims"]} for results in (first, second))
    shared = [name for name in mine if name in other]
    for name in shared:
        if mine[name]["hash"] != other[name]["hash"]:
            raise ValueError(
                f"dim {name!r} was measured in two ways, {mine[name]['hash']} and {other[name]['hash']}: "
                "its reward's options, version or weights differ; measure both sets in one run"
            )
    if not shared:
        raise ValueError(f"expected a dim in common, got {', '.join(mine)} and {', '.join(other)}")
    return shared


def order_pairs(first: Set, second: Set, dim: str) -> list[Pair]:
    """The pairs scored on both sides, from the best for the second set to the worst;
    nothing where nothing pairs.

    >>> clip = lambda i, x: {"path": f"{i}.mp4", "prompt": str(i), "seed": 0, "value": {"flicker": x}}
    >>> a, b = ({"clips": [clip(i, x) for i, x in enumerate(xs)]} for xs in ([0.1, 0.1, 0.1], [0.2, 0.0, 0.3]))
    >>> [pair.prompt for pair in order_pairs(a, b, "flicker")]
    ['2', '0', '1']
    """
    return sorted(
        pairs(first["clips"], second["clips"], dim).pairs, key=lambda pair: -pair.difference
    )


# --- correction
# ------------------------------------------------------------------------------------------------------


def with_holm(rows: list[Row], primary: str | None = None) -> list[Row]:
    """With `p_holm`, over those that have a p: one family, or the primary dim first, and
    the others behind it.

    >>> rows = [{"first": "a", "second": "b", "dim": dim, "p": p} for dim, p in (("x", 0.04), ("y", 0.01), ("z", 0.5))]
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
    for part in pairs_of.values():
        _correct_after_primary(part, primary, len(pairs_of))
    return rows


def _holm_over(rows: list[Row]) -> list[Row]:
    tested = [row for row in rows if row["p"] is not None]
    for row, p in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["p_holm"] = p
    return rows


def _correct_after_primary(rows: list[Row], primary: str, pairs: int) -> None:
    """The rows of one of so many pairs of sets: no part is surer than the primary dim."""
    first = next(row for row in rows if row["dim"] == primary)
    first["p_holm"] = None if first["p"] is None else min(1.0, pairs * first["p"])
    gate = 1.0 if first["p_holm"] is None else first["p_holm"]
    for row in _holm_over([row for row in rows if row is not first]):
        row["p_holm"] = None if row["p"] is None else max(gate, min(1.0, pairs * row["p_holm"]))
