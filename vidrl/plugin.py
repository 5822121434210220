"""The folder is the registry: `rewards/flicker.py` is the reward `flicker`, and no list is
edited to add one.

A plug-in is a module that holds exactly one public subclass of its folder's base class; its
constructor's arguments are its options. Third parties name theirs as
`package.module:Class`.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import importlib
import importlib.util
import inspect
import os
import types
import typing
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from vidrl.lookup import user_modules
from vidrl.lookup.advice import nearest, unknown_options

BASES = {
    "rewards": "Reward",
    "benchmarks": "Benchmark",
    "backbones": "Generator",
    "algorithms": "Algorithm",
    "steering": "Steering",
}
SHARED = frozenset({"base", "compose", "flow", "video", "adapt", "encoders", "vbench"})


class UnknownName(ValueError):
    """No plug-in, or no kind of plug-in, has this name."""


class BadOption(TypeError):
    """An option that the constructor does not know, misses, or cannot take."""


def kinds() -> list[str]:
    """The kinds of plug-in.

    >>> kinds()
    ['algorithms', 'backbones', 'benchmarks', 'rewards', 'steering']
    """
    return sorted(BASES)


def names(kind: str) -> list[str]:
    """The names of the plug-ins of one kind, read from its folder without importing any of
    them.

    Raises `UnknownName` for an unknown kind.
    """
    stems = {path.stem for folder in _folders(kind) for path in folder.glob("*.py")}
    return sorted(stem for stem in stems if stem not in SHARED and not stem.startswith("_"))


def find(kind: str, name: str) -> type:
    """The class behind `name`: a file stem of the kind's folder, or `package.module:Class`.

    Raises `UnknownName` with the nearest right name, and `TypeError` where a module breaks
    the rule of one public class a file.
    """
    if ":" in name:
        return _foreign(kind, name)
    if name not in names(kind):
        raise UnknownName(
            f"no plug-in {name!r} among the {kind}: {nearest(name, names(kind))}; "
            f"a class outside vidrl is named 'package.module:Class'"
        )
    module = importlib.import_module(f"vidrl.{kind}.{name}")
    return _only(
        [cls for cls in _public(module) if issubclass(cls, base(kind))], kind, module.__name__
    )


def load(kind: str, name: str, /, **options: Any) -> Any:
    """An instance of the plug-in, built from its options.

    Options are checked against the constructor's signature and annotations before it runs.
    Raises `UnknownName`, and `BadOption` naming the nearest right option or the type
    expected and the value that came.
    """
    cls = find(kind, name)
    return cls(**check(cls, options, f"{kind} {name!r}"))


def base(kind: str) -> type:
    """The base class of a kind, from the `base.py` of its folder."""
    _known_kind(kind)
    return getattr(importlib.import_module(f"vidrl.{kind}.base"), BASES[kind])


def facts(kind: str, name: str) -> dict[str, Any]:
    """What `vidrl list` and `vidrl show` tell of a plug-in: documentation, options and
    class attributes.

    Returns `{"kind", "name", "class", "summary", "doc", "options": [{"name", "type",
    "default"}], "facts"}`; an option without a default has no key `default`.
    """
    if kind == "rewards" and ":" in name and not _is_plugin(outside(name), kind):
        return _facts_outside(name, outside(name))
    cls = find(kind, name)
    doc = "\n\n".join(
        [(inspect.getdoc(cls) or "") if cls.__doc__ else "", *_inherited(cls, base(kind))]
    ).strip()
    return {
        "kind": kind,
        "name": name,
        "class": f"{cls.__module__}:{cls.__qualname__}",
        "summary": doc.split("\n\n")[0].replace("\n", " "),
        "doc": doc,
        "options": [_option(parameter) for parameter in _parameters(cls).values()],
        "facts": {
            name: _plainly(value)
            for name, value in _attributes(cls, base(kind)).items()
            if name not in _parameters(cls)
        },
    }


def _inherited(cls: type, root: type) -> list[str]:
    """The paragraphs on options of the classes between a plug-in and its kind's base class,
    which it inherits."""
    between = [
        one
        for one in cls.__mro__[1:]
        if issubclass(one, root) and one is not root and "__doc__" in vars(one)
    ]
    paragraphs = [
        text for one in between for text in inspect.cleandoc(one.__doc__ or "").split("\n\n")
    ]
    return [text for text in paragraphs if text.startswith("Options")]


def _facts_outside(name: str, found: Any) -> dict[str, Any]:
    """The description of a reward that is no plug-in class: a plain function, or any class,
    which may have options."""
    doc = inspect.getdoc(found) or ""
    options = (
        [_option(parameter) for parameter in _parameters(found).values()]
        if inspect.isclass(found)
        else []
    )
    return {
        "kind": "rewards",
        "name": name,
        "class": name,
        "summary": doc.split("\n\n")[0].replace("\n", " "),
        "doc": doc,
        "options": options,
        "facts": {},
    }


def check(cls: type, options: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The options as `cls(**options)` takes them, or `BadOption`.

    A list becomes a tuple and an integer a float where the annotation says so, because TOML
    knows no tuples and `2` is a good float.
    """
    hints = _hints(cls)
    _check_names(cls, options, what)
    return {
        key: _conformed(value, hints.get(key, Any), f"option {key!r} of {what}")
        for key, value in options.items()
    }


