"""Define dims: a dim is a reward with options under a name, identified by a hash."""

from __future__ import annotations

import ast
import hashlib
import inspect
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from vidrl import plugin
from vidrl.bench.cache import file_stamp
from vidrl.bench.protocol import digest
from vidrl.lookup import user_modules
from vidrl.rewards import compose, load
from vidrl.rewards.base import Card, Reward
from vidrl.rewards.compose import Composite

PROFILES = ("vidrl", "vbench")
SAMPLE_BYTES = 2**20  # read at the start, middle and end of a file of weights


@dataclass(frozen=True)
class Dim:
    """A dim is a reward with its options, under a name.

    `reward` is a plug-in's name, `default` or package.module:Class; `options` are its
    constructor's arguments. `profile` "vbench" marks the arithmetic of others. `version` is
    the reward's: with another version the numbers differ.

    >>> dim = Dim("warp_error", "warp_error")
    >>> dim.range
    (-1.0, 1.0)
    """

    name: str
    reward: str
    options: Mapping[str, Any] = field(default_factory=dict)
    profile: str = "vidrl"
    version: str = "1"

    @property
    def hash(self) -> str:
        """Return 12 hex digits of the reward, its options, its version and its weights."""
        theirs = "" if self.reward.startswith("vidrl.") else self.code
        return digest([self.reward, self._all_options(), self.version, theirs])

    @property
    def code(self) -> str:
        """Return a hash of the module of a reward outside the library; "" for vidrl's own."""
        return module_hash(self.reward.partition(":")[0]) if ":" in self.reward else ""

    @property
    def learned(self) -> bool:
        """Return whether the reward uses weights that are loaded; also True if it is not found."""
        found = self._class()
        return found is None or found.learned

    @property
    def range(self) -> tuple[float, float]:
        """Return the least and the greatest possible value."""
        found = self._class()
        return found.range if found else (-math.inf, math.inf)

    @property
    def card(self) -> Card | None:
        """Return the card of the reward, None where it has none."""
        found = self._class()
        return found.card if found else None

    @property
    def about(self) -> str:
        """Return one sentence that says what the reward sees."""
        found = self._class()
        if found is None or found is Composite:
            return found.card.sees if found and found.card else ""
        return (inspect.getdoc(found) or "").split("\n\n")[0].replace("\n", " ")

    def reads(self, what: str) -> bool:
        """Return whether the number may depend on the clip's `prompt`, `reference` or `meta`.

        The reward's source is searched for these names, so that the answer errs on the safe
        side: a needless dependency costs a measurement, a missed one would return a wrong
        number.

        >>> Dim("flicker", "flicker").reads("prompt"), Dim("freeze", "freeze").reads("prompt")
        (False, True)
        """
        if self.reward == "default":
            return any(Dim(part, part).reads(what) for part in compose.WEIGHTS)
        found = self._class()
        return found is None or any(
            what in _names_in_code(cls.__module__) for cls in _own_classes(found)
        )

    def build(self) -> Reward:
        """Build the reward. Raises whatever its constructor raises."""
        return load(self.reward, **self._given_options())

    def to_dict(self, trained: bool = False) -> dict[str, Any]:
        """Return the dim as results.json stores it."""
        return {
            "name": self.name,
            "reward": self.reward,
            "options": dict(self.options),
            "profile": self.profile,
            "version": self.version,
            "hash": self.hash,
            "range": [x if math.isfinite(x) else None for x in self.range],
            "about": self.about,
            "blind": self.card.blind_to if self.card else "",
            "trained": trained,
        }

    def _class(self) -> type[Reward] | None:
        """Return the reward's class; None for a function or a module that cannot be imported."""
        if self.reward == "default":
            return Composite
        try:
            return plugin.find("rewards", self.reward)
        except (plugin.UnknownName, TypeError):
            if ":" in self.reward:
                return None
            raise
        except ImportError:
            return None

    def _given_options(self) -> dict[str, Any]:
        """Return the options, with the flow of the CPU where the reward would choose by device.

        The numbers of a dim must not depend on the device that measures them.
        """
        cls = self._class()
        chosen = cls is not None and cls is not Composite and not self.reward.startswith("default")
        known = inspect.signature(cls).parameters if chosen else {}  # type: ignore[arg-type]
        by_device = "flow" in known and known["flow"].default == "auto"
        return ({"flow": "dis"} if by_device else {}) | dict(self.options)

    def _all_options(self) -> dict[str, Any]:
        """Return the defaults and what replaces them, files by their content.

        Defaults are part of the hash, so that a changed default gives another dim.
        """
        cls = self._class()
        if self.reward == "default":
            versions = {part: version_of(part) for part in compose.WEIGHTS}
            return {"weights": compose.WEIGHTS, "scales": compose.SCALES, "versions": versions}
        has_options = cls is not None and cls is not Composite
        known = inspect.signature(cls).parameters if has_options else {}  # type: ignore[arg-type]
        full = {
            key: p.default for key, p in known.items() if p.default is not inspect.Parameter.empty
        }
        full |= self._given_options()
        return {key: option_identity(value) for key, value in sorted(full.items())}


