"""Sentences about the credit of a clip: which frames were pushed up or down, and which parts agree.

The curve of a part over a segment is compared with the other clips of the group, where the
run folder has their curves (`others`). Else the curve is compared with the rest of the same
clip, and the sentence says so. `slopes`, the change of the composite per unit of a part,
make parts comparable; without slopes each part is measured in its own standard deviation
over the clip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev
from typing import Any

from ..charts import number
from .film import frames

Row = Mapping[str, Any]
Span = tuple[int, int]
LOCAL = ("frame", "pair")  # supports whose curves are credited to the frames where they are
NAMED_FROM = 0.25  # of the largest contribution: a part with less is not named
MOST_NAMED = 3
SAME = 1e-6  # advantages that differ by less are called equal


def reading(row: Row) -> str:
    """Describe in plain text which frames were pushed up or down, and why by the curves."""
    credited = [
        (value, span)
        for value, span in zip(row.get("advantage") or [], spans_of(row), strict=False)
        if value is not None
    ]
    if not credited:
        return "No advantage was recorded for this clip."
    if all(abs(value) < SAME for value, _ in credited):
        return "Not pushed up or down: every advantage is 0, as in a group whose clips score alike."
    complete = len(credited) == len(spans_of(row))
    uniform = complete and max(credited)[0] - min(credited)[0] < SAME
    text = _uniform(row, credited) if uniform else _varied(row, credited)
    if row.get("others"):
        return text
    return f"{text} The group's other clips, which it was compared with, were not kept."


def spans_of(row: Row) -> list[Span]:
    """Return the frames [start, end) of each segment."""
    return [(int(start), int(end)) for start, end in row.get("segments") or []]


def contributions(row: Row, span: Span) -> dict[str, float]:
    """Return how far each part's curve is above its comparison over a segment.

    The unit is that of the composite where `slopes` are known, else standard deviations.

    >>> curves = {"a": [0.0, 3.0], "b": [1.0, 1.0]}
    >>> others = {"a": [1.0, 1.0], "b": [1.0, 3.0]}
    >>> row = {"curves": curves, "others": others, "slopes": {"a": 1.0, "b": 0.5}}
    >>> contributions(row, (1, 2))
    {'a': 2.0, 'b': -1.0}
    """
    others, found = row.get("others") or {}, {}
    for name, curve in _curves(row).items():
        if others and name not in others:
            continue
        rest = others[name][slice(*span)] if others else curve[: span[0]] + curve[span[1] :]
        here, there = _mean(curve[slice(*span)]), _mean(rest)
        unit = _unit(row, name, curve)
        if here is not None and there is not None and unit is not None:
            found[name] = (here - there) * unit
    return found


def _uniform(row: Row, credited: Sequence[tuple[float, Span]]) -> str:
    """Describe a clip whose segments all have the same advantage."""
    value, (start, _) = credited[0]
    end = credited[-1][1][1]
    subject = f"Whole-clip credit: each of the {len(credited)} segments was"
    if len(credited) == 1:
        is_image = end - start == 1
        subject = "The image was" if is_image else "The whole clip was credited as one: it was"
    return f"{subject} {_pushed(value)}{_why(row, value, (start, end), '')}"


def _varied(row: Row, credited: Sequence[tuple[float, Span]]) -> str:
    """Describe the segments that were pushed up most and down most.

    Where all segments were pushed in one direction, also name the one that was pushed least.
    """
    highest, lowest = max(credited), min(credited)
    chosen = [highest] if highest[0] > 0 else []
    chosen += [lowest] if lowest[0] < 0 else []
    chosen.sort(key=lambda segment: -abs(segment[0]))
    sentences = [_sentence(row, *segment) for segment in dict.fromkeys(chosen)]
    if len(sentences) == 1 < len(credited):
        value, span = min(credited, key=lambda segment: abs(segment[0]))
        sentences.append(f"The least: {frames(span)} ({_signed(value)}).")
    return " ".join(sentences)


def _sentence(row: Row, value: float, span: Span) -> str:
    were = "was" if span[1] - span[0] == 1 else "were"
    pushed = _pushed(value, " most")
    return f"{frames(span).capitalize()} {were} {pushed}{_why(row, value, span, ' there')}"


def _why(row: Row, value: float, span: Span, there: str) -> str:
    """Return the end of a sentence: the parts whose curves agree with a push, or that none does."""
    found = contributions(row, span)
    if not found:
        return "."
    agreeing = _named(found, value)
    if not row.get("others"):
        side = "above" if value > 0 else "below"
        return f"; within the clip, {agreeing or 'no part was'} {side} the rest{there}."
    better = "better" if value > 0 else "worse"
    if agreeing:
        return f", because {agreeing} {better}{there} than in the group's other clips."
    return (
        f", though no part was {better}{there} than in the group's other clips: the advantage "
        "comes from parts that score the whole clip, or from other frames that this noise moves."
    )


def _pushed(value: float, most: str = "") -> str:
    return f"pushed {'up' if value > 0 else 'down'}{most} ({_signed(value)})"


def _signed(value: float) -> str:
    return number(value, sign=True, digits=2)


def _named(found: Mapping[str, float], value: float) -> str:
    """Name the parts that explain a push, the largest first, with their verb."""
    agree = {name: abs(size) for name, size in found.items() if size * value > 0}
    least = NAMED_FROM * max(agree.values(), default=0.0)
    large = [name for name in agree if agree[name] >= least]
    top = sorted(large, key=lambda name: -agree[name])[:MOST_NAMED]
    if not top:
        return ""
    listed = top[0] if len(top) == 1 else f"{', '.join(top[:-1])} and {top[-1]}"
    return f"{listed} {'was' if len(top) == 1 else 'were'}"


def _curves(row: Row) -> dict[str, list[Any]]:
    """Return the curves that are credited locally: the parts', or the reward's own."""
    supports = row.get("supports") or {}
    recorded = {name: curve for name, curve in (row.get("curves") or {}).items() if curve}
    parts = {name: curve for name, curve in recorded.items() if name != "composite"}
    if not parts and not row.get("parts"):
        parts = {"the reward": recorded.get("composite") or row.get("curve") or []}
    return {
        name: list(curve) for name, curve in parts.items() if supports.get(name, "frame") in LOCAL
    }


def _unit(row: Row, name: str, curve: Sequence[Any]) -> float | None:
    """Return the factor that makes a part comparable; None for a constant part without slope."""
    slopes = row.get("slopes")
    if slopes:
        return slopes.get(name)
    finite = [value for value in curve if value is not None]
    std = pstdev(finite) if len(finite) > 1 else 1.0
    return 1 / std if std > 0 else None


def _mean(values: Sequence[Any]) -> float | None:
    finite = [value for value in values if value is not None]
    return fmean(finite) if finite else None
