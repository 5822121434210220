"""Suites are data: which dims, under which protocol, on which prompts. A TOML file in
benchmarks/suites, or yours.

version = "1"                     # raised when the suite measures something else about =
"What it is for." least = 20                        # fewer clips than that are marked
prompts = "mine.jsonl"            # beside the file; one JSON object a line with "prompt",
for suites that sample per_prompt = 1 [protocol]                        # fps, side, frames;
each 0: as it comes fps = 8 [sampling]                        # how a model makes clips for
it: steps, frames, height, width ... steps = 20 [dims.flicker]                    # the
reward of that name [dims.warp_relative] reward = "warp_error"             # or default, or
package.module:Class or :function options = {relative = true}
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vidrl import plugin
from vidrl.bench import dims as dims_
from vidrl.bench.dims import Dim
from vidrl.bench.protocol import Protocol

KEYS: dict[str, Any] = {
    "version": str,
    "about": str,
    "least": int,
    "prompts": str,
    "per_prompt": int,
    "protocol": dict,
    "sampling": dict,
    "dims": dict,
}
PROTOCOL: dict[str, Any] = {"fps": float, "side": int, "frames": int}
DIM: dict[str, Any] = {"reward": str, "options": dict, "profile": str}


class BadSuite(ValueError):
    """A suite that is not there or cannot be used; the message says how to mend it."""


@dataclass(frozen=True)
class Suite:
    """What is measured: `dims` under a `protocol`, for suites that sample `prompts`, a
    JSONL file, `per_prompt` clips each made as `sampling` says; `least` is the number of
    clips below which a mean is marked."""

    name: str
    version: str
    about: str
    dims: tuple[Dim, ...]
    protocol: Protocol
    prompts: Path | None = None
    per_prompt: int = 1
    sampling: Mapping[str, Any] = field(default_factory=dict)
    least: int = 20

    def only(self, names: list[str]) -> Suite:
        """With these dims alone, in this order; a name that is no dim of it is a
        reward's."""
        mine = {dim.name: dim for dim in self.dims}
        known = set(mine) | set(plugin.names("rewards")) | {"default"}
        for name in names:
            if name not in known and ":" not in name:
                raise plugin.UnknownName(
                    f"suite {self.name!r} has no dim {name!r}, and no reward is called that: "
                    f"{plugin.nearest(name, known)}"
                )
        return replace(
            self, dims=tuple(mine.get(name) or _dim(name, {}, self.name) for name in names)
        )

    def changed(self, options: Mapping[str, Any]) -> Suite:
        """With other options of its dims, named DIM.KEY.

        Raises BadSuite for another dim, plugin.BadOption for another option.
        """
        own: dict[str, dict[str, Any]] = {dim.name: dict(dim.options) for dim in self.dims}
        for name, value in options.items():
            dim, _, key = name.rpartition(".")
            if dim not in own:
                raise BadSuite(
                    f"expected an option as DIM.KEY=VALUE of a dim that is measured, got {name!r}: "
                    f"{plugin.nearest(dim, own)}"
                )
            own[dim][key] = value
        return replace(
            self,
            dims=tuple(
                dims_.check_options(replace(dim, options=own[dim.name])) for dim in self.dims
            ),
        )


def names() -> list[str]:
    """The suites that come with vidrl.

    >>> "temporal" in names()
    True
    """
    return sorted(path.stem for path in _folder().glob("*.toml"))


def load(name_or_path: str | Path) -> Suite:
    """A suite by its name, or from a TOML file.

    Raises BadSuite, or plugin.UnknownName and plugin.BadOption, with the nearest right
    name.

    >>> load("temporal").least
    20
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = _folder() / f"{name_or_path}.toml"
    if not path.is_file():
        raise BadSuite(
            f"no suite {str(name_or_path)!r}: {plugin.nearest(str(name_or_path), names())}; or the path of "
            "a .toml file"
        )
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSuite(f"{path} is no TOML: {error}") from error
    return _suite(path, table)


def _folder() -> Path:
    import vidrl.benchmarks

    return Path(vidrl.benchmarks.__file__).parent / "suites"


def _suite(path: Path, table: Mapping[str, Any]) -> Suite:
    found = _typed(table, KEYS, str(path))
    if not found.get("dims"):
        raise BadSuite(f"{path}: expected dims, as [dims.flicker], got none")
    made = tuple(_dim(name, row, str(path)) for name, row in found.pop("dims").items())
    protocol = Protocol(**_typed(found.pop("protocol", {}), PROTOCOL, f"{path}, [protocol]"))
    prompts = path.parent / found.pop("prompts") if "prompts" in found else None
    if prompts and not prompts.is_file():
        raise BadSuite(f"{path}: expected its prompts at {prompts}, found no file")
    whole = {key: found.get(key, default) for key, default in (("version", "1"), ("about", ""))}
    return Suite(path.stem, dims=made, protocol=protocol, prompts=prompts, **(found | whole))


def _dim(name: str, row: Any, where: str) -> Dim:
    found = _typed(row, DIM, f"{where}, dim {name!r}")
    reward = found.get("reward", name)
    profile = found.get("profile", dims_.profile_of(reward))
    if profile not in dims_.PROFILES:
        raise BadSuite(
            f"{where}, dim {name!r}: expected profile to be one of {', '.join(dims_.PROFILES)}, got "
            f"{profile!r}"
        )
    return dims_.check_options(
        Dim(name, reward, found.get("options", {}), profile, dims_.version_of(reward))
    )


def _typed(table: Any, kinds: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The table with its keys and types checked."""
    if not isinstance(table, Mapping):
        raise BadSuite(f"{where}: expected a table, got {table!r}")
    for key in table:
        if key not in kinds:
            raise BadSuite(f"{where} has a key {key!r}: {plugin.nearest(key, kinds)}")
    try:
        return {key: plugin.conform(value, kinds[key]) for key, value in table.items()}
    except TypeError as error:
        raise BadSuite(f"{where}: {error}") from error
