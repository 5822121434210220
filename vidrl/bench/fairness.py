"""Find differences between sets that make a comparison unfair.

Frame rate, picture size and the codec's settings change the numbers, whatever the clips
show.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any

from vidrl.bench.protocol import SAME_RATE

Set = Mapping[str, Any]  # of results.json
LOWEST_COMMON_RATE = 8.0  # frames a second; below it, rewards of motion depend on the rate
MAX_STRIDE = 12  # the largest n for which keeping every n-th frame is suggested
# Bits per pixel that differ by more than this factor come from other encoder settings, or
# from other content.
BITS_RATIO = 1.5
FACTS = {"container": "container", "codec": "codec", "pixels": "pixel format"}


def unfair_differences(sets: Sequence[Set]) -> list[str]:
    """Return a sentence for each property that makes a comparison unfair; none for one set."""
    return [*_rates(sets), *_sizes(sets), *_written(sets)] if len(sets) > 1 else []


def have_same_format(sets: Sequence[Set]) -> bool:
    """Return whether all sets have one codec, pixel format and similar bits per pixel.

    Unknown properties are ignored. The container does not matter: it holds the same bits.
    """
    return not any(words for name, words in _differences(sets).items() if name != "container")


def count_rates(rates: Iterable[float]) -> Counter[float]:
    """Count frame rates; rates that differ only by the rounding of time stamps are one rate.

    >>> count_rates([16.0, 15.9967, 24.0, 16.0])
    Counter({16.0: 3, 24.0: 1})
    """
    groups: list[list[float]] = []
    for rate in sorted(rates):
        # The rates are sorted, so comparing with the smallest rate of the last group is
        # enough.
        if groups and rate <= groups[-1][0] * (1 + SAME_RATE):
            groups[-1].append(rate)
        else:
            groups.append([rate])
    return Counter(
        {min(group, key=lambda rate: abs(rate - round(rate))): len(group) for group in groups}
    )


def common_rate(rates: Sequence[float]) -> float | None:
    """Return the highest rate that all these rates become by keeping every n-th frame.

    None if there is none that is fast enough for rewards of motion.

    >>> common_rate([24.0, 16.0]), common_rate([30.0, 10.0]), common_rate([25.0, 24.0])
    (8.0, 10.0, None)
    """
    for stride in range(1, MAX_STRIDE + 1):
        goal = min(rates) / stride
        if goal < min(LOWEST_COMMON_RATE * (1 - SAME_RATE), min(rates)):
            return None
        if all(abs(rate / goal / max(1, round(rate / goal)) - 1) <= SAME_RATE for rate in rates):
            return goal
    return None


def _rates(sets: Sequence[Set]) -> list[str]:
    """Return a sentence if the sets differ in frames a second, with the cure."""
    rates_of = {
        one["name"]: sorted(count_rates(clip["fps"] for clip in one["clips"]))
        for one in sets
        if one["clips"]
    }
    first, *others = rates_of.values() if rates_of else ([],)
    if all(_same_rates(first, other) for other in others):
        return []
    listed = ", ".join(
        f"{name} {' '.join(f'{rate:.4g}' for rate in rates)}" for name, rates in rates_of.items()
    )
    goal = common_rate([rate for rates in rates_of.values() for rate in rates])
    cure = (
        f"measure all with --fps {goal:g}, which leaves frames out evenly"
        if goal
        else "leaving frames out evenly brings them to no common rate, so make the clips at one "
        "rate; a conversion that repeats, drops or blends frames makes even motion uneven"
    )
    return [f"the sets differ in frames a second ({listed}): {cure}"]


def _same_rates(first: Sequence[float], second: Sequence[float]) -> bool:
    """Return whether two sorted lists of rates are equal but for rounding."""
    return len(first) == len(second) and all(
        abs(a / b - 1) <= SAME_RATE for a, b in zip(first, second, strict=True)
    )


def _sizes(sets: Sequence[Set]) -> list[str]:
    """Return a sentence if the sets differ in picture size."""
    listed = _unequal_values(sets, lambda clip: "x".join(map(str, clip["size"])))
    return (
        [
            f"the sets differ in the size of their pictures ({listed}): make them at one size, "
            "or measure all with one --side"
        ]
        if listed
        else []
    )


def _written(sets: Sequence[Set]) -> list[str]:
    """Return a sentence on differences in container, codec, pixel format and bits per pixel."""
    differences = [f"{words} ({said})" for words, said in _differences(sets).items() if said]
    if not differences:
        return []
    effect = (
        "; codec, pixel format and bits a pixel are the same"
        if have_same_format(sets)
        else ". How clips are written moves numbers as much as what they show: save all sets "
        "losslessly, or by one encoder with one setting"
    )
    return [f"the files of the sets differ in {', '.join(differences)}{effect}"]


def _differences(sets: Sequence[Set]) -> dict[str, str]:
    """Return for each property of files the values of each set as text; "" if all are equal."""
    found = {words: _unequal_values(sets, partial(_fact, fact)) for fact, words in FACTS.items()}
    bits = {one["name"]: median(set_bits) for one in sets if (set_bits := _bits(one))}
    differ = bool(bits) and max(bits.values()) > BITS_RATIO * min(bits.values())
    listed = ", ".join(f"{name} {value:.2g}" for name, value in bits.items()) if differ else ""
    return {**found, "bits a pixel": listed}


def _fact(name: str, clip: Mapping[str, Any]) -> str:
    return (clip.get("written") or {}).get(name) or "unknown"


def _unequal_values(sets: Sequence[Set], fact: Callable[[Mapping[str, Any]], str]) -> str:
    """Return each set with its values of one fact as text; "" if all sets have the same."""
    found = {
        one["name"]: sorted({fact(clip) for clip in one["clips"]}) for one in sets if one["clips"]
    }
    if len({tuple(values) for values in found.values()}) < 2:
        return ""
    return ", ".join(f"{name} {_shown_values(values)}" for name, values in found.items())


def _shown_values(values: Sequence[str]) -> str:
    """List up to three values, or say how many there are."""
    return " and ".join(values) if len(values) < 4 else f"{len(values)} kinds, as {values[0]}"


def _bits(one: Set) -> list[float]:
    """Return the known bits per pixel of a set's clips."""
    return [bits for clip in one["clips"] if (bits := (clip.get("written") or {}).get("bits"))]
