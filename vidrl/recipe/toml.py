"""Write nested tables as TOML, compare two tables, and read options as a person types them.

The standard library reads TOML, but does not write it.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any


def write(table: Mapping[str, Any], prefix: str = "") -> str:
    """Return the TOML text of nested tables of strings, numbers, truth values and lists.

    `tomllib.loads` reads an equal table. Raises `TypeError` for a value that TOML cannot
    hold.

    >>> print(write({"a": 1e-4, "b": {"c": ["x", True]}}), end="")
    a = 0.0001
    <BLANKLINE>
    [b]
    c = ["x", true]
    """
    values = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    sections = {key: value for key, value in table.items() if isinstance(value, Mapping)}
    lines = [f"{_key(key)} = {spell(value)}\n" for key, value in values.items()]
    for key, section in sections.items():
        name = prefix + _key(key)
        lines.append(f"\n[{name}]\n{write(section, name + '.')}")
    return "".join(lines)


def spell(value: Any) -> str:
    """Return one value as TOML writes it.

    >>> spell([1.0, "a", {"b": False}])
    '[1.0, "a", {b = false}]'
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, (int, str)):
        # JSON leaves the character DEL as it is, which TOML forbids
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(spell(item) for item in value)}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_key(key)} = {spell(item)}' for key, item in value.items())}}}"
    raise TypeError(
        f"TOML cannot hold {value!r} ({type(value).__name__}): use text, a number, a truth value "
        "or a list"
    )


def options(words: Iterable[str]) -> dict[str, Any]:
    """Return the options of words `key=value`, as a person types them.

    A value is read as TOML, or else kept as text. Raises `ValueError` for a word without a key.

    >>> options(["relative=true", "flow=dis", "band=[0.1, 2]"])
    {'relative': True, 'flow': 'dis', 'band': [0.1, 2]}
    """
    pairs = [word.partition("=") for word in words]
    for word in (key + equals + text for key, equals, text in pairs if not (key and equals)):
        raise ValueError(f"expected an option as KEY=VALUE, got {word!r}")
    return {key: _typed(text) for key, _, text in pairs}


def flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested tables, each with its dotted key.

    >>> dict(flat({"a": {"b": 1}, "c": {}}))
    {'a.b': 1, 'c': {}}
    """
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def diff(old: Mapping[str, Any], new: Mapping[str, Any], ignore: Iterable[str] = ()) -> list[str]:
    """Return one line for each dotted key whose value differs.

    >>> diff({"train": {"rounds": 30}}, {"train": {"rounds": 3}, "seed": 1})
    ['train.rounds: 30 -> 3', 'seed: (absent) -> 1']
    """
    before, after = _values(old), _values(new)
    keys = [key for key in before | after if key not in set(ignore)]
    missing = object()
    return [
        f"{key}: {_shown(before, key)} -> {_shown(after, key)}"
        for key in keys
        if before.get(key, missing) != after.get(key, missing)
    ]


def _typed(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _values(table: Mapping[str, Any]) -> dict[str, Any]:
    # an empty table means the same as a missing table
    return {key: value for key, value in flat(table) if value != {}}


def _shown(values: Mapping[str, Any], key: str) -> str:
    return spell(values[key]) if key in values else "(absent)"


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else spell(key)
