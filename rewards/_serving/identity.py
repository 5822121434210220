"""State what the numbers of a reward depend on, so that two servers can be compared."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import torch
from torch import nn

import vidrl

from ..base import Reward


def identity(reward: Reward, device: str = "cpu") -> dict[str, str]:
    """Return the facts on which a reward's numbers depend: name, options, versions, device.

    `options` is a digest of the reward's recipe: its class, its options and those of its
    parts. Weights that are loaded at first use are known by their options alone.

    >>> from vidrl.rewards.flicker import Flicker
    >>> identity(Flicker())["reward"], identity(Flicker()) == identity(Flicker(), "cuda:0")
    ('Flicker', False)
    """
    facts = {"reward": type(reward).__name__, "options": digest(_described(reward))}
    facts |= {"vidrl": vidrl.__version__, "torch": torch.__version__.partition("+")[0]}
    return facts | {"opencv": cv2.__version__, "device": device.partition(":")[0]}


def digest(content: Any) -> str:
    """Return 16 hexadecimal digits that differ for different contents of JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def differences(one: Mapping[str, str], other: Mapping[str, str]) -> str:
    """Return the facts in which two rewards differ, as text; "" where all are equal.

    >>> differences({"reward": "Flicker", "torch": "2"}, {"reward": "Jerk", "torch": "2"})
    'reward Flicker and Jerk'
    """
    names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    return ", ".join(f"{name} {one.get(name)} and {other.get(name)}" for name in names)


def _described(value: Any) -> Any:
    """Return a reward, or a value of one, as plain values for JSON."""
    if isinstance(value, nn.Module):
        # names with an underscore are torch's own, and what a reward has computed
        own = {name: item for name, item in vars(value).items() if not name.startswith("_")}
        parts = {name: _described(part) for name, part in value.named_children()}
        name = f"{type(value).__module__}:{type(value).__qualname__}"
        return [name, _described(own), parts]
    if isinstance(value, Mapping):
        return {str(name): _described(item) for name, item in value.items()}
    if isinstance(value, str | os.PathLike):
        # the same file may lie in another folder of another machine
        return Path(value).name if os.path.exists(value) else os.fspath(value)
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes):
        items = [_described(item) for item in value]
        return items if isinstance(value, Sequence) else sorted(items, key=repr)
    return value if isinstance(value, bool | int | float | None) else type(value).__qualname__
