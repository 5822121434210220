"""The parts of a composite are read here from a recipe's table [reward.parts]."""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vidrl import plugin

from ..compose import Composite, default
from .by_name import check, load


@dataclass(frozen=True)
class Part:
    """A part of a composite adds weight * (value - centre) / scale to the total.

    - `weight`: how much the part counts.
    - `options`: the options of the reward.
    - `scale`: a number, or [centre, scale].
    - `band`: [low, high]. The part adds nothing while its value is inside the band, and
      -weight * (distance from the band) / scale outside it.
    - `gate`: a threshold. While the value is below it, what the total is above its floor is
      multiplied by value / gate.

    `band` and `gate` are in the unit of the part's own value.
    """

    weight: float = 1.0
    options: dict[str, Any] = field(default_factory=dict)
    scale: float | tuple[float, float] = 1.0
    band: tuple[float, float] | None = None
    gate: float | None = None

    @property
    def centre_and_scale(self) -> tuple[float, float]:
        """Return centre and scale, as `Composite(scales=...)` takes them."""
        return self.scale if isinstance(self.scale, tuple) else (0.0, self.scale)


def parse(name: str, entry: Any) -> Part:
    """Return the part that an entry `name = entry` of [reward.parts] describes.

    An entry that is a number is the weight. Raises ValueError with the nearest right key,
    the expected type or the range of a value, and the cure.

    >>> parse("flicker", 2).weight, parse("flicker", {"scale": 0.1, "band": [0.2, 0.8]}).band
    (2.0, (0.2, 0.8))
    >>> parse("flicker", {"wieght": 2})
    Traceback (most recent call last):
    ValueError: unknown key 'wieght': did you mean 'weight'? known: band, gate, options, ...
    """
    table = dict(entry) if isinstance(entry, Mapping) else {"weight": entry}
    hints = typing.get_type_hints(Part)
    for key in table:
        if key not in hints:
            raise ValueError(f"unknown key {key!r}: {plugin.nearest(key, hints)}")
    part = Part(**{key: _conformed(key, value, hints[key], entry) for key, value in table.items()})
    _check(name, part)
    return part


def composite(entries: Mapping[str, Any]) -> Composite:
    """Return the composite that [reward.parts] describes.

    The entry "default" stands for the parts of `default()`: each has its own scale, and its
    own weight times that of the entry, so that credit stays local and each part is logged.
    A part of the default composite that has an entry of its own too is named
    "default/NAME". Raises what `parse` and `load` raise.

    >>> both = composite({"default": 1.0, "jerk": {"weight": 0.5, "scale": 0.1}})
    >>> both.weights["drift"], both.scales["drift"], both.weights["jerk"], both.scales["jerk"]
    (0.5, (-0.05, 0.05), 0.5, (0.0, 0.1))
    """
    parts = {name: parse(name, entry) for name, entry in entries.items()}
    rewards, weights, scales = _of_default(parts)
    for name, part in parts.items():
        if name != "default":
            rewards[name], weights[name] = load(name, **part.options), part.weight
            scales[name] = part.centre_and_scale
    bands = {name: part.band for name, part in parts.items() if part.band is not None}
    gates = {name: part.gate for name, part in parts.items() if part.gate is not None}
    return Composite(rewards, weights, scales, bands, gates)


def check_plugins(entries: Mapping[str, Any]) -> None:
    """Raise what `composite` raises for an unknown name or option.

    The rewards themselves are not created, so that no weights are loaded.
    """
    for name, entry in entries.items():
        check(name, parse(name, entry).options)


def check_values(entries: Mapping[str, Any]) -> None:
    """Raise ValueError for an entry that is wrong by itself, or where no part counts."""
    parts = {}
    for name, entry in entries.items():
        try:
            parts[name] = parse(name, entry)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    if parts and not any(part.weight for part in parts.values()):
        raise ValueError(
            f"{next(iter(parts))}: expected a weight other than 0 of at least one part, "
            "got 0 of all"
        )


def _of_default(
    parts: Mapping[str, Part],
) -> tuple[dict[str, Any], dict[str, float], dict[str, tuple[float, float]]]:
    """Return rewards, weights and scales of the parts that "default" stands for."""
    if "default" not in parts:
        return {}, {}, {}
    base, weight = default(), parts["default"].weight
    names = {name: f"default/{name}" if name in parts else name for name in base.parts}
    return (
        {new: base.parts[name] for name, new in names.items()},
        {new: weight * base.weights[name] for name, new in names.items()},
        {new: base.scales[name] for name, new in names.items()},
    )


def _conformed(key: str, value: Any, hint: Any, entry: Any) -> Any:
    """Return a value of an entry in the type `hint`, or raise ValueError with the cure."""
    try:
        return plugin.conform(value, hint)
    except TypeError as error:
        if not isinstance(entry, Mapping):
            raise ValueError(
                f"expected a weight, as 1.0, or a table such as {{weight = 1.0, scale = 0.1}}, got "
                f"{value!r} ({type(value).__name__})"
            ) from None
        raise ValueError(f"{key}: {error}{_written(key)}") from None


def _written(key: str) -> str:
    """Return how the value of a key is written in a recipe."""
    return {
        "scale": ": write scale = 0.1, or scale = [centre, scale]",
        "band": ": write band = [low, high]",
        "options": ": write options = {name = value}",
    }.get(key, f": write {key} = 0.5")


def _check(name: str, part: Part) -> None:
    """Raise ValueError for the first value of a part that is out of its range."""
    low, high = part.band or (0.0, 1.0)
    rules = [
        (math.isfinite(part.weight), f"weight: expected a finite number, got {part.weight}"),
        (
            all(map(math.isfinite, part.centre_and_scale)) and part.centre_and_scale[1] > 0,
            f"scale: expected a number above 0, or [centre, scale], got {part.scale}",
        ),
        (low < high, f"band: expected [low, high] with low < high, got [{low}, {high}]"),
        (
            part.gate is None or 0 < part.gate < math.inf,
            f"gate: expected a number above 0, got {part.gate}",
        ),
        (
            name != "default" or part == Part(part.weight),
            "the default composite takes a weight only, as default = 1.0; give a scale, band or "
            "gate to one of its parts by an entry of that part's name",
        ),
    ]
    for holds, message in rules:
        if not holds:
            raise ValueError(message)
