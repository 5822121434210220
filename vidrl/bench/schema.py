"""Check the fields of a results file before it is used.

A results file may come from a stranger or may have been edited by hand. A `Kind` is a
function that gets a value and the place of the value in the file, and raises BadField if
the value is not of that kind. Fields without a kind are allowed; no code reads them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

Kind = Callable[[Any, str], None]
LARGEST = 2**63  # numpy's integers overflow from here on


class BadField(ValueError):
    """A field with a value of the wrong kind; the message names the field."""


def parsed(text: str | bytes) -> Any:
    """Parse JSON strictly: no NaN, no infinity, no number beyond float64.

    Raises ValueError, also for nesting so deep that Python cannot read it.
    """
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


# --- kinds ----------------------------------------------------------------------------


def one_of(words: str, test: Callable[[Any], bool]) -> Kind:
    """Return the kind of values that pass `test`; `words` name the kind in messages."""

    def check(value: Any, where: str) -> None:
        if not test(value):
            raise BadField(f"{where}: expected {words}, got {_brief(value)}")

    return check


def maybe(kind: Kind) -> Kind:
    """Return the kind that also allows null."""
    return lambda value, where: None if value is None else kind(value, where)


def many(kind: Kind) -> Kind:
    """Return the kind of lists whose values are all of `kind`."""

    def check(value: Any, where: str) -> None:
        lists(value, where)
        for i, item in enumerate(value):
            kind(item, f"{where}[{i}]")

    return check


def named(kind: Kind) -> Kind:
    """Return the kind of objects whose values are all of `kind`."""

    def check(value: Any, where: str) -> None:
        objects(value, where)
        for name, item in value.items():
            kind(item, f"{where}.{name}")

    return check


def record(needed: Mapping[str, Kind], others: Mapping[str, Kind] | None = None) -> Kind:
    """Return the kind of objects with all fields of `needed`, and perhaps some of `others`."""

    def check(value: Any, where: str) -> None:
        objects(value, where)
        if missing := [name for name in needed if name not in value]:
            raise BadField(
                f"{where}: expected the field {missing[0]!r}, got "
                f"{', '.join(map(repr, value)) or 'none'}"
            )
        for name, kind in {**needed, **(others or {})}.items():
            if name in value:
                kind(value[name], f"{where}.{name}" if where else name)

    return check


def _brief(value: Any) -> str:
    text_of_value = json.dumps(value, default=lambda unknown: type(unknown).__name__)
    return text_of_value if len(text_of_value) < 60 else f"{text_of_value[:60]}..."


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


text = one_of("a text", lambda value: isinstance(value, str))
# bool is a subclass of int in Python, and no number here. Values beyond 1e300 overflow when
# they are squared.
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

# --- results.json ---------------------------------------------------------------------

# Facts of a clip, as the cache stores them.
MEASURED: dict[str, Kind] = {
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