def check_options(dim: Dim) -> Dim:
    """Return the dim if its reward and options are known.

    Raises `plugin.UnknownName` and `plugin.BadOption` with the nearest right one.
    """
    cls = dim._class()
    if cls is not None and cls is not Composite:
        plugin.check(cls, dim.options, f"dim {dim.name!r}")
    elif cls is Composite and dim.options:
        raise plugin.BadOption(
            f"dim {dim.name!r}: the default composite has no options, got {', '.join(dim.options)}"
        )
    return dim


def trained_dims(dims: Sequence[Dim], reward: Mapping[str, Any]) -> list[str]:
    """Return the names of the dims that a run was trained on, by its [reward] section.

    A dim counts as trained on if its reward is a training reward, contains one (the default
    composite), or is a subclass of one. Such dims rise under training whether or not the
    clips get better, so they are marked.

    >>> heading = Dim("heading", "vidrl.bench.expectations:Heading")
    >>> trained_dims([heading], {"name": "motion_target"})
    ['heading']
    >>> dims = [Dim("flicker", "flicker"), Dim("all", "default"), Dim("cut", "cut")]
    >>> trained_dims(dims, {"parts": {"flicker": 1.0}})
    ['flicker', 'all']
    """
    named = (
        {reward["name"]} if reward.get("name") else set(reward.get("parts") or {}) or {"default"}
    )
    parts_of_default = set(compose.WEIGHTS)
    named |= set(reward.get("parts") or {}) | (parts_of_default if "default" in named else set())
    classes = tuple(
        cls for name in named - {"default"} if (cls := Dim(name, name)._class()) is not None
    )
    return [
        dim.name
        for dim in dims
        if dim.reward in named
        or (dim.reward == "default" and named & parts_of_default)
        or issubclass(dim._class() or object, classes)
    ]


def profile_of(reward: str) -> str:
    """Return "vbench" for the rewards named after it, else "vidrl"."""
    return "vbench" if reward.startswith("vbench_") else "vidrl"


def version_of(reward: str) -> str:
    """Return the version that a reward's class states, "1" where it states none."""
    return str(getattr(Dim(reward, reward)._class(), "version", "1"))


# --- what identifies ------------------------------------------------------------------


def option_identity(value: Any) -> Any:
    """Return an option as JSON; a path of a file or folder gets a hash of its content.

    So another file of weights under the same name gives another dim.
    """
    if isinstance(value, (str, Path)):
        head, _, tail = str(value).rpartition(":")  # "raft:PATH"
        path = Path(tail or head)
        return [str(head), content_hash(path)] if tail and path.exists() else str(value)
    if isinstance(value, (list, tuple)):
        return [option_identity(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): option_identity(item) for key, item in value.items()}
    return (
        value
        if value is None or isinstance(value, (bool, int, float))
        else type(value).__qualname__
    )


def content_hash(path: Path) -> str:
    """Return a hash of the content of a file, or of all files in a folder."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return digest(
        [[str(p.relative_to(path)), _sampled_hash(str(p), *file_stamp(p))] for p in files]
    )


@lru_cache
def _sampled_hash(path: str, size: int, *changed: int) -> str:
    """Return a hash of a file's size and of its start, middle and end.

    Two files of weights differ everywhere, and hashing gigabytes would take seconds for
    each run. The arguments `changed` are the file's stamp: a changed file is not in
    lru_cache.
    """
    hasher = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        for start in sorted({0, max(0, size // 2), max(0, size - SAMPLE_BYTES)}):
            file.seek(start)
            hasher.update(file.read(SAMPLE_BYTES))
    return hasher.hexdigest()[:16]


def module_hash(module: str) -> str:
    """Return a hash of the source file of a user's module, "" if it has none."""
    file = getattr(user_modules.find(module), "__file__", None)
    return _sampled_hash(file, *file_stamp(file)) if file else ""


def _own_classes(cls: type) -> list[type]:
    """Return the classes of a reward's inheritance but for the base classes of all rewards."""
    shared = ("vidrl.rewards.base", "torch.nn.modules.module", "builtins")
    return [parent for parent in cls.__mro__ if parent.__module__ not in shared]


@lru_cache
def _names_in_code(module: str) -> frozenset[str]:
    """Return which of prompt, reference and meta the source of a module names.

    All three where the source cannot be read: a cache must not return wrong numbers.
    """
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, TypeError):
        return frozenset(("prompt", "reference", "meta"))
    words = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    words |= {
        str(node.module).lstrip("_") for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
    }
    return frozenset(what for what in ("prompt", "reference", "meta") if words & {what, f"{what}s"})
