"""What a results file may hold, field by field: a file of a stranger, or one that was
edited by hand, is checked first.

A kind is a function: it is given a value and where the value stands, and raises BadField
where the value is not of that kind. Fields that no kind names are allowed, and nothing
reads them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

Kind = Callable[[Any, str], None]
LARGEST = 2**63  # whole numbers from here on do not fit where they are computed with


class BadField(ValueError):
    """A field that holds something else than what belongs there; the message names the
    field."""


def parsed(text: str | bytes) -> Any:
    """JSON without NaN, infinities, numbers that no float holds, and nesting too deep to be
    read. Raises ValueError."""
    try:
        return json.loads(text, parse_constant=_refused, parse_float=_float, parse_int=_int)
    except RecursionError as error:
        raise ValueError("its lists or objects are nested too deeply") from error


def _refused(word: str) -> Any:
    raise ValueError(f"expected finite numbers, got {word}")


def _float(word: str) -> float:
    return value if math.isfinite(value := float(word)) else _refused(word[:40])


def _int(word: str) -> int:
    return (
        value
        if len(word) < 20 and abs(value := int(word)) < LARGEST
        else _refused(f"{word[:40]}...")
    )


# --- kinds
# -----------------------------------------------------------------------------------------------------------


def one_of(words: str, test: Callable[[Any], bool]) -> Kind:
    """The kind of values that pass a test; `words` name it in messages."""

    def check(value: Any, where: str) -> None:
        if not test(value):
            raise BadField(f"{where}: expected {words}, got {_brief(value)}")

    return check


def maybe(kind: Kind) -> Kind:
    """A value of this kind, or null."""
    return lambda value, where: None if value is None else kind(value, where)


def many(kind: Kind) -> Kind:
    """A list of values of this kind."""

    def check(value: Any, where: str) -> None:
        lists(value, where)
        for i, one in enumerate(value):
            kind(one, f"{where}[{i}]")

    return check


def named(kind: Kind) -> Kind:
    """An object whose values are all of this kind."""

    def check(value: Any, where: str) -> None:
        objects(value, where)
        for name, one in value.items():
            kind(one, f"{where}.{name}")

    return check


def record(needed: Mapping[str, Kind], others: Mapping[str, Kind] | None = None) -> Kind:
    """An object with all of the fields `needed`, and perhaps some of `others`, each of its
    kind."""

    def check(value: Any, where: str) -> None:
        objects(value, where)
        if missing := [name for name in needed if name not in value]:
            raise BadField(
                f"{where}: expected the field {missing[0]!r}, got {', '.join(map(repr, value)) or 'none'}"
            )
        for name, kind in {**needed, **(others or {})}.items():
            if name in value:
                kind(value[name], f"{where}.{name}" if where else name)

    return check


def _brief(value: Any) -> str:
    told = json.dumps(value, default=lambda one: type(one).__name__)
    return told if len(told) < 60 else f"{told[:60]}..."


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


text = one_of("a text", lambda value: isinstance(value, str))
number = one_of("a number", _is_number)
positive = one_of("a number above 0", lambda value: _is_number(value) and value > 0)
count = one_of(
    "a whole number from 0 on", lambda value: type(value) is int and 0 <= value < LARGEST
)
label = one_of("a text or a number", lambda value: isinstance(value, str) or _is_number(value))
flag = one_of("true or false", lambda value: isinstance(value, bool))
lists = one_of("a list", lambda value: isinstance(value, list))
objects = one_of("an object", lambda value: isinstance(value, dict))
file_name = one_of(
    "the name of a file", lambda value: isinstance(value, str) and value != "" and "\0" not in value
)
digits = one_of(
    "4 to 64 hexadecimal digits",
    lambda value: isinstance(value, str) and bool(re.fullmatch(r"[0-9a-f]{4,64}", value)),
)
size = one_of(
    "a width and a height",
    lambda value: (
        isinstance(value, list)
        and len(value) == 2
        and all(type(side) is int and 0 < side < 2**31 for side in value)
    ),
)
ends = one_of(
    "two numbers or nulls",
    lambda value: (
        isinstance(value, list)
        and len(value) == 2
        and all(end is None or _is_number(end) for end in value)
    ),
)

# --- results.json
# ----------------------------------------------------------------------------------------------------

MEASURED: dict[str, Kind] = {  # of a clip, as the cache keeps it
    "fps": maybe(number),
    "size": maybe(size),
    "frames": maybe(count),
    "reader": maybe(text),
    "note": maybe(text),
    "written": maybe(
        record(
            {},
            {
                "container": maybe(text),
                "codec": maybe(text),
                "pixels": maybe(text),
                "bits": maybe(number),
            },
        )
    ),
}
CLIP = record(
    {
        "path": file_name,
        "id": text,
        "prompt": text,
        "seed": maybe(label),
        "value": named(maybe(number)),
        "why": named(maybe(text)),
        "fps": positive,
        "size": size,
        "frames": count,
    },
    {
        "reader": maybe(text),
        "note": maybe(text),
        "written": MEASURED["written"],
        "reference": maybe(file_name),
        "reference_id": maybe(text),
        "meta": objects,
        "curve": named(maybe(many(maybe(number)))),
    },
)
SKIPPED = record({"path": text, "why": text}, {"prompt": maybe(text), "seed": maybe(label)})
SET = record(
    {"name": text, "clips": many(CLIP), "skipped": many(SKIPPED)},
    {"source": text, "model": maybe(objects)},
)
DIM = record(
    {"name": text, "reward": text, "hash": text, "range": ends, "trained": flag},
    {
        "options": objects,
        "profile": text,
        "version": label,
        "about": text,
        "blind": text,
        "relevant": maybe(number),
    },
)
RESULTS = record(
    {
        "suite": record({"name": text, "version": label, "least": count}, {"about": text}),
        "protocol": record(
            {"fps": number, "side": count, "frames": count, "decoder": text, "hash": digits}
        ),
        "versions": named(text),
        "dims": many(DIM),
        "sets": many(SET),
    },
    {"made": text, "command": text, "notes": many(text)},
)
