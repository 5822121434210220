"""What an audit found: numbers a hack and strength, the verdict, a table and JSON."""

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
from vidrl.audit.table import table
from vidrl.audit.verdict import Wins
from vidrl.inference.means import interval
from vidrl.rewards import Card

Values = np.ndarray
ROUNDING = 1e-5  # of the values' size: what adding up in another order changes


@dataclass(frozen=True)
class Null:
    """What re-encoding does to the value: `noise` is its root mean square, `threshold` its
    95th percentile.

    A gain above the threshold is a win; it is never below 0, nor below what rounding does.
    `spread` is the standard deviation of the values of the untouched clips.
    """

    changes: Values = field(repr=False)  # (draws, N)
    noise: float
    threshold: float
    spread: float
    rounding: float = 0.0

    @classmethod
    def of(cls, changes: Sequence[Values], clean: Values) -> Null:
        """From the changes of several re-encodings of all clips and the clips' own
        values."""
        pooled, known = finite(np.concatenate(list(changes))), finite(clean)
        rounding = ROUNDING * (float(np.abs(known).mean()) if len(known) else 0.0)
        noise = float(np.sqrt(np.square(pooled).mean())) if len(pooled) else 0.0
        high = float(np.percentile(pooled, 95)) if len(pooled) else 0.0
        return cls(
            np.stack(list(changes)),
            noise,
            max(high, rounding, 0.0),
            float(known.std()) if len(known) else math.nan,
            rounding,
        )

    def sigmas(self, change: float) -> float:
        """A change in units of the noise; as it is where there is no noise."""
        return change / self.noise if self.noise > 0 else change


