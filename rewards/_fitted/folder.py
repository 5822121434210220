"""The folder of a fitted reward: fit.json and fit.safetensors, written and read.

`vidrl fit` adds README.md, the card, and pictures; the reward reads the two files only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..base import Reward
from .heads import HEADS
from .offered import offered
from .picture import Direction, Picture

FORMAT = 1
UNCERTAINTY, UNFAMILIAR = RESERVED = ("uncertainty", "unfamiliar")  # parts beside the features


@dataclass(frozen=True)
class Feature:
    """Name a feature of each frame: the curve of a reward with its options.

    reward: a name of `vidrl list rewards`; "picture", with the option `measure`; or "encoder",
    with the options `encoder` and `direction`, a column of the fit's tensor of that encoder.
    """

    name: str
    reward: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Taste:
    """A fitted reward as data.

    - `features`: K features of each frame.
    - `tensors`: centre (K,) and scale (K,) of the features; precision (K, K) of the standardised
      features of the fit's clips; the tensors of the head; and, for an encoder NAME,
      NAME.directions (D, n) and NAME.offsets (n,).
    - `form`: the head, "linear" or "temporal".
    - `familiar`: the distance from the average clip that 99 % of the fit's clips do not exceed.
    - `facts`: all else that the fit found, for people and for the card.
    """

    features: tuple[Feature, ...]
    tensors: Mapping[str, Tensor]
    form: str
    familiar: float
    facts: Mapping[str, Any] = field(default_factory=dict)

    def rewards(self) -> dict[str, Reward]:
        """Return the rewards whose curves are the features, by their names."""
        return {one.name: build(one, self.tensors) for one in self.features}


def build(feature: Feature, tensors: Mapping[str, Tensor] | None = None) -> Reward:
    """Return the reward whose curve is a feature.

    A feature may name code, so one that was read from a file comes from `read`, which refuses it.
    """
    if feature.reward == "picture":
        return Picture(**feature.options)
    if feature.reward == "encoder":
        name, column = feature.options["encoder"], feature.options["direction"]
        known = tensors or {}
        direction = known[f"{name}.directions"][:, column]
        return Direction(name, direction, float(known[f"{name}.offsets"][column]))
    from .._scoring.by_name import load

    return load(feature.reward, **feature.options)


def write(taste: Taste, folder: Path) -> list[Path]:
    """Write the two files of a fitted reward into a folder; return their paths."""
    from safetensors.torch import save

    from .._files.atomic_file import write_bytes

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().contiguous() for name, tensor in taste.tensors.items()}
    table = {
        "format": FORMAT,
        "form": taste.form,
        "familiar": taste.familiar,
        "features": [asdict(feature) for feature in taste.features],
        "facts": dict(taste.facts),
    }
    text = json.dumps(table, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return [
        write_bytes(folder / "fit.safetensors", save(tensors)),
        write_bytes(folder / "fit.json", text.encode()),
    ]


def read(folder: Path, trusted: bool = False) -> Taste:
    """Return the fitted reward in a folder.

    A feature must be one that `vidrl fit` offers by name, with the options that `vidrl fit` writes:
    so a folder from anybody runs no code, opens no file and calls no server of its own choice.
    `trusted` also reads features that name code, as those of `--features package.module:Class`.

    Raises FileNotFoundError without its files, and ValueError for files of another format or
    damaged ones, with features that need trust, with two features of one name, or with tensors
    whose shapes and numbers do not fit the features.
    """
    missing = [name for name in ("fit.json", "fit.safetensors") if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"expected {folder}/{missing[0]} of a fitted reward, found none: set the option model "
            "to a folder that `vidrl fit` wrote"
        )
    table = _table(folder)
    features = _features(table.get("features"), trusted, folder)
    familiar = _positive(table.get("familiar"), folder)
    tensors = _tensors(folder)
    check(tensors, table["form"], features, folder)
    return Taste(features, tensors, table["form"], familiar, table.get("facts") or {})


def need_trust(features: Iterable[Feature]) -> list[str]:
    """Return the names of the features that `read` refuses unless the folder is trusted.

    >>> need_trust([Feature("flicker", "flicker", {"detail": 0.3}), Feature("own", "module:Class")])
    ['own']
    """
    return [one.name for one in features if not offered(one.reward, one.options)]


def _table(folder: Path) -> dict[str, Any]:
    """Return the table of fit.json; raise ValueError for another format."""
    try:
        table = json.loads((folder / "fit.json").read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected JSON in {folder}/fit.json: {error}: fit again") from None
    if not isinstance(table, dict) or not isinstance(table.get("facts", {}), dict):
        raise ValueError(f"expected an object with facts in {folder}/fit.json: fit again")
    form, number = table.get("form"), table.get("format")
    if number != FORMAT or not isinstance(form, str) or form not in HEADS:
        raise ValueError(
            f"expected a fit of format {FORMAT} with a head out of {', '.join(HEADS)} in {folder}, "
            f"got format {number!r} and {form!r}: fit again"
        )
    return table


def _features(rows: Any, trusted: bool, folder: Path) -> tuple[Feature, ...]:
    """Return the features of a fit; raise ValueError for wrong ones, and without trust."""
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"expected a list of features in {folder}/fit.json: fit again")
    try:
        features = tuple(Feature(**one) for one in rows)
    except TypeError as error:
        raise ValueError(
            f"expected features with name, reward, options in {folder}: {error}"
        ) from None
    _check_names([one.name for one in features], folder)
    for one in features:
        if not isinstance(one.reward, str) or not isinstance(one.options, dict):
            raise ValueError(
                f"expected features with a reward's name and a table of options in {folder}, got "
                f"{one.reward!r} with {one.options!r}: fit again"
            )
    refused = [] if trusted else need_trust(features)
    if refused:
        raise ValueError(
            f"expected features in {folder} that `vidrl fit` offers, with its options, got "
            f"{refused[0]!r}, which can run code or call a server: set the option trusted = true "
            "if the folder is your own, or fit again"
        )
    return features


def _check_names(names: list[Any], folder: Path) -> None:
    """Raise ValueError for names that the parts of a score cannot have."""
    for n, name in enumerate(names):
        if not isinstance(name, str) or not name or not name.isprintable():
            raise ValueError(f"expected printable names of features in {folder}, got {name!r}")
        if name in (*RESERVED, *names[:n]):
            raise ValueError(
                f"expected features of different names in {folder}, none of them "
                f"{' or '.join(RESERVED)}, got {name!r} again: fit again"
            )


def _positive(familiar: Any, folder: Path) -> float:
    """Return the distance `familiar`; raise ValueError unless it is above 0 and finite."""
    if type(familiar) not in (int, float) or not 0 < familiar < 1e30:
        raise ValueError(
            f"expected familiar, a number above 0, in {folder}/fit.json, got {familiar!r}: fit "
            "again"
        )
    return float(familiar)


def _tensors(folder: Path) -> dict[str, Tensor]:
    """Return the tensors of fit.safetensors as float32; raise ValueError for a damaged file."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        found = load((folder / "fit.safetensors").read_bytes())
    except SafetensorError as error:
        raise ValueError(
            f"expected safetensors in {folder}/fit.safetensors: {error}: fit again"
        ) from None
    wrong = [name for name, tensor in found.items() if not tensor.is_floating_point()]
    if wrong:
        raise ValueError(
            f"expected tensors of floating-point numbers in {folder}, got {found[wrong[0]].dtype} "
            f"in {wrong[0]}: fit again"
        )
    return {name: tensor.float() for name, tensor in found.items()}


