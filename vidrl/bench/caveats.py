"""Write what a reader must know before quoting a difference.

The terminal, the page and the tables print the same sentences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vidrl.bench import duplicates
from vidrl.bench.sample_size import detectable_difference, fewest_prompts
from vidrl.bench.verdicts import LEVEL, Results, Row, has_enough_clips, is_withheld, verdict

MAX_OF_A_KIND = 5  # sentences of one kind; many sets would give hundreds


def caveats(results: Results) -> list[str]:
    """Return sentences on unscored clips, duplicates, pairing and small numbers of clips."""
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


def _shortened(sentences: Sequence[str]) -> list[str]:
    """Return the first sentences of a kind, and how many more there are."""
    removed = len(sentences) - MAX_OF_A_KIND
    more = [
        f"and {removed} more of this kind: the notes of the comparisons in results.json have all"
    ] * (removed > 0)
    return [*sentences[:MAX_OF_A_KIND], *more]


def _without_verdict(results: Results, rows: Sequence[Row]) -> list[str]:
    """Return a sentence for each two sets whose verdicts are withheld for unscored clips."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if is_withheld(results, row):
            found.setdefault((row["first"], row["second"]), []).append(row)
    return [
        f"no verdict on {_listed([row['dim'] for row in withheld])} between {first} and {second}: "
        "count clips without a number as worst, and the difference is not beyond doubt "
        f"({'; '.join(map(_instead, withheld))})"
        for (first, second), withheld in found.items()
    ]


def _instead(row: Row) -> str:
    return f"{row['dim']}: {_lost(row)}, {_with_ends(row['worst'])} instead of {_with_ends(row)}"


def _unequal(rows: Sequence[Row]) -> list[str]:
    """Return how often two sets lack a number, significant inequalities first.

    Dims with equal counts share a sentence.
    """
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
    """Say whether the sets fail unequally often, by the p value of equal shares."""
    p_text = "p < 0.001" if p < 0.001 else f"p = {p:.2g}"
    return (
        f"the sets fail unequally often ({p_text}), so the scored clips alone do not compare them"
        if p < LEVEL
        else f"that may be chance ({p_text})"
    )


def _few(results: Results, rows: Sequence[Row]) -> list[str]:
    """Return sentences on sets whose differences rest on too few clips."""
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
    """Return sentences on sets with too few prompts for any verdict.

    With few prompts even unanimous differences give a p value that Holm's correction over
    the family raises above 0.05.
    """
    family = len([row for row in rows if row.get("difference") is not None])
    prompts_of: dict[tuple[str, str], int] = {}
    for row in rows:
        if row.get("groups") and row.get("spread") is not None:
            key = (row["first"], row["second"])
            prompts_of[key] = max(prompts_of.get(key, 0), row["groups"])
    primary = (results.get("claims") or {}).get("primary")
    hint = "" if primary else ", or one dim named beforehand with --primary"
    # A primary dim is corrected only for the number of pairs of sets, not for the other
    # dims.
    least = fewest_prompts(len(prompts_of) if primary else family) if prompts_of else 0
    too_few = {names: prompts for names, prompts in prompts_of.items() if prompts < least}
    if len(too_few) > 1 and len(set(too_few.values())) == 1 and too_few == prompts_of:
        too_few = {("any set", "any other"): next(iter(too_few.values()))}
    return [
        f"between {first} and {second} nothing can be beyond doubt, however large: {prompts} "
        f"prompts are too few for {family} comparisons, which take {least}{hint}"
        for (first, second), prompts in too_few.items()
    ]


def detectable_differences(results: Results) -> list[str]:
    """Return which differences so many prompts would find, for dims without a verdict.

    For two or three paired sets; the power is 80 % after Bonferroni's correction for all
    rows.
    """
    rows = [row for row in results.get("comparisons") or [] if row.get("spread") is not None]
    differences_of: dict[tuple[str, str, int], list[str]] = {}
    for row in rows:
        least = (
            detectable_difference(row["spread"], row["groups"], len(rows))
            if not verdict(results, row)
            else None
        )
        if least is not None:
            differences_of.setdefault((row["first"], row["second"], row["groups"]), []).append(
                f"{row['dim']} {least:.2g}"
            )
    return [
        f"between {first} and {second} {prompts} prompts find, in 80 % of cases, differences from: "
        f"{', '.join(dims)}"
        for (first, second, prompts), dims in differences_of.items()
    ]


def _dims(few: Sequence[Row], rows: Sequence[Row]) -> str:
    """Name the dims, or "any dim" if they are all."""
    every = len({row["dim"] for row in rows})
    return "any dim" if len(few) == every and every > 1 else _listed([row["dim"] for row in few])


def _pairing(rows: Sequence[Row]) -> list[str]:
    """Return why clips were paired as they were; one sentence for each two sets."""
    first_of = {(row["first"], row["second"]): row for row in reversed(rows)}
    return [
        f"{row['first']} and {row['second']}: {'; '.join(row['pairing'])}"
        for row in reversed(first_of.values())
        if row.get("pairing")
    ]


def _lost(row: Row, both: bool = False) -> str:
    """Say how many clips of either set have no number."""
    unscored = row["unscored"]
    return " and ".join(
        f"{count} of {total} clips of {row[side]}"
        for count, total, side in zip(
            unscored["counts"], unscored["of"], ("first", "second"), strict=True
        )
        if count or both
    )


def _with_ends(row: Mapping[str, Any]) -> str:
    """Format a difference with its interval."""
    ends = "" if row["low"] is None else f" [{row['low']:.3g}, {row['high']:.3g}]"
    return f"{row['difference']:+.3g}{ends}"


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
