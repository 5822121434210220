"""Find and build plug-ins, whose registry is their folder.

The file `rewards/flicker.py` is the reward `flicker`; no list is edited to add a plug-in. A
plug-in is a module with exactly one public subclass of its folder's base class; the
arguments of the constructor are the plug-in's options. A plug-in outside vidrl is named
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
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

from vidrl.lookup import user_modules
from vidrl.lookup.advice import nearest, unknown_options

# kind of plug-in, which is also its folder -> name of its base class in the folder's base.py
BASES = {
    "rewards": "Reward",
    "benchmarks": "Benchmark",
    "backbones": "Generator",
    "algorithms": "Algorithm",
    "steering": "Steering",
    "feedback.formats": "Format",
}
# modules in the folders of plug-ins that hold shared code
NOT_PLUGINS = frozenset({"base", "compose", "flow", "video", "adapt", "encoders", "vbench"})


class UnknownName(ValueError):
    """No plug-in, or no kind of plug-in, has this name."""


class BadOption(TypeError):
    """An option that the constructor does not have, requires, or cannot accept."""


def kinds() -> list[str]:
    """Return the kinds of plug-in, sorted.

    >>> kinds()
    ['algorithms', 'backbones', 'benchmarks', 'feedback.formats', 'rewards', 'steering']
    """
    return sorted(BASES)


def names(kind: str) -> list[str]:
    """Return the names of the plug-ins of a kind, read from its folder without any import.

    Raises `UnknownName` for an unknown kind.
    """
    stems = {path.stem for folder in _folders(kind) for path in folder.glob("*.py")}
    return sorted(stem for stem in stems if stem not in NOT_PLUGINS and not stem.startswith("_"))


def find(kind: str, name: str) -> type:
    """Return the class that `name` means, a file stem of the folder or `package.module:Class`.

    Raises `UnknownName` with the nearest known name, and `TypeError` if the module does not
    have exactly one public plug-in class.
    """
    if ":" in name:
        return _custom_class(kind, name)
    if name not in names(kind):
        raise UnknownName(
            f"no plug-in {name!r} among the {kind}: {nearest(name, names(kind))}; "
            f"a class outside vidrl is named 'package.module:Class'"
        )
    module = importlib.import_module(f"vidrl.{kind}.{name}")
    return _single_class(
        [cls for cls in _public_classes(module) if issubclass(cls, base(kind))],
        kind,
        module.__name__,
    )


def load(kind: str, name: str, /, **options: Any) -> Any:
    """Build an instance of the plug-in from its options.

    The options are checked against the constructor's signature and annotations before the
    constructor runs. Raises `UnknownName`, and `BadOption` with the nearest known option, or
    with the expected type and the given value.
    """
    cls = find(kind, name)
    return cls(**check(cls, options, f"{kind} {name!r}"))


def base(kind: str) -> type:
    """Import the base class of a kind from the `base.py` of its folder."""
    _check_kind(kind)
    return getattr(importlib.import_module(f"vidrl.{kind}.base"), BASES[kind])


def facts(kind: str, name: str) -> dict[str, Any]:
    """Return what `vidrl list` and `vidrl show` print: documentation, options and attributes.

    Returns `{"kind", "name", "class", "summary", "doc", "options": [{"name", "type",
    "default"}], "facts"}`; an option without a default has no key `default`.
    """
    if kind == "rewards" and ":" in name and not _is_plugin(import_object(name), kind):
        return _facts_of_function(name, import_object(name))
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
            name: _as_plain_data(value)
            for name, value in _attributes(cls, base(kind)).items()
            if name not in _parameters(cls)
        },
    }


def _inherited(cls: type, root: type) -> list[str]:
    """Return the paragraphs on inherited options.

    They are the paragraphs that begin with "Options" in the docstrings of the classes between
    the plug-in and its kind's base class.
    """
    between = [
        parent
        for parent in cls.__mro__[1:]
        if issubclass(parent, root) and parent is not root and "__doc__" in vars(parent)
    ]
    paragraphs = [
        text for parent in between for text in inspect.cleandoc(parent.__doc__ or "").split("\n\n")
    ]
    return [text for text in paragraphs if text.startswith("Options")]


def _facts_of_function(name: str, found: Any) -> dict[str, Any]:
    """Return the description of a reward that is not a plug-in: a function or another class."""
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
    """Return the options converted to the constructor's types; raise `BadOption` if impossible.

    A list becomes a tuple and an integer a float where the annotation demands it, because
    TOML has no tuples, and users write `2` for 2.0. `what` names the plug-in in errors.
    """
    hints = _hints(cls)
    _check_names(cls, options, what)
    return {
        key: _conformed(value, hints.get(key, Any), f"option {key!r} of {what}")
        for key, value in options.items()
    }


def conform(value: Any, hint: Any) -> Any:
    """Return `value` converted to the type `hint`.

    Raises `TypeError` with the expected type and the given value.

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
        return _conform_union(value, hint, arguments)
    if origin is typing.Annotated:
        return conform(value, arguments[0])
    if origin is typing.Literal:
        return _choice(value, arguments)
    if origin is not None:
        return _conform_container(value, hint, origin, arguments)
    return _conform_plain(value, type(None) if hint is None else hint)


