"""A dimension of a suite: a reward with its options under a name, and what tells its
numbers from others."""

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
SAMPLE_BYTES = 2**20  # bytes at each of three places of a large file that tell it from others


@dataclass(frozen=True)
class Dim:
    """`reward` is a plug-in's name, `default` or package.module:Class; `options` are its
    constructor's. `profile` "vbench" says that the arithmetic is others'. `version` is the
    reward's: another one, other numbers.

    >>> Dim("warp_error", "warp_error").range, Dim("warp_error", "warp_error").about
    ((-1.0, 1.0),
     'How far a frame is from its neighbour moved onto it; 0 is perfect, and a frozen clip is perfect too.')
    """

    name: str
    reward: str
    options: Mapping[str, Any] = field(default_factory=dict)
    profile: str = "vidrl"
    version: str = "1"

    @property
    def hash(self) -> str:
        """12 hex digits of the reward, all its options, its version, and its weights where
        they are files."""
        theirs = "" if self.reward.startswith("vidrl.") else self.code
        return digest([self.reward, self._all_options(), self.version, theirs])

    @property
    def code(self) -> str:
        """The text of the module of a reward outside the library, which changes with its
        version; else empty."""
        return module_hash(self.reward.partition(":")[0]) if ":" in self.reward else ""

    @property
    def learned(self) -> bool:
        """Whether it scores by weights that are loaded from elsewhere; also where its
        reward cannot be found."""
        found = self._class()
        return found is None or found.learned

    @property
    def range(self) -> tuple[float, float]:
        """The least and the largest value there can be."""
        found = self._class()
        return found.range if found else (-math.inf, math.inf)

    @property
    def card(self) -> Card | None:
        """What the reward sees and is blind to."""
        found = self._class()
        return found.card if found else None

    @property
    def about(self) -> str:
        """One sentence: what it sees."""
        found = self._class()
        if found is None or found is Composite:
            return found.card.sees if found and found.card else ""
        return (inspect.getdoc(found) or "").split("\n\n")[0].replace("\n", " ")

    def reads(self, what: str) -> bool:
        """Whether the number may depend on the clip's `prompt`, `reference` or `meta`, by
        the reward's code.

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
        """The reward. Raises whatever its constructor does."""
        return load(self.reward, **self.options)

    def to_dict(self, trained: bool = False) -> dict[str, Any]:
        """As results.json says it."""
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
        """The reward's class; None for a function, and for one whose module cannot be
        imported here."""
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

    def _all_options(self) -> dict[str, Any]:
        """The defaults and what replaces them, files by their content."""
        cls = self._class()
        if self.reward == "default":
            versions = {part: version_of(part) for part in compose.WEIGHTS}
            return {"weights": compose.WEIGHTS, "scales": compose.SCALES, "versions": versions}
        known = {} if cls in (None, Composite) else inspect.signature(cls).parameters  # type: ignore[arg-type]
        full = {
            key: p.default for key, p in known.items() if p.default is not inspect.Parameter.empty
        }
        full |= self.options
        return {key: option_identity(value) for key, value in sorted(full.items())}


def check_options(dim: Dim) -> Dim:
    """The dim, where its reward and options are known.

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
    """The names of the dims that a run was trained on, by its [reward] section, that
    contain one, or read one finer.

    >>> trained_dims([Dim("heading", "vidrl.bench.expectations:Heading")], {"name": "motion_target"})
    ['heading']
    >>> trained_dims([Dim("flicker", "flicker"), Dim("all", "default"), Dim("cut", "cut")], {"parts": {"flicker": 1.0}})
    ['flicker', 'all']
    """
    named = (
        {reward["name"]} if reward.get("name") else set(reward.get("parts") or {}) or {"default"}
    )
    inside = set(compose.WEIGHTS)
    named |= set(reward.get("parts") or {}) | (inside if "default" in named else set())
    classes = tuple(
        cls for name in named - {"default"} if (cls := Dim(name, name)._class()) is not None
    )
    return [
        dim.name
        for dim in dims
        if dim.reward in named
        or (dim.reward == "default" and named & inside)
        or issubclass(dim._class() or object, classes)
    ]


def profile_of(reward: str) -> str:
    """ "vbench" for the rewards named after it, else "vidrl"."""
    return "vbench" if reward.startswith("vbench_") else "vidrl"


def version_of(reward: str) -> str:
    """The version that a reward's class states, "1" where it states none."""
    return str(getattr(Dim(reward, reward)._class(), "version", "1"))


# --- what identifies
# -------------------------------------------------------------------------------------------------


def option_identity(value: Any) -> Any:
    """An option as JSON; one that names a file or folder with what is in it, so that other
    weights are another dim."""
    if isinstance(value, (str, Path)):
        head, _, tail = str(value).rpartition(":")  # "raft:PATH"
        named = Path(tail or head)
        return [str(head), content_hash(named)] if tail and named.exists() else str(value)
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
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return digest(
        [[str(p.relative_to(path)), _sampled_hash(str(p), *file_stamp(p))] for p in files]
    )


@lru_cache
def _sampled_hash(path: str, size: int, *changed: int) -> str:
    """Of a large file its size and three pieces: weights differ everywhere, and a gigabyte
    takes seconds to read."""
    seen = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        for start in sorted({0, max(0, size // 2), max(0, size - SAMPLE_BYTES)}):
            file.seek(start)
            seen.update(file.read(SAMPLE_BYTES))
    return seen.hexdigest()[:16]


def module_hash(module: str) -> str:
    file = getattr(user_modules.find(module), "__file__", None)
    return _sampled_hash(file, *file_stamp(file)) if file else ""


def _own_classes(cls: type) -> list[type]:
    shared = ("vidrl.rewards.base", "torch.nn.modules.module", "builtins")
    return [parent for parent in cls.__mro__ if parent.__module__ not in shared]


@lru_cache
def _names_in_code(module: str) -> frozenset[str]:
    """What of a clip beside its pixels the code of a module touches, all where it cannot be
    read: a cache must not be wrong."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, TypeError):
        return frozenset(("prompt", "reference", "meta"))
    words = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    words |= {
        str(node.module).lstrip("_") for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
    }
    return frozenset(what for what in ("prompt", "reference", "meta") if words & {what, f"{what}s"})
