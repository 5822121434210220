"""What a reader must know before quoting a difference: the same sentences for the terminal,
the page and the tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vidrl.bench import duplicates
from vidrl.bench.sample_size import detectable_difference, fewest_prompts
from vidrl.bench.verdicts import LEVEL, Results, Row, has_enough_clips, is_withheld, verdict

MAX_OF_A_KIND = 5  # sentences of one kind; with many sets there would be hundreds


def caveats(results: Results) -> list[str]:
    """Sentences on clips without a number, copies, the way of pairing, and differences that
    rest on few clips."""
    rows = results.get("comparisons") or []
    kinds = [
        _without_verdict(results, rows),
        _unequal(rows),
        _few(results, rows),
        _few_prompts(results, rows),
        _pairing(rows),
        duplicates.duplicate_notes(results["sets"]),
    ]
    return [sentence for kind in kinds for sentence in _shortened(kind)]


def _shortened(said: Sequence[str]) -> list[str]:
    left = len(said) - MAX_OF_A_KIND
    more = [
        f"and {left} more of this kind: the notes of the comparisons in results.json have all"
    ] * (left > 0)
    return [*said[:MAX_OF_A_KIND], *more]


def _without_verdict(results: Results, rows: Sequence[Row]) -> list[str]:
    """The differences that clips without a number forbid to claim, a sentence for two
    sets."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if is_withheld(results, row):
            found.setdefault((row["first"], row["second"]), []).append(row)
    return [
        f"no verdict on {_listed([row['dim'] for row in lost])} between {first} and {second}: "
        "count clips without a number as worst, and the difference is not beyond doubt "
        f"({'; '.join(map(_instead, lost))})"
        for (first, second), lost in found.items()
    ]


def _instead(row: Row) -> str:
    return f"{row['dim']}: {_lost(row)}, {_with_ends(row['worst'])} instead of {_with_ends(row)}"


def _unequal(rows: Sequence[Row]) -> list[str]:
    """How often two sets have no number, the dims of equal counts together; those that
    differ surely come first."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    dims = len({row["dim"] for row in rows})
    for row in rows:
        unscored = row.get("unscored") or {}
        if unscored.get("p") is not None and any(unscored["counts"]):
            found.setdefault(
                (unscored["p"], row["first"], row["second"], *unscored["counts"]), []
            ).append(row)
    return [
        f"{_lost(alike[0], both=True)} have no number on "
        f"{'any dim' if len(alike) == dims > 1 else _listed([row['dim'] for row in alike])}: "
        f"{_chance(key[0])}"
        for key, alike in sorted(found.items(), key=lambda one: one[0][0])
    ]


def _chance(p: float) -> str:
    told = "p < 0.001" if p < 0.001 else f"p = {p:.2g}"
    return (
        f"the sets fail unequally often ({told}), so the scored clips alone do not compare them"
        if p < LEVEL
        else f"that may be chance ({told})"
    )


def _few(results: Results, rows: Sequence[Row]) -> list[str]:
    """The pairs of sets whose differences rest on fewer clips than the suite asks for."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.get("clips") and not has_enough_clips(results, row):
            found.setdefault((row["first"], row["second"]), []).append(row)
    least = results["suite"].get("least", 20)
    return [
        f"between {first} and {second} no difference is claimed on {_dims(few, rows)}, "
        "because it rests on "
        f"{min(min(row['clips']) for row in few)} clips of one set, or on a single prompt: "
        f"the minimum is {least} clips of two prompts"
        for (first, second), few in found.items()
    ]


def _few_prompts(results: Results, rows: Sequence[Row]) -> list[str]:
    """The pairs of sets of which nothing could be beyond doubt, however large the
    differences were."""
    family = len([row for row in rows if row.get("difference") is not None])
    most: dict[tuple[str, str], int] = {}
    for row in rows:
        if row.get("groups") and row.get("spread") is not None:
            key = (row["first"], row["second"])
            most[key] = max(most.get(key, 0), row["groups"])
    primary = (results.get("claims") or {}).get("primary")
    other = "" if primary else ", or one dim named beforehand with --primary"
    least = fewest_prompts(len(most) if primary else family) if most else 0
    few = {names: prompts for names, prompts in most.items() if prompts < least}
    if len(few) > 1 and len(set(few.values())) == 1 and few == most:
        few = {("any set", "any other"): next(iter(few.values()))}
    return [
        f"between {first} and {second} nothing can be beyond doubt, however large: {prompts} "
        f"prompts are too few for {family} comparisons, which take {least}{other}"
        for (first, second), prompts in few.items()
    ]


def detectable_differences(results: Results) -> list[str]:
    """What differences so many prompts find, for two or three sets that are paired, dims
    without a verdict only."""
    rows = [row for row in results.get("comparisons") or [] if row.get("spread") is not None]
    said: dict[tuple[str, str, int], list[str]] = {}
    for row in rows:
        least = (
            detectable_difference(row["spread"], row["groups"], len(rows))
            if not verdict(results, row)
            else None
        )
        if least is not None:
            said.setdefault((row["first"], row["second"], row["groups"]), []).append(
                f"{row['dim']} {least:.2g}"
            )
    return [
        f"between {first} and {second} {prompts} prompts find, in 80 % of cases, differences from: "
        f"{', '.join(dims)}"
        for (first, second, prompts), dims in said.items()
    ]


def _dims(few: Sequence[Row], rows: Sequence[Row]) -> str:
    every = len({row["dim"] for row in rows})
    return "any dim" if len(few) == every and every > 1 else _listed([row["dim"] for row in few])


def _pairing(rows: Sequence[Row]) -> list[str]:
    """Why clips were paired as they were, and what was left out; the same for all dims of
    two sets."""
    first_of = {(row["first"], row["second"]): row for row in reversed(rows)}
    return [
        f"{row['first']} and {row['second']}: {'; '.join(row['pairing'])}"
        for row in reversed(first_of.values())
        if row.get("pairing")
    ]


def _lost(row: Row, both: bool = False) -> str:
    unscored = row["unscored"]
    return " and ".join(
        f"{count} of {total} clips of {row[side]}"
        for count, total, side in zip(
            unscored["counts"], unscored["of"], ("first", "second"), strict=True
        )
        if count or both
    )


def _with_ends(row: Mapping[str, Any]) -> str:
    ends = "" if row["low"] is None else f" [{row['low']:.3g}, {row['high']:.3g}]"
    return f"{row['difference']:+.3g}{ends}"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