def conform(value: Any, hint: Any) -> Any:
    """`value` as the type `hint` takes it; raises `TypeError` with the expected type and
    what came.

    >>> conform([1, 2], tuple[float, float])
    (1.0, 2.0)
    >>> conform("3", int)
    Traceback (most recent call last):
    TypeError: expected int, got '3' (str)
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, (str, typing.TypeVar)):
        return value
    if origin in (typing.Union, types.UnionType):
        return _one_of(value, hint, arguments)
    if origin is typing.Annotated:
        return conform(value, arguments[0])
    if origin is typing.Literal:
        return _same(value, value in arguments, hint)
    if origin is not None:
        return _container(value, hint, origin, arguments)
    return _plain(value, type(None) if hint is None else hint)


def spell(hint: Any) -> str:
    """A type as a person writes it.

    >>> spell(float), spell(int | None), spell(tuple[float, float])
    ('float', 'int | None', 'tuple[float, float]')
    """
    plain = isinstance(hint, type) and typing.get_origin(hint) is None
    return hint.__name__ if plain else str(hint).replace("typing.", "")


# --- finding


def _known_kind(kind: str) -> None:
    if kind not in BASES:
        raise UnknownName(f"no kind of plug-in is called {kind!r}: {nearest(kind, BASES)}")


def _folders(kind: str) -> list[Path]:
    _known_kind(kind)
    spec = importlib.util.find_spec(f"vidrl.{kind}")
    return [Path(folder) for folder in (spec.submodule_search_locations if spec else None) or []]


def _public(module: types.ModuleType) -> list[type]:
    members = vars(module).items()
    return [
        cls
        for name, cls in members
        if inspect.isclass(cls) and cls.__module__ == module.__name__ and not name.startswith("_")
    ]


def _only(classes: list[type], kind: str, where: str) -> type:
    found = list(dict.fromkeys(classes))
    if len(found) != 1:
        raise TypeError(
            f"{where} must hold exactly one public subclass of {BASES[kind]}, but holds "
            f"{len(found)}: {', '.join(cls.__name__ for cls in found) or 'none'}; "
            f"put each into a file of its own, or begin a helper's name with an underscore"
        )
    return found[0]


def outside(name: str) -> Any:
    """What `package.module:attribute` names, of an installed package or of a file in the
    working folder.

    Raises `UnknownName` where there is no such module, or the nearest right name where it
    has no such attribute.

    >>> outside("math:sqrt")(4.0)
    2.0
    """
    module_name, _, attribute = name.partition(":")
    try:
        module = user_modules.find(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there; something that it imports is not
        raise UnknownName(
            f"{name!r}: there is no module {module_name!r} on the import path, nor in the working "
            f"folder {os.getcwd()}"
        ) from error
    if not hasattr(module, attribute):
        known = [
            key
            for key, value in vars(module).items()
            if callable(value) and not key.startswith("_")
        ]
        raise UnknownName(
            f"{name!r}: {module_name} has no {attribute!r}: {nearest(attribute, known)}"
        )
    return getattr(module, attribute)


def _is_plugin(found: Any, kind: str) -> bool:
    return inspect.isclass(found) and issubclass(found, base(kind))


def _foreign(kind: str, name: str) -> type:
    cls = outside(name)
    if not _is_plugin(cls, kind):
        raise TypeError(
            f"{name!r} must be a subclass of vidrl.{kind}.base.{BASES[kind]} to serve among the {kind}"
        )
    return cls


# --- options


def _parameters(cls: type) -> dict[str, inspect.Parameter]:
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(cls).parameters
    return {
        name: parameter for name, parameter in parameters.items() if parameter.kind not in variadic
    }


@dataclasses.dataclass(frozen=True)
class Option:
    """An option of a plug-in: an argument of its constructor, with its type and its default."""

    name: str
    hint: Any
    default: Any  # inspect.Parameter.empty for an option that must be given


def options(cls: type) -> list[Option]:
    """Return the options of a plug-in's class, in the order of its constructor.

    >>> [option.name for option in options(find("rewards", "freeze"))]
    ['exact', 'near', 'window']
    """
    hints = _hints(cls)
    return [
        Option(name, hints.get(name, Any), parameter.default)
        for name, parameter in _parameters(cls).items()
    ]


def takes_any_option(cls: type) -> bool:
    """Return whether the constructor of a class takes options of any name (`**options`)."""
    parameters = inspect.signature(cls).parameters.values()
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)


def _hints(cls: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls if dataclasses.is_dataclass(cls) else cls.__init__)  # type: ignore[misc]
    # a name known to the type checker only: nothing to check against
    except (NameError, AttributeError):
        return {}


def _check_names(cls: type, options: Mapping[str, Any], what: str) -> None:
    parameters = _parameters(cls)
    unknown = [key for key in options if key not in parameters]
    if unknown and not takes_any_option(cls):
        raise BadOption(unknown_options(what, unknown, parameters, *_owners(cls, unknown)))
    missing = [
        key
        for key, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty and key not in options
    ]
    if missing:
        raise BadOption(f"{what} needs the option {missing[0]!r}, which has no default")


def _owners(cls: type, keys: Sequence[str]) -> tuple[dict[str, list[str]], str]:
    """Which plug-ins of a class's kind have these options, and the command that explains
    the class's own."""
    roots = {(one.__module__, one.__name__) for one in cls.__mro__}
    kind = next((kind for kind, root in BASES.items() if (f"vidrl.{kind}.base", root) in roots), "")
    owners: dict[str, list[str]] = {key: [] for key in keys}
    for name in names(kind) if kind else ():
        with suppress(Exception):  # of a plug-in that cannot be imported here, nothing is said
            known = _parameters(find(kind, name))
            for key in (key for key in keys if key in known):
                owners[key].append(name)
    own = cls.__module__.rpartition(".")[2] if cls.__module__.startswith(f"vidrl.{kind}.") else ""
    return owners, f"vidrl show {kind} {own}" if own else ""


