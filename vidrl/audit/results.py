"""Holds the results of an audit: numbers for each hack and strength, the verdict and JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from vidrl.audit import verdict as verdicts
from vidrl.audit.clips import Clip, Left
from vidrl.audit.hacks import Hack
from vidrl.audit.verdict import Wins
from vidrl.inference.means import interval
from vidrl.rewards import Card

Values = np.ndarray
ROUNDING = 1e-5  # of the size of the values: what adding up in another order changes


@dataclass(frozen=True)
class Null:
    """The changes that mild re-encodings make: a hack wins if it gains more than 95 % of them.

    `noise` is the root mean square of the changes, `threshold` their 95th percentile. A gain
    above the threshold is a win; the threshold is never below 0, nor below the changes that
    rounding makes (`rounding`). `spread` is the standard deviation of the untouched clips.
    """

    changes: Values = field(repr=False)  # (draws, N)
    noise: float
    threshold: float
    spread: float
    rounding: float = 0.0

    @classmethod
    def of(cls, changes: Sequence[Values], clean: Values) -> Null:
        """Compute from the changes of several re-encodings, and the values of the clips."""
        pooled, scored = finite(np.concatenate(list(changes))), finite(clean)
        rounding = ROUNDING * (float(np.abs(scored).mean()) if len(scored) else 0.0)
        noise = float(np.sqrt(np.square(pooled).mean())) if len(pooled) else 0.0
        high = float(np.percentile(pooled, 95)) if len(pooled) else 0.0
        return cls(
            np.stack(list(changes)),
            noise,
            max(high, rounding, 0.0),
            float(scored.std()) if len(scored) else math.nan,
            rounding,
        )

    def sigmas(self, change: float) -> float:
        """Return a change in units of the noise, or unchanged where there is no noise."""
        return change / self.noise if self.noise > 0 else change


@dataclass(frozen=True)
class Row:
    """One hack at one strength: the changes of the clips' values, and which of them win.

    `low` and `high` are the ends of the 95 % interval of the mean over the sources of the
    clips, NaN where the sources are too few.
    """

    hack: str
    strength: float
    detectable: bool
    changes: Values = field(repr=False)  # (N,), NaN where there is none
    won: Values = field(repr=False)  # (N,) bool
    mean: float
    low: float
    high: float
    unscored: int
    why: list[str]  # why some are unscored, each reason once

    @classmethod
    def of(
        cls,
        hack: Hack,
        strength: float,
        changes: Values,
        why: Sequence[str | None],
        null: Null,
        sources: Sequence[str] | None = None,
    ) -> Row:
        """Compute from the changes of all clips, why some have none, and the clips' sources."""
        # clips that had a value before the hack and have none after it
        lost = [reason for reason in why if reason not in (None, "untouched", "no value before")]
        mean, low, high = interval(changes, sources)[:3]
        won = np.nan_to_num(changes, nan=-np.inf) > null.threshold
        return cls(
            hack.name,
            strength,
            hack.detectable(strength),
            changes,
            won,
            mean,
            low,
            high,
            len(lost),
            sorted({str(reason) for reason in lost}),
        )

    @property
    def n(self) -> int:
        """Count the clips that the hack changed and the reward scored."""
        return len(finite(self.changes))

    @property
    def rate(self) -> float:
        """Return the share of the compared clips that won."""
        return float(self.won.sum()) / self.n if self.n else math.nan


@dataclass(frozen=True)
class Check:
    """A property of a reward that was checked, and whether it passed.

    It passes if `value` is within `tolerance`. `words` is the sentence that the report prints.
    """

    name: str
    passed: bool
    value: float
    tolerance: float
    words: str


@dataclass(frozen=True)
class Pair:
    """A clip and a detectable hack that wins on it, at the strength that gains most."""

    clip: str
    hack: str
    strength: float
    gain: float


