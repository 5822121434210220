"""Read the text of a recipe: a TOML file, and overrides `key.path=value`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class BadRecipe(ValueError):
    """A recipe, an override, or a file that a recipe names, cannot be used."""


def read(path: Path) -> dict[str, Any]:
    """Return the table of a TOML file; raise `BadRecipe` for no file, and for no TOML."""
    if not path.is_file():
        shipped = sorted(str(recipe) for recipe in Path("scripts/recipes").glob("*.toml"))
        advice = f"; recipes here: {', '.join(shipped)}" if shipped else ""
        raise BadRecipe(f"recipe {path}: expected a TOML file, found none{advice}")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadRecipe(f"recipe {path} is not TOML: {error}") from error


def plain(value: Any) -> Any:
    """Return nested values as dicts and lists, which TOML and JSON can hold."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def apply(table: dict[str, Any], override: str) -> None:
    """Put the value of an override `key.path=value` into a nested table."""
    key, equals, raw = override.partition("=")
    if not equals or not key:
        raise BadRecipe(f"override {override!r}: expected key=value, as train.rounds=3")
    *parents, last = names_of(key)
    for parent in parents:
        if isinstance(given := table.get(parent), Given) and isinstance(given.value, dict):
            # an earlier override set the whole section, as algorithm.options={} does
            table[parent] = given.value
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise BadRecipe(f"override {override!r}: {parent!r} is a value, not a section")
    table[last] = Given(raw)


def names_of(key: str) -> list[str]:
    """Return the names of a dotted key; a name that has dots is quoted, as in TOML.

    Example:
        >>> names_of("train.rounds")
        ['train', 'rounds']
        >>> names_of('reward.parts."my_package.rewards:Mine"')
        ['reward', 'parts', 'my_package.rewards:Mine']
    """
    try:
        table: Any = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError:
        return unquoted(key)
    names = []
    while isinstance(table, dict):
        name, table = next(iter(table.items()))
        names.append(name)
    return names


def unquoted(key: str) -> list[str]:
    """Return the names of a key that is no TOML; raise `BadRecipe` where quotes are missing.

    A colon, as in `reward.parts.my_module:sharpness`, needs no quotes. A part or a band has one
    name, so that a colon in a later name shows a name that was cut at its dots.
    """
    names = key.split(".")
    named = names[:2] in (["reward", "parts"], ["guard", "bands"])
    if '"' in key or "'" in key or (named and any(":" in name for name in names[3:])):
        raise BadRecipe(
            f"override {key}: expected a name that has dots in double quotes, and single quotes "
            "around the whole override, which keep the double quotes from the shell, as "
            "'reward.parts.\"my_package.rewards:sharpness\"=0.3'"
        )
    return names


class Given(str):
    """The text of an override's value, which the field converts later.

    Only the field knows the type: 7 is a number for `seed`, and the folder "7" for `run`.
    """

    @property
    def value(self) -> Any:
        """Return the value as TOML reads it; the text itself where it is no TOML."""
        try:
            return tomllib.loads(f"value = {self}")["value"]
        except tomllib.TOMLDecodeError:
            return str(self)