def spell(hint: Any) -> str:
    """Return a type as it is written in source code.

    >>> spell(float), spell(int | None), spell(tuple[float, float])
    ('float', 'int | None', 'tuple[float, float]')
    """
    plain = isinstance(hint, type) and typing.get_origin(hint) is None
    return hint.__name__ if plain else str(hint).replace("typing.", "")


# --- finding


def _check_kind(kind: str) -> None:
    """Raise `UnknownName` if there is no such kind of plug-in."""
    if kind not in BASES:
        raise UnknownName(f"no kind of plug-in is called {kind!r}: {nearest(kind, BASES)}")


def _folders(kind: str) -> list[Path]:
    """Return the folders of a kind, found without importing its plug-ins."""
    _check_kind(kind)
    # A package may have several folders; the import system knows all of them.
    spec = importlib.util.find_spec(f"vidrl.{kind}")
    return [Path(folder) for folder in (spec.submodule_search_locations if spec else None) or []]


def _public_classes(module: types.ModuleType) -> list[type]:
    """Return the public classes that a module defines, without those that it imports."""
    members = vars(module).items()
    return [
        cls
        for name, cls in members
        if inspect.isclass(cls) and cls.__module__ == module.__name__ and not name.startswith("_")
    ]


def _single_class(classes: list[type], kind: str, where: str) -> type:
    """Return the only class of a list; raise TypeError if there are none or several."""
    found = list(dict.fromkeys(classes))  # a class with two names in its module counts once
    if len(found) != 1:
        raise TypeError(
            f"{where} must hold exactly one public subclass of {BASES[kind]}, but holds "
            f"{len(found)}: {', '.join(cls.__name__ for cls in found) or 'none'}; "
            f"put each into a file of its own, or begin a helper's name with an underscore"
        )
    return found[0]


