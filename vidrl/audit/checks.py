"""What a reward must keep beside not paying for cheats: the same number twice, alone or
not, at any rate or size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from vidrl.audit.clips import Clip, rendered, scene
from vidrl.audit.hacks import HACKS
from vidrl.audit.report import Check, Null, Row, finite
from vidrl.audit.scoring import Scorer, Values
from vidrl.report.charts import number

SAME = 1e-4  # of the spread between clips: what rounding may change
ALIKE = 0.5  # of the spread between clips: what another rate or size of one scene may change
RATES = (8.0, 12.0, 24.0, 30.0)
FEW = 4


def sensitivity(scorer: Scorer, clips: Sequence[Clip], clean: Values, null: Null) -> Check:
    """Whether clips differ by more than re-encoding one does."""
    known = len(finite(clean))
    ratio = null.spread / null.noise if null.noise > 0 else (np.inf if null.spread > 0 else 0.0)
    words = (
        f"the values of {known} clips spread by {number(null.spread)}, {number(ratio)} times what re-encoding "
        f"does ({number(null.noise)})"
    )
    return Check("sensitive", bool(ratio > 2), ratio, 2.0, words)


def determinism(scorer: Scorer, clips: Sequence[Clip], clean: Values, null: Null) -> Check:
    """Whether the same clips get the same values a second time."""
    return _same("deterministic", clean, scorer(clips)[0], null, "asked twice")


def batching(scorer: Scorer, clips: Sequence[Clip], clean: Values, null: Null) -> Check:
    """Whether a clip's value depends on the clips beside it."""
    rows = [int(i) for i in np.flatnonzero(np.isfinite(clean))[:: max(1, len(clips) // FEW)]][:FEW]
    alone = np.array([scorer([clips[i]])[0][0] for i in rows])
    return _same("batch-free", clean[rows], alone, null, "alone or among others")


def rate(scorer: Scorer, clips: Sequence[Clip], clean: Values, null: Null) -> Check:
    """Whether one scene has one value at 8, 12, 24 and 30 frames a second."""
    size = _size(clips)
    made = {
        f"{fps:g} fps": [
            rendered(scene(7 * i + i), i, size, round(2 * fps) + 1, fps) for i in range(FEW)
        ]
        for fps in RATES
    }
    return _alike("rate-free", scorer, made, null)


def size(scorer: Scorer, clips: Sequence[Clip], clean: Values, null: Null) -> Check:
    """Whether one scene has one value at twice the size."""
    least, frames = _size(clips), 1 if len(clips[0].video) == 1 else 17
    made = {
        f"{side} px": [rendered(scene(7 * i + i), i, side, frames, 8.0) for i in range(FEW)]
        for side in (least, 2 * least)
    }
    return _alike("size-free", scorer, made, null)


def cost(scorer: Scorer, clips: Sequence[Clip], clean: Values, null: Null) -> Check:
    """Seconds a clip, and how much the process grew when it scored first; facts, which no
    limit is set to."""
    seconds = scorer.seconds / max(scorer.clips, 1)
    frames, _, height, width = clips[0].video.shape
    memory = (
        ""
        if scorer.grown is None
        else (
            f"; memory grew by {number(scorer.grown / 2**20)} MiB at most over the "
            f"first {len(clips)} clips, libraries and weights included"
        )
    )
    words = (
        f"{number(1000 * seconds)} ms a clip of {frames} frames of {height} x {width} on {scorer.device}, "
        f"{torch.get_num_threads()} threads{memory}"
    )
    return Check("cost", True, seconds, np.inf, words)


ALL = (cost, sensitivity, determinism, batching, rate, size)


def ties(rows: Sequence[Row], null: Null) -> list[Check]:
    """Whether what is as good as the clip gets the same value, if it was tried."""
    tied = [row for row in rows if HACKS[row.hack].tie and row.n]
    if not tied:
        return []
    away = {row.hack: float(np.abs(finite(row.changes)).mean()) for row in tied}
    allowed = max(2 * null.noise, 0.1 * null.spread, null.threshold)
    words = f"{', '.join(f'{hack} changes it by {number(a)}' for hack, a in away.items())}; {number(allowed)} may be"
    return [Check("ties", max(away.values()) <= allowed, max(away.values()), allowed, words)]


def _same(name: str, before: Values, after: Values, null: Null, what: str) -> Check:
    if not len(finite(after - before)):
        return Check(name, False, np.nan, SAME, f"{what}: not told, nothing was scored")
    worst = float(np.abs(finite(after - before)).max(initial=0.0))
    lost = int((np.isfinite(before) != np.isfinite(after)).sum())
    scale = null.spread if null.spread > 0 else 1.0
    note = f"; {lost} scored only once" if lost else ""
    words = f"{what}, the values differ by {number(worst)} at most, {number(worst / scale)} of their spread{note}"
    return Check(
        name,
        worst <= max(SAME * scale, 1e-6 * float(np.abs(finite(before)).max(initial=0.0)))
        and not lost,
        worst / scale,
        SAME,
        words,
    )


def _alike(name: str, scorer: Scorer, made: dict[str, list[Clip]], null: Null) -> Check:
    values = {key: scorer(clips)[0] for key, clips in made.items()}
    first = next(iter(values.values()))
    scale = null.spread if null.spread > 0 else 1.0
    away = {
        key: float(np.abs(finite(v - first)).mean()) / scale if len(finite(v - first)) else np.nan
        for key, v in values.items()
    }
    worst = max((x for x in away.values() if x == x), default=np.nan)
    lost = [key for key, v in values.items() if not np.isfinite(v).all()]
    means = ", ".join(f"{key} {number(float(v.mean()))}" for key, v in values.items())
    note = f"; some unscored at {', '.join(lost)}" if lost else ""
    words = f"one scene: {means}; differs by {number(worst)} of the clips' spread{note}"
    return Check(name, bool(worst <= ALIKE), worst, ALIKE, words)


def _size(clips: Sequence[Clip]) -> int:
    own = [clip.video.shape[-1] for clip in clips if clip.truth]
    return min(own, default=64)
