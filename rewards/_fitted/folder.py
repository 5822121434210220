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

    Raises FileNotFoundError without its files, and ValueError for files of another format, with
    features that need trust, or with tensors that do not fit the features.
    """
    from safetensors.torch import load

    missing = [name for name in ("fit.json", "fit.safetensors") if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"expected {folder}/{missing[0]} of a fitted reward, found none: set the option model "
            "to a folder that `vidrl fit` wrote"
        )
    table = json.loads((folder / "fit.json").read_text(encoding="utf-8"))
    tensors = load((folder / "fit.safetensors").read_bytes())
    if table.get("format") != FORMAT or table.get("form") not in HEADS:
        raise ValueError(
            f"expected a fit of format {FORMAT} with a head out of {', '.join(HEADS)} in {folder}, "
            f"got format {table.get('format')} and {table.get('form')!r}: fit again"
        )
    features = _features(table["features"], trusted, folder)
    _check(tensors, len(features), folder)
    return Taste(features, tensors, table["form"], float(table["familiar"]), table["facts"])


def need_trust(features: Iterable[Feature]) -> list[str]:
    """Return the names of the features that `read` refuses unless the folder is trusted.

    >>> need_trust([Feature("flicker", "flicker", {"detail": 0.3}), Feature("own", "module:Class")])
    ['own']
    """
    return [one.name for one in features if not offered(one.reward, one.options)]


def _features(
    rows: Iterable[Mapping[str, Any]], trusted: bool, folder: Path
) -> tuple[Feature, ...]:
    """Return the features of a fit; raise ValueError for those that need trust."""
    try:
        features = tuple(Feature(**one) for one in rows)
    except TypeError as error:
        raise ValueError(
            f"expected features with name, reward, options in {folder}: {error}"
        ) from None
    refused = [] if trusted else need_trust(features)
    if refused:
        raise ValueError(
            f"expected features in {folder} that `vidrl fit` offers, with its options, got "
            f"{refused[0]!r}, which can run code or call a server: set the option trusted = true "
            "if the folder is your own, or fit again"
        )
    return features


def _check(tensors: Mapping[str, Tensor], features: int, folder: Path) -> None:
    """Raise ValueError for tensors that are missing, of another shape, or not finite."""
    shapes = {"centre": (features,), "scale": (features,), "precision": (features, features)}
    for name, shape in shapes.items():
        got = tuple(tensors[name].shape) if name in tensors else "none"
        if got != shape:
            raise ValueError(f"expected {name} of shape {shape} in {folder}, got {got}: fit again")
    lost = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if lost:
        raise ValueError(f"expected finite tensors in {folder}, got NaN or infinity in {lost[0]}")