def check(
    tensors: Mapping[str, Tensor], form: str, features: Iterable[Feature], where: object
) -> None:
    """Raise ValueError for tensors that are missing, of another shape, or of wrong numbers."""
    features = list(features)
    shapes = _shapes(tensors, form, len(features)) | _encoder_shapes(tensors, features)
    for name, shape in shapes.items():
        got = tuple(tensors[name].shape) if name in tensors else "none"
        if got != shape:
            raise ValueError(f"expected {name} of shape {shape} in {where}, got {got}: fit again")
    lost = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if lost:
        raise ValueError(f"expected finite tensors in {where}, got NaN or infinity in {lost[0]}")
    if not (tensors["scale"] > 0).all():
        raise ValueError(
            f"expected scales above 0 in {where}, got {float(tensors['scale'].min())}: fit again"
        )


def _shapes(tensors: Mapping[str, Tensor], form: str, count: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes that the tensors of a head on `count` features have."""
    square = (count, count)
    common = {"centre": (count,), "scale": (count,), "precision": square}
    if form == "linear":
        return {**common, "weights": (count,), "covariance": square}
    outer = tensors.get("outer", torch.zeros(0)).shape
    members, hidden = outer if len(outer) == 2 else (1, 1)
    members = max(members, 1)  # a head without members has no value
    return {
        **common,
        "outer": (members, hidden),
        "linear": (members, count),
        "bias": (members, hidden),
        "window": (members, hidden, 3 * count),
    }


def _encoder_shapes(
    tensors: Mapping[str, Tensor], features: Iterable[Feature]
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the directions of encoders, as wide as the features' columns ask."""
    columns: dict[str, int] = {}
    for one in features:
        if one.reward == "encoder":
            name = str(one.options.get("encoder"))
            columns[name] = max(columns.get(name, 0), int(one.options.get("direction") or 0) + 1)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, least in columns.items():
        given = tensors.get(f"{name}.directions", torch.zeros(1, 0))
        deep, wide = given.shape if given.ndim == 2 else (1, least)
        wide = max(wide, least)
        shapes |= {f"{name}.directions": (max(deep, 1), wide), f"{name}.offsets": (wide,)}
    return shapes