def _conformed(value: Any, hint: Any, what: str) -> Any:
    try:
        return conform(value, hint)
    except TypeError as error:
        raise BadOption(f"{what}: {error}") from None


def _option(parameter: inspect.Parameter) -> dict[str, Any]:
    empty = inspect.Parameter.empty
    hint = "" if parameter.annotation is empty else parameter.annotation
    option = {"name": parameter.name, "type": hint if isinstance(hint, str) else spell(hint)}
    return option if parameter.default is empty else option | {"default": parameter.default}


def _plainly(value: Any) -> Any:
    """A record, such as a reward's card, as a dictionary."""
    return (
        dataclasses.asdict(value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type)
        else value
    )


def _attributes(cls: type, root: type) -> dict[str, Any]:
    inherited = [vars(parent) for parent in reversed(cls.__mro__) if issubclass(parent, root)]
    merged = {name: value for attributes in inherited for name, value in attributes.items()}
    code = (property, cached_property, staticmethod, classmethod)
    return {
        name: value
        for name, value in merged.items()
        if not name.startswith("_") and not callable(value) and not isinstance(value, code)
    }


# --- types


def _same(value: Any, fits: bool, hint: Any) -> Any:
    if not fits:
        raise TypeError(f"expected {spell(hint)}, got {value!r} ({type(value).__name__})")
    return value


def _one_of(value: Any, hint: Any, choices: tuple[Any, ...]) -> Any:
    # An exact type first: `int | float` must leave 2 an integer, whatever the order of
    # writing.
    for choice in sorted(choices, key=lambda choice: choice is not type(value)):
        try:
            return conform(value, choice)
        except TypeError:
            continue
    return _same(value, False, hint)


def _container(value: Any, hint: Any, origin: Any, arguments: tuple[Any, ...]) -> Any:
    if origin is tuple and isinstance(value, (list, tuple)):
        return _tuple(value, hint, arguments)
    if origin is collections.abc.Callable:
        return _same(value, callable(value), hint)
    fits = isinstance(value, origin) and not isinstance(value, (str, bytes))
    _same(value, fits, hint)
    if isinstance(value, Mapping) and len(arguments) == 2:
        return {
            conform(key, arguments[0]): conform(item, arguments[1]) for key, item in value.items()
        }
    if isinstance(value, (list, set, frozenset, tuple)) and len(arguments) == 1:
        return type(value)(conform(item, arguments[0]) for item in value)
    return value


def _tuple(
    value: list[Any] | tuple[Any, ...], hint: Any, arguments: tuple[Any, ...]
) -> tuple[Any, ...]:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(conform(item, arguments[0]) for item in value)
    _same(value, len(value) == len(arguments), hint)
    return tuple(conform(item, argument) for item, argument in zip(value, arguments, strict=True))


def _plain(value: Any, hint: Any) -> Any:
    if not isinstance(hint, type):
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is tuple and isinstance(value, list):
        return tuple(value)
    if issubclass(hint, Path) and isinstance(value, str):
        return Path(value)
    truth_for_number = isinstance(value, bool) and hint in (int, float)
    return _same(value, isinstance(value, hint) and not truth_for_number, hint)