@dataclass(frozen=True)
class Row:
    """One hack at one strength: the change of each clip's value, its mean and 95 %
    interval, and who won by it.

    The interval is one over the sources of the clips; NaN where these are too few to have
    one.
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
        """From the changes of all clips, why some have none, and the sources that the clips
        are from."""
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
        """How many clips were compared: those that the hack changed and the reward
        scored."""
        return len(finite(self.changes))

    @property
    def rate(self) -> float:
        """The share of them that won."""
        return float(self.won.sum()) / self.n if self.n else math.nan


@dataclass(frozen=True)
class Check:
    """One property of a reward: measured, the most it may be, and whether it holds."""

    name: str
    passed: bool
    value: float
    tolerance: float
    words: str


@dataclass(frozen=True)
class Pair:
    """A clip and the detectable hack that it won by, at the strength where it gained
    most."""

    clip: str
    hack: str
    strength: float
    gain: float


@dataclass
class Report:
    """The audit of one reward: `outcome`, `wins` (pairs of clip and detectable hack),
    `rows`, `checks`, `table()`.

    `clean` are the values of the untouched clips, NaN where there is none for the reason in
    `why`; `left` names what was left out before. `seconds_a_clip` is the time of scoring
    alone.
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
    search: Any = None  # what best-of-N found, if it was asked for

    @property
    def wins(self) -> list[Pair]:
        """The pairs of a clip and a detectable hack that pay, the dearest first."""
        found = [self._win(hack, i) for hack in self.hacks for i in range(len(self.clips))]
        return sorted((pair for pair in found if pair), key=lambda pair: -pair.gain)

    @property
    def pairs(self) -> int:
        """How many pairs of a clip and a detectable hack were tried."""
        return int(self._tried().sum())

    @property
    def share(self) -> Wins:
        """The share of the pairs that pay, with its 95 % interval over the sources of the
        clips."""
        return Wins.of(*self._counts())

    @property
    def sources(self) -> dict[str, Wins]:
        """The same of the synthetic clips and of those of files apart, where there are
        both."""
        made = np.array([clip.truth is not None for clip in self.clips])
        if made.all() or not made.any():
            return {}
        won, tried, names = self._counts()
        chosen = {"synthetic": made, "files": ~made}
        return {
            side: Wins.of(
                won[rows], tried[rows], [n for n, take in zip(names, rows, strict=True) if take]
            )
            for side, rows in chosen.items()
        }

    @property
    def needed(self) -> int | None:
        """About how many sources would make it pass, if as small a share of their pairs
        paid; None where none would."""
        return verdicts.needed(*self._counts(), self.max_wins)

    @property
    def win_rate(self) -> float:
        """The share of the pairs that pay; NaN where nothing was tried."""
        return len(self.wins) / self.pairs if self.pairs else math.nan

    @property
    def sees(self) -> bool:
        """Whether any two clips have different values; two or more are needed to tell."""
        known = finite(self.clean)
        return len(known) < 2 or float(np.ptp(known)) > self.null.rounding

    @property
    def outcome(self) -> str:
        """PASS, FAIL or NOT SHOWN.

        FAIL where nothing was scored or seen, where best-of-N loses the truth, or where the
        interval of the share of wins is above `max_wins`; PASS where that interval is at
        most `max_wins`; NOT SHOWN where it holds `max_wins`.
        """
        if not self.pairs or not self.sees or (self.search is not None and not self.search.passed):
            return verdicts.FAIL
        return verdicts.outcome(self.share, self.max_wins)

    @property
    def passed(self) -> bool:
        """Whether it is shown that no more pairs pay than the limit allows, and nothing
        else fails."""
        return self.outcome == verdicts.PASS

    @property
    def flags(self) -> list[Check]:
        """The checks that do not hold."""
        return [check for check in self.checks if not check.passed]

    @property
    def unscored(self) -> list[tuple[str, str]]:
        """Untouched clips without a value, and why."""
        return [(clip.name, why) for clip, why in zip(self.clips, self.why, strict=True) if why]

    @property
    def hacks(self) -> list[str]:
        """The hacks tried, in order."""
        return list(dict.fromkeys(row.hack for row in self.rows))

    @property
    def strengths(self) -> list[float]:
        """The strengths tried, from weak to strong."""
        return sorted({row.strength for row in self.rows})

    def of(self, hack: str) -> list[Row]:
        """The rows of one hack, from weak to strong."""
        return [row for row in self.rows if row.hack == hack]

    def trend(self, hack: str) -> str:
        """How the mean change goes with the strength: falls, rises, mixed, or flat within
        the noise of a mean."""
        rows = self.of(hack)
        noise = self.null.noise / math.sqrt(max(1, min(row.n for row in rows)))
        return trend([row.mean for row in rows], max(noise, self.null.rounding))

    def table(self) -> str:
        """The audit as text, one line a hack."""
        return table(self)

    def to_dict(self) -> dict[str, Any]:
        """All numbers, ready for JSON: what is not there is None."""
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
                "left_out": [asdict(one) for one in self.left],
                "card": asdict(self.card) if self.card else None,
                "search": self.search.to_dict() if self.search else None,
                "seconds_a_clip": self.seconds_a_clip,
                "seconds": self.seconds,
                "seed": self.seed,
            }
        )

    def json(self) -> str:
        """`to_dict` as strict JSON."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)

    def _tried(self) -> Values:
        """With how many detectable hacks each clip was compared, (N,)."""
        found = [
            [np.isfinite(row.changes) for row in self.of(hack) if row.detectable]
            for hack in self.hacks
        ]
        return sum(
            (np.any(rows, axis=0).astype(int) for rows in found if rows),
            np.zeros(len(self.clips), int),
        )

    def _counts(self) -> tuple[Values, Values, list[str]]:
        """Of each clip its wins, its pairs and its source."""
        won = [
            [self._win(hack, i) is not None for hack in self.hacks] for i in range(len(self.clips))
        ]
        return np.array(won).sum(1), self._tried(), [clip.origin for clip in self.clips]

    def _win(self, hack: str, i: int) -> Pair | None:
        won = [row for row in self.of(hack) if row.detectable and row.won[i]]
        if not won:
            return None
        best = max(won, key=lambda row: row.changes[i])
        return Pair(self.clips[i].name, hack, best.strength, float(best.changes[i]))


def finite(values: Values) -> Values:
    """The numbers among them."""
    return values[np.isfinite(values)]


def trend(means: Sequence[float], noise: float) -> str:
    """How means go with strength, from 0 at strength 0.

    >>> trend([-1.0, -2.0], 0.1), trend([1.0, -2.0], 0.1), trend([0.05, -0.05], 0.1)
    ('falls', 'mixed', 'flat')
    """
    known = [0.0, *(mean for mean in means if mean == mean)]
    if max(map(abs, known)) <= noise:
        return "flat"
    way = 1 if known[-1] > 0 else -1
    backwards = (way * np.diff(known) < -noise).any()
    return "mixed" if backwards else "rises" if way > 0 else "falls"


def _row(row: Row, null: Null) -> dict[str, Any]:
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
    """The same with plain Python numbers, None for NaN and infinity."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
