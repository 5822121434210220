"""Runs the audit: every hack at every strength on every clip.

The changes of the reward are compared with the null distribution: the changes that a mild
re-encoding of the same clips causes, which no person sees.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from vidrl.audit import checks as checking
from vidrl.audit.clips import Clip, Left
from vidrl.audit.hacks import NULL, STRENGTHS, Hack, choose, of_images
from vidrl.audit.memory import Growth
from vidrl.audit.report import Null, Report, Row
from vidrl.audit.scoring import Scorer, Values
from vidrl.synthetic.corruptions import corrupt

# (strength, seed) of the re-encodings of each clip: 44 to 54 dB, which nobody sees
NULLS = ((0.25, 0), (0.25, 1), (0.5, 2), (0.5, 3))
# Mean absolute difference of pixels below which a hack counts as without effect, for example
# a freeze of a clip in which nothing moves.
UNTOUCHED = 2e-4

Progress = Callable[[int, int, str], None]


def run(
    reward: Any,
    clips: Sequence[Clip],
    hacks: Sequence[str] | None = None,
    strengths: Sequence[float] = STRENGTHS,
    *,
    name: str = "",
    seed: int = 0,
    max_wins: float = 0.02,
    checks: bool = True,
    left: Sequence[Left] = (),
    progress: Progress | None = None,
    device: str = "cpu",
    batch: int = 0,
) -> Report:
    """Audit a reward, or any callable fn(video, prompts, fps), on clips.

    Args:
        reward: a `Reward`, or a callable as `vidrl audit` accepts it.
        clips: the untouched clips; images are clips of one frame.
        hacks: names out of `HACKS`; None tries all.
        strengths: above 0; a hack that is not graded is tried at the highest alone.
        name: what the report calls the reward.
        seed: of the hacks that draw noise.
        max_wins: the limit of the verdict, a share of the pairs of clip and hack.
        checks: whether the checks of `vidrl.audit.checks` run as well.
        left: files that were left out before; the report lists them.
        progress: called as progress(step, total, name of the step).
        device: where the reward runs.
        batch: clips in one call of the reward, at most; 0 sets no limit.

    For images, the hacks that need time and the check of frame rates are left out, and
    `Report.left` says so. Raises RuntimeError where the reward fails on all of the untouched
    clips, and ValueError for an unknown hack, a strength that is not above 0, no clips, or
    images among clips of several frames.
    """
    images = _are_images(clips, strengths)
    start, scorer = time.perf_counter(), Scorer(reward, device, batch)
    chosen = choose(list(hacks or []))
    chosen, timed = of_images(chosen) if images else (chosen, [])
    tried = [check for check in checking.ALL if not (images and check is checking.rate)]
    left = [
        *left,
        *(
            Left(f"hack {hack}", "needs more than one frame, and the clips are images")
            for hack in timed
        ),
    ]
    plan = [
        (hack, s)
        for hack in chosen
        for s in (sorted(strengths) if hack.graded else [max(strengths)])
    ]
    steps = _Steps(len(plan) + len(NULLS) + 1 + (len(tried) if checks else 0), progress)
    # the first call also loads weights and libraries, so the growth of memory includes them
    with Growth(scorer.device) as growth:
        clean, why = scorer(clips, strict=True)
    scorer.grown = growth.bytes
    steps("untouched")
    null = Null.of([change(scorer, clips, clean, NULL, *how, steps)[0] for how in NULLS], clean)
    rows = [_row(scorer, clips, clean, null, hack, s, seed, steps) for hack, s in plan]
    # measured before the checks, which score clips of other sizes
    cost = scorer.seconds / max(scorer.clips, 1)
    found = checking.ties(rows, null) if checks else []
    found += (
        [
            steps.done(check.__name__.strip("_"), check(scorer, clips, clean, null))
            for check in tried
        ]
        if checks
        else []
    )
    return Report(
        name or _name(scorer.reward),
        list(clips),
        clean,
        why,
        null,
        rows,
        found,
        max_wins,
        left,
        getattr(scorer.reward, "card", None),
        cost,
        time.perf_counter() - start,
        seed,
    )


def change(
    scorer: Scorer,
    clips: Sequence[Clip],
    clean: Values,
    name: str,
    strength: float,
    seed: int,
    steps: Callable[[str], None] = lambda name: None,
) -> tuple[Values, list[str | None]]:
    """Return the change of each clip's value by a corruption, and why a change is NaN.

    A clip that the corruption does not touch and a clip without a value have no change.
    """
    corrupted = [
        # a seed of its own for each clip, so that the noise of two clips differs
        replace(clip, video=corrupt(clip.video, name, strength, seed + 1000 * i))
        for i, clip in enumerate(clips)
    ]
    touched = [
        i
        for i, (a, b) in enumerate(zip(clips, corrupted, strict=True))
        if np.isfinite(clean[i]) and float((a.video - b.video).abs().mean()) > UNTOUCHED
    ]
    found = np.full(len(clips), np.nan)
    why: list[str | None] = ["untouched" if np.isfinite(c) else "no value before" for c in clean]
    values, reasons = scorer([corrupted[i] for i in touched])
    found[touched] = values - clean[touched]
    for i, reason in zip(touched, reasons, strict=True):
        why[i] = reason
    steps(f"{name} {strength:g}")
    return found, why


def _row(
    scorer: Scorer,
    clips: Sequence[Clip],
    clean: Values,
    null: Null,
    hack: Hack,
    strength: float,
    seed: int,
    steps: Callable[[str], None],
) -> Row:
    """Return the report's row of one hack at one strength."""
    changes, why = change(scorer, clips, clean, hack.name, strength, seed, steps)
    return Row.of(hack, strength, changes, why, null, [clip.origin for clip in clips])


class _Steps:
    """Counts the steps of an audit and reports each one to `progress`."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.total, self.progress = total, progress
        self.count = 0

    def __call__(self, name: str) -> None:
        self.count += 1
        if self.progress:
            self.progress(self.count, self.total, name)

    def done(self, name: str, result: Any) -> Any:
        """Report the step that made `result`, and return `result`."""
        self(name)
        return result


def _name(reward: Any) -> str:
    """Return the name of a wrapped function, or the name of the reward's class."""
    return getattr(reward, "name", "") or type(reward).__name__


def _are_images(clips: Sequence[Clip], strengths: Sequence[float]) -> bool:
    """Return whether all clips are images; raise ValueError where the audit cannot start."""
    if not clips:
        raise ValueError("expected at least one clip to audit on, got none")
    if not strengths or not all(s > 0 for s in strengths):
        raise ValueError(f"expected strengths above 0, got {list(strengths)}")
    stills = [clip.name for clip in clips if len(clip.video) == 1]
    if 0 < len(stills) < len(clips):
        raise ValueError(
            f"expected images or clips of several frames, got {len(stills)} images among "
            f"{len(clips)} clips, the first is {stills[0]!r}: audit images and clips separately; "
            "--frames 1 makes synthetic images, --clips-count 0 makes none"
        )
    return bool(stills)
