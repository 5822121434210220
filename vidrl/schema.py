"""Build the JSON schema of recipes, with which editors complete and check a TOML file.

The schema is derived from the dataclasses of `vidrl.config` and from the constructors of the
plug-ins, so that it always describes the installed version.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vidrl import config, plugin

DIALECT = "https://json-schema.org/draft/2020-12/schema"
CUSTOM_CLASS = {"type": "string", "pattern": "^[\\w.]+:\\w+$"}  # package.module:Class
# section of a recipe that names a plug-in -> kind of plug-in
PLUGINS = {"backbone": "backbones", "algorithm": "algorithms", "reward": "rewards"}
SCALARS = {bool: "boolean", int: "integer", float: "number", str: "string", Path: "string"}


def recipe_schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of a recipe.

    The allowed options depend on the plug-in's name: `algorithm.options` may have the options
    of the algorithm `algorithm.name`. A plug-in outside vidrl, `package.module:Class`, may
    have any option, because its class is not imported here.

    >>> schema = recipe_schema()
    >>> schema["properties"]["train"]["properties"]["rounds"]["type"]
    'integer'
    """
    schema = table_schema(config.Recipe)
    for section, kind in PLUGINS.items():
        schema["properties"][section] |= plugin_rules(kind)
    return {"$schema": DIALECT, "title": "A recipe of vidrl"} | schema


def table_schema(section: type) -> dict[str, Any]:
    """Return the schema of the TOML table that a dataclass reads; other keys are refused."""
    hints, about = typing.get_type_hints(section), field_documentation(section)
    properties = {}
    for field in dataclasses.fields(section):
        properties[field.name] = type_schema(hints[field.name]) | _default(field)
        if field.name in about:
            properties[field.name]["description"] = about[field.name]
    return {
        "type": "object",
        "description": summary(section),
        "properties": properties,
        "additionalProperties": False,
    }


def type_schema(hint: Any) -> dict[str, Any]:
    """Return the schema of the values that a type annotation allows.

    >>> type_schema(list[str])
    {'type': 'array', 'items': {'type': 'string'}}
    >>> type_schema(int | None)
    {'anyOf': [{'type': 'integer'}, {'type': 'null'}]}
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return table_schema(hint)
    if hint is type(None):
        return {"type": "null"}
    if isinstance(hint, type) and hint in SCALARS:
        return {"type": SCALARS[hint]}
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [type_schema(argument) for argument in arguments]}
    return _container_schema(origin, arguments)


def _container_schema(origin: Any, arguments: tuple[Any, ...]) -> dict[str, Any]:
    """Return the schema of a tuple, mapping or collection with typed items."""
    if origin is tuple and Ellipsis not in arguments:
        items = [type_schema(argument) for argument in arguments]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "items": False}
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": type_schema(arguments[1])}
    if inspect.isclass(origin) and issubclass(origin, typing.Collection):
        return {"type": "array", "items": type_schema(arguments[0])}
    return {}  # typing.Any, and what TOML cannot hold: anything is allowed


def plugin_rules(kind: str) -> dict[str, Any]:
    """Return the rules of a section that names a plug-in: which names and which options."""
    # "default" names the default composite, and "" means no reward.
    names = plugin.names(kind) + (["default", ""] if kind == "rewards" else [])
    rules = [
        {"if": _named(name), "then": {"properties": {"options": options_schema(kind, name)}}}
        for name in plugin.names(kind)
    ]
    return {"allOf": [{"properties": {"name": {"anyOf": [{"enum": names}, CUSTOM_CLASS]}}}, *rules]}


def options_schema(kind: str, name: str) -> dict[str, Any]:
    """Return the schema of a plug-in's options: its constructor's arguments."""
    cls = plugin.find(kind, name)
    properties = {
        option.name: type_schema(option.hint) | _json_default(option.default)
        for option in plugin.options(cls)
    }
    return {"properties": properties, "additionalProperties": plugin.takes_any_option(cls)}


def _named(name: str) -> dict[str, Any]:
    """Return the condition that a section names this plug-in."""
    return {"properties": {"name": {"const": name}}, "required": ["name"]}


def _default(field: dataclasses.Field[Any]) -> dict[str, Any]:
    """Return the default of a field; empty for a nested table, which has its own defaults."""
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
        return {} if dataclasses.is_dataclass(default) else _json_default(default)
    return _json_default(field.default)


def _json_default(value: Any) -> dict[str, Any]:
    """Return a default as the schema writes it; empty where JSON cannot express the default."""
    plain = isinstance(value, (bool, int, float, str, list, dict)) or value is None
    return {"default": value} if plain else {}


def summary(section: type) -> str:
    """Return the first sentence of a dataclass's docstring."""
    return (inspect.getdoc(section) or "").partition("\n")[0]


def field_documentation(section: type) -> dict[str, str]:
    """Return what is documented of each field: the string below the field in the source.

    Python does not keep these strings at run time; they are read from the source code.
    """
    # cleandoc removes the indentation of a nested class, which ast.parse would reject.
    (tree,) = ast.parse(inspect.cleandoc(inspect.getsource(section))).body
    assert isinstance(tree, ast.ClassDef)
    pairs = zip(tree.body, tree.body[1:], strict=False)
    return {
        field.target.id: " ".join(text.value.value.split())
        for field, text in pairs
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def markdown() -> str:
    """Return a page with each key of a recipe, its type, its default and its meaning."""
    lines = ["# Recipes", ""]
    for title, section in _tables(config.Recipe):
        lines += [f"## {title}" if title else "## Top level", "", _about(section), ""]
        lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
        lines += [_row(field, section) for field in _plain_fields(section)]
        lines.append("")
    return "\n".join(lines)


def _tables(recipe: type) -> Iterator[tuple[str, type]]:
    """Yield the title and dataclass of the top level and of each table of a recipe."""
    yield "", recipe
    for name, hint in typing.get_type_hints(recipe).items():
        if dataclasses.is_dataclass(hint):
            yield f"[{name}]", typing.cast(type, hint)


def _plain_fields(section: type) -> list[dataclasses.Field[Any]]:
    """Return the fields that are keys with a value, without nested tables."""
    hints = typing.get_type_hints(section)
    fields = dataclasses.fields(section)
    return [field for field in fields if not dataclasses.is_dataclass(hints[field.name])]


def _about(section: type) -> str:
    """Return the docstring of a dataclass without its doctest."""
    text = inspect.getdoc(section) or ""
    return text.partition(">>>")[0].strip()


def _row(field: dataclasses.Field[Any], section: type) -> str:
    """Return the table row of a key: name, type, default and meaning."""
    hint = plugin.spell(typing.get_type_hints(section)[field.name]).replace("|", "\\|")
    default = _default(field).get("default", "")
    about = field_documentation(section).get(field.name, "")
    return f"| `{field.name}` | {hint} | `{json.dumps(default)}` | {about} |"
