"""Reads a run folder: the page, the table and later comparisons start from a `Run`.

A file that is missing, as in an unfinished run, is read as an empty value.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidrl.rewards._files.containers import container_of
from vidrl.training import guards

Row = Mapping[str, Any]

# The direction in which a held-out measure gets better: −1 if lower values are better, 0 if
# neither direction is. Higher values are better for every measure that is not named.
DIRECTION = {"unscored_share": -1, "exposure": 0, "weight_drift": 0}

LEAST = 20  # held-out clips below which no change is claimed, as in the suites of vidrl bench


class NoRun(ValueError):
    """The folder holds no run, or a file of the run is damaged."""


@dataclass(frozen=True)
class Run:
    """The contents of a run folder."""

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
        """Return the rows of the held-out table by name; empty if the run has no summary."""
        return self.summary.get("held_out", {})

    @property
    def parts(self) -> list[str]:
        """Return the names of the reward's parts that the held-out table has."""
        last = self.metrics[-1].get("parts", {}) if self.metrics else {}
        return [name for name in last if name in self.held_out]

    def clip(self, *names: str) -> Path | None:
        """Return the file of a clip (.mp4) or of an image (.png); None where there is neither."""
        return self._file("mp4", *names) or self.picture(*names)

    def picture(self, *names: str) -> Path | None:
        """Return the file of a picture; None where there is none or it is not a .png."""
        return self._file("png", *names)

    def _file(self, expected: str, *names: str) -> Path | None:
        """Return a file of the run folder; None where there is none of this kind.

        A run folder may come from a stranger, whose names and links could lead to any file
        of the reader, and the page would contain the bytes of that file. So the file must be
        inside the folder after links are resolved, and its first bytes must be of its kind.
        """
        try:
            path = self.folder.joinpath(*names)
            inside = path.resolve().is_relative_to(self.folder.resolve())
            return path if inside and path.is_file() and container_of(path) == expected else None
        except (OSError, TypeError, ValueError):  # a name that is no text, or that no file can have
            return None

    def allowed(self, name: str) -> tuple[float, float] | None:
        """Return the differences from the base model that a guard allows; None without a guard."""
        band = self.config.get("guard", {}).get("bands", {}).get(name)
        if band is None:
            return None
        return guards.allowed(name, (band[0], band[1]), self.held_out[name]["before"])

    def change(self, name: str) -> str:
        """Return how a held-out measure changed: "better", "worse", "rose", "fell" or "".

        "rose" and "fell" are for a measure of which neither direction is better. "" where
        the 95 % interval contains zero, where there is no interval, and where fewer than
        LEAST clips were measured, which are too few for a claim.
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
        """Return the verdict of a measure's guard, see `vidrl.training.guards.verdict`, or ""."""
        zone = self.allowed(name)
        return "" if zone is None else guards.verdict(self.held_out[name], zone)


def side(row: Row) -> int:
    """Return the sign of a difference beyond doubt: 1, −1, or 0 where that is not known.

    The sign is known where the whole interval is above zero or below zero.
    """
    low, high = row.get("low"), row.get("high")
    return 0 if low is None or high is None else int(low > 0) - int(high < 0)


def read(run_dir: str | Path) -> Run:
    """Read a run folder. Raises `NoRun` where there is no config.toml or a file is damaged."""
    folder = Path(run_dir)
    config = folder / "config.toml"
    if not config.is_file():
        found = "none" if folder.is_dir() else "no such folder"
        raise NoRun(
            f"{folder}: expected a run folder with a config.toml, found {found}; "
            "`vidrl train` makes one"
        )
    text = config.read_text(encoding="utf-8")
    lines = {
        name: _lines(folder / f"{name}.jsonl") for name in ("metrics", "evals", "events", "bench")
    }
    # a run that has not finished has progress.json in place of summary.json
    summary = _json(folder / "summary.json", {}) or _json(folder / "progress.json", {})
    return Run(
        folder,
        text,
        _parse(config, text, tomllib.loads),
        timelines=_json(folder / "timelines.json", []),
        summary=summary,
        credit=_json(folder / "credit.json", [], finite=True),
        influence=_json(folder / "influence.json", {}, finite=True),
        **lines,
    )


def _lines(path: Path) -> list[Row]:
    """Return the JSON objects of a file, one a line; damaged lines are left out."""
    text = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
    rows = [_parsed(line) for line in text]
    return [row for row in rows if isinstance(row, dict)]


def _parsed(line: str) -> Any:
    """Return the value of a line of JSON, None if the line is damaged."""
    try:
        return json.loads(line)
    # the last line of a run that has not finished, or was killed, may be incomplete
    except json.JSONDecodeError:
        return None


def _json(path: Path, missing: Any, finite: bool = False) -> Any:
    """Read a JSON file; with `finite`, NaN and infinities become None, which means unscored."""
    parse_constant = (lambda _: None) if finite else None
    if not path.is_file():
        return missing
    return _parse(
        path,
        path.read_text(encoding="utf-8", errors="replace"),
        lambda text: json.loads(text, parse_constant=parse_constant),
    )


def _parse(path: Path, text: str, parse: Callable[[str], Any]) -> Any:
    """Return `parse(text)`; raise NoRun that names the file if the text is damaged."""
    try:
        return parse(text)
    except ValueError as error:  # of JSON and TOML alike
        raise NoRun(
            f"{path} is damaged: {error}. Restore it from a copy; `vidrl train RECIPE --resume` "
            "writes the summary and the timelines anew"
        ) from error
