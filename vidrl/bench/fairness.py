"""What decides whether sets of clips can be compared at all: how fast, how large and how
they were written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any

from vidrl.bench.protocol import SAME_RATE

Set = Mapping[str, Any]  # of results.json
LOWEST_COMMON_RATE = (
    8.0  # frames a second from which on rewards of motion give like numbers at other rates
)
MAX_STRIDE = 12  # at most every so many frames are kept
# bits of a pixel that differ by this factor were written with other settings, or show other
# things
BITS_RATIO = 1.5
FACTS = {"container": "container", "codec": "codec", "pixels": "pixel format"}


def unfair_differences(sets: Sequence[Set]) -> list[str]:
    """What makes a comparison of sets unfair, a sentence each; nothing for one set."""
    return [*_rates(sets), *_sizes(sets), *_written(sets)] if len(sets) > 1 else []


def have_same_format(sets: Sequence[Set]) -> bool:
    """Whether the files of the sets have one codec, pixel format and, nearly, bits of a
    pixel, as far as is known."""
    return not any(words for name, words in _differences(sets).items() if name != "container")


def count_rates(rates: Iterable[float]) -> Counter[float]:
    """Frame rates, those that are the same but for the rounding of time stamps together,
    with their counts.

    >>> count_rates([16.0, 15.9967, 24.0, 16.0])
    Counter({16.0: 3, 24.0: 1})
    """
    groups: list[list[float]] = []
    for rate in sorted(rates):
        if groups and rate <= groups[-1][0] * (1 + SAME_RATE):
            groups[-1].append(rate)
        else:
            groups.append([rate])
    return Counter(
        {min(group, key=lambda rate: abs(rate - round(rate))): len(group) for group in groups}
    )


def common_rate(rates: Sequence[float]) -> float | None:
    """The highest rate that each of these becomes when it keeps every frame, every second,
    every third ...; or None.

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
    found = {
        one["name"]: sorted(count_rates(clip["fps"] for clip in one["clips"]))
        for one in sets
        if one["clips"]
    }
    first, *others = found.values() if found else ([],)
    if all(_same_rates(first, other) for other in others):
        return []
    said = ", ".join(
        f"{name} {' '.join(f'{rate:.4g}' for rate in rates)}" for name, rates in found.items()
    )
    goal = common_rate([rate for rates in found.values() for rate in rates])
    cure = (
        f"measure all with --fps {goal:g}, which leaves frames out evenly"
        if goal
        else "leaving frames out evenly brings them to no common rate, so make the clips at one rate; a conversion that "
        "repeats, drops or blends frames makes even motion uneven"
    )
    return [f"the sets differ in frames a second ({said}): {cure}"]


def _same_rates(first: Sequence[float], second: Sequence[float]) -> bool:
    return len(first) == len(second) and all(
        abs(a / b - 1) <= SAME_RATE for a, b in zip(first, second, strict=True)
    )


def _sizes(sets: Sequence[Set]) -> list[str]:
    said = _unequal_values(sets, lambda clip: "x".join(map(str, clip["size"])))
    return (
        [
            f"the sets differ in the size of their pictures ({said}): make them at one size, "
            "or measure all with one --side"
        ]
        if said
        else []
    )


def _written(sets: Sequence[Set]) -> list[str]:
    """A sentence on the differences in container, codec, pixel format and bits per pixel;
    nothing if there are none."""
    told = [f"{words} ({said})" for words, said in _differences(sets).items() if said]
    if not told:
        return []
    harm = (
        "; codec, pixel format and bits a pixel are the same"
        if have_same_format(sets)
        else ". How clips are written moves numbers as much as what they show: save all sets losslessly, or by one "
        "encoder with one setting"
    )
    return [f"the files of the sets differ in {', '.join(told)}{harm}"]


def _differences(sets: Sequence[Set]) -> dict[str, str]:
    """For each property of files, the values of each set as text; empty if all sets have
    the same."""
    found = {words: _unequal_values(sets, partial(_fact, fact)) for fact, words in FACTS.items()}
    bits = {one["name"]: median(known) for one in sets if (known := _bits(one))}
    apart = bool(bits) and max(bits.values()) > BITS_RATIO * min(bits.values())
    said = ", ".join(f"{name} {value:.2g}" for name, value in bits.items()) if apart else ""
    return {**found, "bits a pixel": said}


def _fact(name: str, clip: Mapping[str, Any]) -> str:
    return (clip.get("written") or {}).get(name) or "unknown"


def _unequal_values(sets: Sequence[Set], fact: Callable[[Mapping[str, Any]], str]) -> str:
    """Each set with its values of one fact, as text; empty if all sets have the same
    values."""
    found = {
        one["name"]: sorted({fact(clip) for clip in one["clips"]}) for one in sets if one["clips"]
    }
    if len({tuple(values) for values in found.values()}) < 2:
        return ""
    return ", ".join(f"{name} {_shown_values(values)}" for name, values in found.items())


def _shown_values(values: Sequence[str]) -> str:
    return " and ".join(values) if len(values) < 4 else f"{len(values)} kinds, as {values[0]}"


def _bits(one: Set) -> list[float]:
    return [bits for clip in one["clips"] if (bits := (clip.get("written") or {}).get("bits"))]