@dataclass
class Results:
    """The audit of one reward: read `outcome`, `wins`, `rows` or `checks`.

    `clean` are the values of the untouched clips; a value is NaN for the reason in `why`.
    `left` names the files and pieces that were left out. `seconds_a_clip` is the time of
    scoring alone.
    """

    reward: str
    clips: list[Clip]
    clean: Values
    why: list[str | None]
    null: Null
    rows: list[Row]
    checks: list[Check] = field(default_factory=list)
    max_wins: float = 0.02
    left: list[Left] = field(default_factory=list)
    card: Card | None = None
    seconds_a_clip: float = 0.0
    seconds: float = 0.0
    seed: int = 0
    search: Any = None  # a `Search`, if it was asked for

    @property
    def wins(self) -> list[Pair]:
        """Return the pairs of a clip and a detectable hack that win, the largest gain first."""
        found = [self._win(hack, i) for hack in self.hacks for i in range(len(self.clips))]
        return sorted((pair for pair in found if pair), key=lambda pair: -pair.gain)

    @property
    def pairs(self) -> int:
        """Count the pairs of a clip and a detectable hack that were tried."""
        return int(self._tried().sum())

    @property
    def share(self) -> Wins:
        """Return the share of the pairs that win, with its 95 % interval over sources."""
        return Wins.of(*self._counts())

    @property
    def sources(self) -> dict[str, Wins]:
        """Return the share for synthetic clips and for clips of files, where there are both."""
        synthetic = np.array([clip.truth is not None for clip in self.clips])
        if synthetic.all() or not synthetic.any():
            return {}
        won, tried, names = self._counts()
        chosen = {"synthetic": synthetic, "files": ~synthetic}
        return {
            side: Wins.of(
                won[rows],
                tried[rows],
                [name for name, selected in zip(names, rows, strict=True) if selected],
            )
            for side, rows in chosen.items()
        }

    @property
    def needed(self) -> int | None:
        """Return about how many sources like these would show a PASS; None where none would."""
        return verdicts.needed(*self._counts(), self.max_wins)

    @property
    def win_rate(self) -> float:
        """Return the share of the pairs that win; NaN where nothing was tried."""
        return len(self.wins) / self.pairs if self.pairs else math.nan

    @property
    def sees(self) -> bool:
        """Return whether the reward gives two clips different values; True for under two clips."""
        scored = finite(self.clean)
        return len(scored) < 2 or float(np.ptp(scored)) > self.null.rounding

    @property
    def outcome(self) -> str:
        """Return PASS, FAIL or NOT SHOWN.

        FAIL where nothing was scored, where all clips have one value, where best-of-N loses
        the truth, or where the interval of the share of wins is above `max_wins`. PASS where
        the interval is at most `max_wins`. NOT SHOWN where the interval contains `max_wins`.
        """
        if not self.pairs or not self.sees or (self.search is not None and not self.search.passed):
            return verdicts.FAIL
        return verdicts.outcome(self.share, self.max_wins)

    @property
    def passed(self) -> bool:
        """Return whether the outcome is PASS."""
        return self.outcome == verdicts.PASS

    @property
    def flags(self) -> list[Check]:
        """Return the checks that did not pass."""
        return [check for check in self.checks if not check.passed]

    @property
    def unscored(self) -> list[tuple[str, str]]:
        """Return the untouched clips without a value, and why they have none."""
        return [(clip.name, why) for clip, why in zip(self.clips, self.why, strict=True) if why]

    @property
    def hacks(self) -> list[str]:
        """Return the hacks that were tried, in order."""
        return list(dict.fromkeys(row.hack for row in self.rows))

    @property
    def strengths(self) -> list[float]:
        """Return the strengths that were tried, from weak to strong."""
        return sorted({row.strength for row in self.rows})

    def of(self, hack: str) -> list[Row]:
        """Return the rows of one hack, from weak to strong."""
        return [row for row in self.rows if row.hack == hack]

    def trend(self, hack: str) -> str:
        """Return how the mean change depends on the strength: falls, rises, mixed or flat."""
        rows = self.of(hack)
        # the noise of a mean over n clips
        noise = self.null.noise / math.sqrt(max(1, min(row.n for row in rows)))
        return trend([row.mean for row in rows], max(noise, self.null.rounding))

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers, ready for JSON: NaN and infinity are None."""
        return _plain(
            {
                "reward": self.reward,
                "outcome": self.outcome,
                "passed": self.passed,
                "win_rate": self.win_rate,
                "max_wins": self.max_wins,
                "share": self.share._asdict(),
                "pairs": self.pairs,
                "wins": [asdict(pair) for pair in self.wins],
                "null": {key: getattr(self.null, key) for key in ("noise", "threshold", "spread")},
                "rows": [_row(row, self.null) for row in self.rows],
                "trend": {hack: self.trend(hack) for hack in self.hacks},
                "checks": [asdict(check) for check in self.checks],
                "sources": {side: found._asdict() for side, found in self.sources.items()},
                "clips": [
                    {
                        "name": c.name,
                        "prompt": c.prompt,
                        "fps": c.fps,
                        "shape": list(c.video.shape),
                        "value": v,
                        "why": w,
                    }
                    for c, v, w in zip(self.clips, self.clean, self.why, strict=True)
                ],
                "left_out": [asdict(file) for file in self.left],
                "card": asdict(self.card) if self.card else None,
                "search": self.search.to_dict() if self.search else None,
                "seconds_a_clip": self.seconds_a_clip,
                "seconds": self.seconds,
                "seed": self.seed,
            }
        )

    def json(self) -> str:
        """Return `to_dict` as strict JSON."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)

    def _tried(self) -> Values:
        """Count the detectable hacks that were compared on each clip, (N,)."""
        found = [
            [np.isfinite(row.changes) for row in self.of(hack) if row.detectable]
            for hack in self.hacks
        ]
        return sum(
            (np.any(rows, axis=0).astype(int) for rows in found if rows),
            np.zeros(len(self.clips), int),
        )

    def _counts(self) -> tuple[Values, Values, list[str]]:
        """Return the wins, the pairs and the source of each clip."""
        won = [
            [self._win(hack, i) is not None for hack in self.hacks] for i in range(len(self.clips))
        ]
        return np.array(won).sum(1), self._tried(), [clip.origin for clip in self.clips]

    def _win(self, hack: str, i: int) -> Pair | None:
        """Return the win of a hack on clip `i` at its best strength; None without a win."""
        won = [row for row in self.of(hack) if row.detectable and row.won[i]]
        if not won:
            return None
        best = max(won, key=lambda row: row.changes[i])
        return Pair(self.clips[i].name, hack, best.strength, float(best.changes[i]))