def import_object(name: str) -> Any:
    """Import the object `package.module:attribute`, also from a file in the working folder.

    Raises `UnknownName` if there is no such module, or, with the nearest known name, if the
    module has no such attribute.

    >>> import_object("math:sqrt")(4.0)
    2.0
    """
    module_name, _, attribute = name.partition(":")
    try:
        module = user_modules.find(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module exists, but a module that it imports does not
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
    """Return whether an object is a subclass of the kind's base class."""
    return inspect.isclass(found) and issubclass(found, base(kind))


def _custom_class(kind: str, name: str) -> type:
    """Import a plug-in `package.module:Class`; raise TypeError if the class is of another kind."""
    cls = import_object(name)
    if not _is_plugin(cls, kind):
        raise TypeError(
            f"{name!r} must be a subclass of vidrl.{kind}.base.{BASES[kind]} "
            f"to serve among the {kind}"
        )
    return cls


# --- options


def _parameters(cls: type) -> dict[str, inspect.Parameter]:
    """Return the constructor's parameters by name, without *args and **kwargs."""
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(cls).parameters
    return {
        name: parameter for name, parameter in parameters.items() if parameter.kind not in variadic
    }


@dataclasses.dataclass(frozen=True)
class Option:
    """An option of a plug-in, which is an argument of the constructor."""

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
    """Return the types of the constructor's arguments; empty if they cannot be resolved."""
    try:
        annotated = cls if dataclasses.is_dataclass(cls) else cls.__init__  # type: ignore[misc]
        return typing.get_type_hints(annotated)
    # An annotation may use a name that is imported only for type checkers: then no option is
    # checked.
    except (NameError, AttributeError):
        return {}


def _check_names(cls: type, options: Mapping[str, Any], what: str) -> None:
    """Raise `BadOption` for an option that the constructor lacks, or that is missing."""
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
    """Return which plug-ins of the kind have each option, and the `vidrl show` command."""
    # Compared by name, so that no folder of plug-ins is imported to find the kind.
    roots = {(parent.__module__, parent.__name__) for parent in cls.__mro__}
    kind = next((kind for kind, root in BASES.items() if (f"vidrl.{kind}.base", root) in roots), "")
    owners: dict[str, list[str]] = {key: [] for key in keys}
    for name in names(kind) if kind else ():
        with suppress(Exception):  # a plug-in whose package is not installed is skipped
            known = _parameters(find(kind, name))
            for key in (key for key in keys if key in known):
                owners[key].append(name)
    own = cls.__module__.rpartition(".")[2] if cls.__module__.startswith(f"vidrl.{kind}.") else ""
    return owners, f"vidrl show {kind} {own}" if own else ""


def _conformed(value: Any, hint: Any, what: str) -> Any:
    """Return a converted option; raise `BadOption` that names the option."""
    try:
        return conform(value, hint)
    except TypeError as error:
        raise BadOption(f"{what}: {error}") from None


def _option(parameter: inspect.Parameter) -> dict[str, Any]:
    """Return an option as `facts` describes it."""
    empty = inspect.Parameter.empty
    hint = "" if parameter.annotation is empty else parameter.annotation
    option = {"name": parameter.name, "type": hint if isinstance(hint, str) else spell(hint)}
    return option if parameter.default is empty else option | {"default": parameter.default}


def _as_plain_data(value: Any) -> Any:
    """Return a dataclass, such as a reward's card, as a dictionary, and others unchanged."""
    return (
        dataclasses.asdict(value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type)
        else value
    )


def _attributes(cls: type, root: type) -> dict[str, Any]:
    """Return the public class attributes that are data, the derived class's before its bases'."""
    inherited = [vars(parent) for parent in reversed(cls.__mro__) if issubclass(parent, root)]
    merged = {name: value for attributes in inherited for name, value in attributes.items()}
    code = (property, cached_property, staticmethod, classmethod)
    return {
        name: value
        for name, value in merged.items()
        if not name.startswith("_") and not callable(value) and not isinstance(value, code)
    }


# --- types


def _checked(value: Any, fits: bool, hint: Any) -> Any:
    """Return the value; raise TypeError with the expected type if it does not fit."""
    if not fits:
        # a reader of recipes knows tables, and no types of Python
        tables = [one for one in (hint, *typing.get_args(hint)) if _is_table(one)]
        wanted = "a table of KEY = VALUE" if tables else spell(hint)
        raise TypeError(f"expected {wanted}, got {value!r} ({type(value).__name__})")
    return value


def _is_table(hint: Any) -> bool:
    """Return whether a type is that of mappings."""
    origin = typing.get_origin(hint) or hint
    return isinstance(origin, type) and issubclass(origin, Mapping)


def _choice(value: Any, choices: tuple[Any, ...]) -> Any:
    """Return the value if it is one of the choices; raise TypeError with the choices if not."""
    if value not in choices:
        meant = get_close_matches(str(value), [str(choice) for choice in choices], 1, 0.5)
        hint = f": did you mean {meant[0]!r}?" if meant else ""
        raise TypeError(f"expected one of {', '.join(map(repr, choices))}, got {value!r}{hint}")
    return value


def _conform_union(value: Any, hint: Any, choices: tuple[Any, ...]) -> Any:
    """Return the value converted to the first type of a union that accepts it."""
    # The value's own type is tried first: 2 stays an integer for `float | int` as well.
    for choice in sorted(choices, key=lambda choice: choice is not type(value)):
        try:
            return conform(value, choice)
        except TypeError:
            continue
    return _checked(value, False, hint)


def _conform_container(value: Any, hint: Any, origin: Any, arguments: tuple[Any, ...]) -> Any:
    """Return a container whose items are converted, as for list[int] or dict[str, float]."""
    if origin is tuple and isinstance(value, (list, tuple)):
        return _conform_tuple(value, hint, arguments)
    if origin is collections.abc.Callable:
        return _checked(value, callable(value), hint)
    # A string is a sequence of strings, but is never meant where a list is expected.
    if isinstance(value, str) and not issubclass(origin, Mapping):
        raise TypeError(f"expected a list, as [{value!r}], got the text {value!r}")
    fits = isinstance(value, origin) and not isinstance(value, (str, bytes))
    _checked(value, fits, hint)
    if isinstance(value, Mapping) and len(arguments) == 2:
        return {
            conform(key, arguments[0]): conform(item, arguments[1]) for key, item in value.items()
        }
    if isinstance(value, (list, set, frozenset, tuple)) and len(arguments) == 1:
        return type(value)(conform(item, arguments[0]) for item in value)
    return value


def _conform_tuple(
    value: list[Any] | tuple[Any, ...], hint: Any, arguments: tuple[Any, ...]
) -> tuple[Any, ...]:
    """Return a tuple of converted items; tuple[int, ...] has any length."""
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(conform(item, arguments[0]) for item in value)
    _checked(value, len(value) == len(arguments), hint)
    return tuple(conform(item, argument) for item, argument in zip(value, arguments, strict=True))


def _conform_plain(value: Any, hint: Any) -> Any:
    """Return a value converted to a class that has no type arguments."""
    if not isinstance(hint, type):
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is tuple and isinstance(value, list):
        return tuple(value)
    if issubclass(hint, Path) and isinstance(value, str):
        return Path(value)
    # bool is a subclass of int in Python, but `true` for a number is a mistake.
    bool_for_number = isinstance(value, bool) and hint in (int, float)
    return _checked(value, isinstance(value, hint) and not bool_for_number, hint)
