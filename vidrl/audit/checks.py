"""Checks of a reward besides hacks: it is repeatable, and independent of batch, rate and size.

Each check returns a `Check`; none decides the verdict, and `--strict` turns a flag into a
failure.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from vidrl.audit.clips import Clip, rendered, scene
from vidrl.audit.hacks import HACKS
from vidrl.audit.results import Check, Null, Row, finite
from vidrl.audit.scoring import Scorer, Values
from vidrl.report.charts import number

# Allowed changes, in standard deviations between the untouched clips.
SAME = 1e-4  # by rounding
ALIKE = 0.5  # by another rate or size of the same scene
RATES = (8.0, 12.0, 24.0, 30.0)
FEW = 4  # clips that are scored alone, or at other rates and sizes


def sensitivity(scorer: Scorer, clips: Sequence[Clip], clean: Values, null: Null) -> Check:
    """Check that clips differ by more than the re-encoding of a clip changes its value."""
    scored = len(finite(clean))
    ratio = null.spread / null.noise if null.noise > 0 else (np.inf if null.spread > 0 else 0.0)
    words = (
        f"the values of {scored} clips have a standard deviation of {number(null.spread)}, "
        f"{number(ratio)} times the change by re-encoding ({number(null.noise)})"
    )
    return Check("sensitive", bool(ratio > 2), ratio, 2.0, words)


def determinism(scorer: Scorer, clips: Sequence[Clip], clean: Values, null: Null) -> Check:
    """Check that the same clips get the same values a second time."""
    return _same("deterministic", clean, scorer(clips)[0], null, "scored twice")


def batching(scorer: Scorer, clips: Sequence[Clip], clean: Values, null: Null) -> Check:
    """Check that a clip's value does not depend on the other clips of its batch."""
    rows = [int(i) for i in np.flatnonzero(np.isfinite(clean))[:: max(1, len(clips) // FEW)]][:FEW]
    alone = np.array([scorer([clips[i]])[0][0] for i in rows])
    return _same("batch-free", clean[rows], alone, null, "alone or among others")


def rate(scorer: Scorer, clips: Sequence[Clip], clean: Values, null: Null) -> Check:
    """Check that a scene has the same value at 8, 12, 24 and 30 frames a second."""
    size = _size(clips)
    scenes = {
        f"{fps:g} fps": [
            # every eighth scene: the motions, backgrounds and speeds of four scenes differ
            rendered(scene(7 * i + i), i, size, round(2 * fps) + 1, fps)
            for i in range(FEW)
        ]
        for fps in RATES
    }
    return _alike("rate-free", scorer, scenes, null)


def size(scorer: Scorer, clips: Sequence[Clip], clean: Values, null: Null) -> Check:
    """Check that a scene has the same value at twice the size."""
    least, frames = _size(clips), 1 if len(clips[0].video) == 1 else 17
    scenes = {
        f"{side} px": [rendered(scene(7 * i + i), i, side, frames, 8.0) for i in range(FEW)]
        for side in (least, 2 * least)
    }
    return _alike("size-free", scorer, scenes, null)


def cost(scorer: Scorer, clips: Sequence[Clip], clean: Values, null: Null) -> Check:
    """Report seconds a clip and how far memory grew on the first call; nothing is flagged."""
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
        f"{number(1000 * seconds)} ms a clip of {frames} frames of {height} x {width} "
        f"on {scorer.device}, {torch.get_num_threads()} threads{memory}"
    )
    return Check("cost", True, seconds, np.inf, words)


ALL = (cost, sensitivity, determinism, batching, rate, size)


def ties(rows: Sequence[Row], null: Null) -> list[Check]:
    """Check that mirrored and reversed clips, which are as good, get nearly the same value.

    Empty where neither hack was tried.
    """
    tied = [row for row in rows if HACKS[row.hack].tie and row.n]
    if not tied:
        return []
    away = {row.hack: float(np.abs(finite(row.changes)).mean()) for row in tied}
    allowed = max(2 * null.noise, 0.1 * null.spread, null.threshold)
    changes = ", ".join(f"{hack} changes it by {number(a)}" for hack, a in away.items())
    words = f"{changes}; {number(allowed)} is allowed"
    return [Check("ties", max(away.values()) <= allowed, max(away.values()), allowed, words)]


def _same(name: str, before: Values, after: Values, null: Null, what: str) -> Check:
    """Check that two scorings agree up to rounding and score the same clips."""
    if not len(finite(after - before)):
        return Check(name, False, np.nan, SAME, f"{what}: not known, nothing was scored")
    worst = float(np.abs(finite(after - before)).max(initial=0.0))
    lost = int((np.isfinite(before) != np.isfinite(after)).sum())
    scale = null.spread if null.spread > 0 else 1.0
    note = f"; {lost} scored only once" if lost else ""
    words = (
        f"{what}, the values differ by {number(worst)} at most, "
        f"{number(worst / scale)} of their standard deviation{note}"
    )
    # float32 rounds large values by more than a fraction of a small standard deviation
    allowed = max(SAME * scale, 1e-6 * float(np.abs(finite(before)).max(initial=0.0)))
    return Check(name, worst <= allowed and not lost, worst / scale, SAME, words)


def _alike(name: str, scorer: Scorer, scenes: dict[str, list[Clip]], null: Null) -> Check:
    """Check that the same scenes, rendered in several ways, have nearly the same values."""
    values = {key: scorer(clips)[0] for key, clips in scenes.items()}
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
    words = (
        f"the same scenes: {means}; they differ by {number(worst)} standard deviations "
        f"between clips{note}"
    )
    return Check(name, bool(worst <= ALIKE), worst, ALIKE, words)


def _size(clips: Sequence[Clip]) -> int:
    """Return the width of the synthetic clips, or 64 where all clips are from files."""
    own = [clip.video.shape[-1] for clip in clips if clip.truth]
    return min(own, default=64)
