"""A run folder, read: what everything that looks back at a run starts from.

Whatever is missing, as in an unfinished run, is empty.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidrl.rewards._files.media import kind
from vidrl.training import guards

Row = Mapping[str, Any]


# Of a held-out measure lower values are better (−1), or neither way is (0); of all others
# higher values are.
DIRECTION = {"unscored_share": -1, "exposure": 0, "weight_drift": 0}


LEAST = 20  # held-out clips below which no change is claimed, as in the suites of vidrl bench


class NoRun(ValueError):
    """The folder holds no run, or one with a damaged file."""


@dataclass(frozen=True)
class Run:
    """What a run folder holds, read."""

    folder: Path = Path()
    config_text: str = ""
    config: Row = field(default_factory=dict)
    metrics: Sequence[Row] = ()
    evals: Sequence[Row] = ()
    events: Sequence[Row] = ()
    bench: Sequence[Row] = ()
    timelines: Sequence[Row] = ()
    credit: Sequence[Row] = ()
    influence: Row = field(default_factory=dict)
    summary: Row = field(default_factory=dict)

    @property
    def held_out(self) -> Mapping[str, Row]:
        return self.summary.get("held_out", {})

    @property
    def parts(self) -> list[str]:
        """The names of the reward's parts."""
        last = self.metrics[-1].get("parts", {}) if self.metrics else {}
        return [name for name in last if name in self.held_out]

    def clip(self, *names: str) -> Path | None:
        """The file of a clip in the run folder, an .mp4, or of an image, a .png; None where
        there is none of these."""
        return self._file("mp4", *names) or self.picture(*names)

    def picture(self, *names: str) -> Path | None:
        """The file of a picture in the run folder; None where there is none, or something
        else than a .png."""
        return self._file("png", *names)

    def _file(self, what: str, *names: str) -> Path | None:
        """A file of the run folder; None where there is none, or one of another kind by its
        first bytes.

        A run folder may be of a stranger, whose names and links could lead to any file of
        the reader; the page would hold the bytes of that file. So a file lies inside the
        folder, wherever links lead, and its bytes tell its kind.
        """
        try:
            path = self.folder.joinpath(*names)
            inside = path.resolve().is_relative_to(self.folder.resolve())
            return path if inside and path.is_file() and kind(path) == what else None
        except (OSError, TypeError, ValueError):  # a name that is no text, or that no file can have
            return None

    def allowed(self, name: str) -> tuple[float, float] | None:
        """The differences from the base model that a guard allows this measure; None where
        none guards it."""
        band = self.config.get("guard", {}).get("bands", {}).get(name)
        if band is None:
            return None
        return guards.allowed(name, (band[0], band[1]), self.held_out[name]["before"])

    def change(self, name: str) -> str:
        """How a held-out measure changed, where its interval leaves out zero: "better",
        "worse", "rose" or "fell".

        "rose" and "fell" are for a measure of which neither way is better. Empty where the
        interval holds zero, where there is none, and where it comes from fewer than LEAST
        clips, which cannot carry a claim.
        """
        row = self.held_out[name]
        if row.get("n", LEAST) < LEAST:
            return ""
        sign = side(row)
        direction = DIRECTION.get(name, 1)
        if not sign:
            return ""
        return (
            {1: "better", -1: "worse"}[sign * direction]
            if direction
            else {1: "rose", -1: "fell"}[sign]
        )

    def verdict(self, name: str) -> str:
        """What is shown of a guarded measure, see `vidrl.training.guards.verdict`; empty
        where none guards it."""
        zone = self.allowed(name)
        return "" if zone is None else guards.verdict(self.held_out[name], zone)


def side(row: Row) -> int:
    """On which side of zero the interval of a difference lies: 1, −1, or 0 where it holds
    zero or there is none."""
    low, high = row.get("low"), row.get("high")
    return 0 if low is None or high is None else int(low > 0) - int(high < 0)


def read(run_dir: str | Path) -> Run:
    """Read a run folder; raises `NoRun` where there is no config.toml or a file is
    damaged."""
    folder = Path(run_dir)
    config = folder / "config.toml"
    if not config.is_file():
        found = "none" if folder.is_dir() else "no such folder"
        raise NoRun(
            f"{folder}: expected a run folder with a config.toml, found {found}; `vidrl train` makes one"
        )
    text = config.read_text(encoding="utf-8")
    lines = {
        name: _lines(folder / f"{name}.jsonl") for name in ("metrics", "evals", "events", "bench")
    }
    credit, influence = (
        _json(folder / "credit.json", [], True),
        _json(folder / "influence.json", {}, True),
    )
    summary = _json(folder / "summary.json", {}) or _json(folder / "progress.json", {})
    return Run(
        folder,
        text,
        _parse(config, text, tomllib.loads),
        timelines=_json(folder / "timelines.json", []),
        summary=summary,
        credit=credit,
        influence=influence,
        **lines,
    )


def _lines(path: Path) -> list[Row]:
    text = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
    rows = [_parsed(line) for line in text]
    return [row for row in rows if isinstance(row, dict)]


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    # the half-written last line of a run that is still going on, or was killed
    except json.JSONDecodeError:
        return None


def _json(path: Path, missing: Any, finite: bool = False) -> Any:
    """What a file holds; where `finite`, NaN and infinities become None, as of what was not
    scored."""
    told = (lambda _: None) if finite else None
    if not path.is_file():
        return missing
    return _parse(
        path,
        path.read_text(encoding="utf-8", errors="replace"),
        lambda text: json.loads(text, parse_constant=told),
    )


def _parse(path: Path, text: str, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(text)
    except ValueError as error:  # of JSON and TOML alike
        raise NoRun(
            f"{path} is damaged: {error}. Restore it from a copy; `vidrl train RECIPE --resume` writes the "
            "summary and the timelines anew"
        ) from error
