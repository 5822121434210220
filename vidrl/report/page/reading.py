"""In words, from numbers: why a clip was pushed which way.

What a part did over a segment is compared with the other clips of its group, where the run
folder has their curves (`others`), else with the rest of the same clip, which is said.
`slopes`, how much the whole rises with each part, make parts comparable; without them each
is measured in its own spread over the clip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev
from typing import Any

from ..charts import number
from .film import frames

Row = Mapping[str, Any]
Span = tuple[int, int]
LOCAL = ("frame", "pair")  # supports whose curves are credited where they are
SHARE = 0.25  # of the largest contribution: parts below it are not named


def reading(row: Row) -> str:
    """A few sentences, plain text: which frames were pushed which way, and what the parts'
    curves say of it."""
    told = [
        (value, span)
        for value, span in zip(row.get("advantage") or [], spans_of(row), strict=False)
        if value is not None
    ]
    if not told:
        return "No advantage was recorded for this clip."
    if all(abs(value) < 1e-6 for value, _ in told):
        return "Not pushed either way: every advantage is 0, as where a group's clips score alike."
    alike = len(told) == len(spans_of(row)) and max(told)[0] - min(told)[0] < 1e-6
    said = _alike(row, told) if alike else _apart(row, told)
    return (
        said
        if row.get("others")
        else f"{said} The group's other clips, which it was compared with, were not kept."
    )


def spans_of(row: Row) -> list[Span]:
    """The frames [start, end) of each segment."""
    return [(int(start), int(end)) for start, end in row.get("segments") or []]


def contributions(row: Row, span: Span) -> dict[str, float]:
    """How far each part's curve lies above what it is compared with over a segment, in
    units that compare.

    >>> row = {"curves": {"a": [0.0, 3.0], "b": [1.0, 1.0]}, "others": {"a": [1.0, 1.0], "b": [1.0, 3.0]},
    ...        "slopes": {"a": 1.0, "b": 0.5}}
    >>> contributions(row, (1, 2))
    {'a': 2.0, 'b': -1.0}
    """
    others, found = row.get("others") or {}, {}
    for name, curve in _curves(row).items():
        if others and name not in others:
            continue
        elsewhere = others[name][slice(*span)] if others else curve[: span[0]] + curve[span[1] :]
        here, there = _mean(curve[slice(*span)]), _mean(elsewhere)
        unit = _unit(row, name, curve)
        if here is not None and there is not None and unit is not None:
            found[name] = (here - there) * unit
    return found


def _alike(row: Row, told: Sequence[tuple[float, Span]]) -> str:
    """Every segment got the same."""
    value, (start, end) = told[0][0], (told[0][1][0], told[-1][1][1])
    subject = f"Whole-clip credit: each of the {len(told)} segments was"
    if len(told) == 1:
        subject = (
            "The image was" if end - start == 1 else "The whole clip was credited as one: it was"
        )
    return f"{subject} {_pushed(value)}{_why(row, value, (start, end), '')}"


def _apart(row: Row, told: Sequence[tuple[float, Span]]) -> str:
    """The segment that was pushed most, each way; where all went one way, the least too."""
    most, least = max(told), min(told)
    chosen = [one for one, wanted in ((most, most[0] > 0), (least, least[0] < 0)) if wanted]
    chosen.sort(key=lambda one: -abs(one[0]))
    said = [_sentence(row, *one) for one in dict.fromkeys(chosen)]
    weakest = min(told, key=lambda one: abs(one[0]))
    rest = (
        [f"The least: {frames(weakest[1])} ({_signed(weakest[0])})."]
        if len(said) == 1 < len(told)
        else []
    )
    return " ".join([*said, *rest])


def _sentence(row: Row, value: float, span: Span) -> str:
    were = "was" if span[1] - span[0] == 1 else "were"
    return f"{frames(span).capitalize()} {were} {_pushed(value, ' most')}{_why(row, value, span, ' there')}"


def _why(row: Row, value: float, span: Span, there: str) -> str:
    """The end of a sentence: the parts whose curves agree with a push, or that none
    does."""
    found = contributions(row, span)
    agreeing = _named(found, value) if found else ""
    if row.get("others") and found:
        better = "better" if value > 0 else "worse"
        if agreeing:
            return f", because {agreeing} {better}{there} than in the group's other clips."
        return (
            f", though no part was {better}{there} than in the group's other clips: that comes from the clip as a "
            f"whole, or from other frames that this noise moves."
        )
    if found:
        return f"; within the clip, {agreeing or 'no part was'} {'above' if value > 0 else 'below'} the rest{there}."
    return "."


def _pushed(value: float, most: str = "") -> str:
    return f"pushed {'up' if value > 0 else 'down'}{most} ({_signed(value)})"


def _signed(value: float) -> str:
    return number(value, sign=True, digits=2)


def _named(found: Mapping[str, float], value: float) -> str:
    """The parts that explain a push, the largest first, with their verb."""
    agree = {name: abs(one) for name, one in found.items() if one * value > 0}
    top = sorted(
        (name for name in agree if agree[name] >= SHARE * max(agree.values())),
        key=lambda name: -agree[name],
    )
    if not top:
        return ""
    top = top[:3]
    listed = top[0] if len(top) == 1 else f"{', '.join(top[:-1])} and {top[-1]}"
    return f"{listed} {'was' if len(top) == 1 else 'were'}"


def _curves(row: Row) -> dict[str, list[Any]]:
    """Curves of the parts that are credited where they are; of the reward itself where it
    has no parts."""
    supports = row.get("supports") or {}
    known = {name: curve for name, curve in (row.get("curves") or {}).items() if curve}
    parts = {name: curve for name, curve in known.items() if name != "composite"}
    if not parts and not row.get("parts"):
        parts = {"the reward": known.get("composite") or row.get("curve") or []}
    return {
        name: list(curve) for name, curve in parts.items() if supports.get(name, "frame") in LOCAL
    }


def _unit(row: Row, name: str, curve: Sequence[Any]) -> float | None:
    slopes = row.get("slopes")
    if slopes:
        return slopes.get(name)
    finite = [value for value in curve if value is not None]
    spread = pstdev(finite) if len(finite) > 1 else 1.0
    return 1 / spread if spread > 0 else None


def _mean(values: Sequence[Any]) -> float | None:
    finite = [value for value in values if value is not None]
    return fmean(finite) if finite else None
