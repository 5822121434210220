"""Read suites: which dims are measured, under which protocol, on which prompts.

A suite is a TOML file, in benchmarks/suites or of the user's own:

    version = "1"               # raise it when the suite measures something else
    about = "What it is for."
    least = 20                  # a mean over fewer clips than that is marked
    prompts = "mine.jsonl"      # beside the file; one JSON object a line with "prompt"
    per_prompt = 1              # clips that a model generates for each prompt
    [protocol]                  # fps, side, frames; 0 leaves the clip as it is
    fps = 8
    [sampling]                  # how a model generates clips: steps, frames, height, width ...
    steps = 20
    [dims.flicker]              # the reward of that name
    [dims.warp_relative]
    reward = "warp_error"       # or default, or package.module:Class or :function
    options = {relative = true}
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
    """A suite that does not exist or cannot be used; the message says how to correct it."""


@dataclass(frozen=True)
class Suite:
    """A list of dims with the protocol under which they are measured.

    `prompts` is a JSONL file of prompts for suites that sample a model; each prompt gets
    `per_prompt` clips, made with the options of `sampling`. A mean over fewer than `least`
    clips is marked in all tables. `version` and `about` are shown with the results.
    """

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
        """Return the suite with these dims alone, in this order.

        A name that is no dim of the suite is taken as the name of a reward. Raises
        plugin.UnknownName for a name that is neither.
        """
        own = {dim.name: dim for dim in self.dims}
        valid = set(own) | set(plugin.names("rewards")) | {"default"}
        for name in names:
            if name not in valid and ":" not in name:  # package.module:Class is loaded later
                raise plugin.UnknownName(
                    f"suite {self.name!r} has no dim {name!r}, and no reward is called that: "
                    f"{plugin.nearest(name, valid)}"
                )
        return replace(
            self, dims=tuple(own.get(name) or _dim(name, {}, self.name) for name in names)
        )

    def changed(self, options: Mapping[str, Any]) -> Suite:
        """Return the suite with other options of its dims; keys are DIM.KEY.

        Raises BadSuite for a dim that is not measured and plugin.BadOption for an unknown
        option.
        """
        options_of: dict[str, dict[str, Any]] = {dim.name: dict(dim.options) for dim in self.dims}
        for name, value in options.items():
            dim, _, key = name.rpartition(".")
            if dim not in options_of:
                raise BadSuite(
                    f"expected an option as DIM.KEY=VALUE of a dim that is measured, got {name!r}: "
                    f"{plugin.nearest(dim, options_of)}"
                )
            options_of[dim][key] = value
        return replace(
            self,
            dims=tuple(
                dims_.check_options(replace(dim, options=options_of[dim.name])) for dim in self.dims
            ),
        )


def names() -> list[str]:
    """Return the names of the suites that come with vidrl.

    >>> "temporal" in names()
    True
    """
    return sorted(path.stem for path in _folder().glob("*.toml"))


def load(name_or_path: str | Path) -> Suite:
    """Load a suite by its name or from a TOML file.

    Raises BadSuite, plugin.UnknownName and plugin.BadOption; the message gives the nearest
    right name.

    >>> load("temporal").least
    20
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = _folder() / f"{name_or_path}.toml"
    if not path.is_file():
        raise BadSuite(
            f"no suite {str(name_or_path)!r}: {plugin.nearest(str(name_or_path), names())}; "
            "or the path of a .toml file"
        )
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSuite(f"{path} is no TOML: {error}") from error
    return _suite(path, table)


def _folder() -> Path:
    """Return the folder of the suites that come with vidrl."""
    import vidrl.benchmarks

    return Path(vidrl.benchmarks.__file__).parent / "suites"


def _suite(path: Path, table: Mapping[str, Any]) -> Suite:
    """Return the suite of a parsed TOML file; raise BadSuite with the place of the fault."""
    fields = _typed(table, KEYS, str(path))
    if not fields.get("dims"):
        raise BadSuite(f"{path}: expected dims, as [dims.flicker], got none")
    dims = tuple(_dim(name, row, str(path)) for name, row in fields.pop("dims").items())
    protocol = Protocol(**_typed(fields.pop("protocol", {}), PROTOCOL, f"{path}, [protocol]"))
    prompts = path.parent / fields.pop("prompts") if "prompts" in fields else None
    if prompts and not prompts.is_file():
        raise BadSuite(f"{path}: expected its prompts at {prompts}, found no file")
    defaults = {key: fields.get(key, default) for key, default in (("version", "1"), ("about", ""))}
    return Suite(path.stem, dims=dims, protocol=protocol, prompts=prompts, **(fields | defaults))


def _dim(name: str, row: Any, where: str) -> Dim:
    """Return the dim of a table [dims.NAME]; its reward is the one of that name by default."""
    found = _typed(row, DIM, f"{where}, dim {name!r}")
    reward = found.get("reward", name)
    profile = found.get("profile", dims_.profile_of(reward))
    if profile not in dims_.PROFILES:
        raise BadSuite(
            f"{where}, dim {name!r}: expected profile to be one of "
            f"{', '.join(dims_.PROFILES)}, got {profile!r}"
        )
    return dims_.check_options(
        Dim(name, reward, found.get("options", {}), profile, dims_.version_of(reward))
    )


def _typed(table: Any, kinds: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the table after checking its keys and the types of its values."""
    if not isinstance(table, Mapping):
        raise BadSuite(f"{where}: expected a table, got {table!r}")
    for key in table:
        if key not in kinds:
            raise BadSuite(f"{where} has a key {key!r}: {plugin.nearest(key, kinds)}")
    try:
        return {key: plugin.conform(value, kinds[key]) for key, value in table.items()}
    except TypeError as error:
        raise BadSuite(f"{where}: {error}") from error
