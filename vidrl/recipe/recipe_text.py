"""The text of a recipe: a TOML file, and overrides `key.path=value` from the command
line."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class BadRecipe(ValueError):
    """A recipe, an override or a file that it names that cannot be used; the message says
    how to mend it."""


def read(path: Path) -> dict[str, Any]:
    """The table of a TOML file. Raises `BadRecipe` where there is none."""
    if not path.is_file():
        shipped = sorted(str(recipe) for recipe in Path("scripts/recipes").glob("*.toml"))
        advice = f"; recipes here: {', '.join(shipped)}" if shipped else ""
        raise BadRecipe(f"recipe {path}: expected a TOML file, found none{advice}")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadRecipe(f"recipe {path} is not TOML: {error}") from error


def plain(value: Any) -> Any:
    """Nested values as dicts and lists, which TOML and JSON can hold."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def apply(table: dict[str, Any], override: str) -> None:
    """Put the value of an override `key.path=value` into a nested table."""
    key, equals, raw = override.partition("=")
    if not equals or not key:
        raise BadRecipe(f"override {override!r}: expected key=value, as train.rounds=3")
    *parents, last = key.split(".")
    for parent in parents:
        if isinstance(given := table.get(parent), Given) and isinstance(given.value, dict):
            table[parent] = given.value  # of an earlier override, as algorithm.options={}
        table = table.setdefault(parent, {})
        if not isinstance(table, dict):
            raise BadRecipe(f"override {override!r}: {parent!r} is a value, not a section")
    table[last] = Given(raw)


class Given(str):
    """The text of an override's value, whose type only its field can tell: `run=7` is the
    folder 7."""

    @property
    def value(self) -> Any:
        try:
            return tomllib.loads(f"value = {self}")["value"]
        except tomllib.TOMLDecodeError:
            return str(self)