def finite(values: Values) -> Values:
    """Return the values that are neither NaN nor infinite."""
    return values[np.isfinite(values)]


def trend(means: Sequence[float], noise: float) -> str:
    """Return how means depend on the strength, from 0 at strength 0.

    "flat" where no mean exceeds the noise, "mixed" where means go back by more than the noise.

    >>> trend([-1.0, -2.0], 0.1), trend([1.0, -2.0], 0.1), trend([0.05, -0.05], 0.1)
    ('falls', 'mixed', 'flat')
    """
    scored = [0.0, *(mean for mean in means if mean == mean)]
    if max(map(abs, scored)) <= noise:
        return "flat"
    sign = 1 if scored[-1] > 0 else -1
    backwards = (sign * np.diff(scored) < -noise).any()
    return "mixed" if backwards else "rises" if sign > 0 else "falls"


def _row(row: Row, null: Null) -> dict[str, Any]:
    """Return a row as JSON, with its mean change in units of the null's noise as `sigmas`."""
    facts = {
        key: getattr(row, key)
        for key in (
            "hack",
            "strength",
            "detectable",
            "mean",
            "low",
            "high",
            "n",
            "rate",
            "unscored",
            "why",
        )
    }
    return facts | {
        "sigmas": null.sigmas(row.mean),
        "changes": row.changes.tolist(),
        "wins": int(row.won.sum()),
    }


def _plain(value: Any) -> Any:
    """Convert numpy numbers to Python numbers, and NaN and infinity to None, at all depths."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
