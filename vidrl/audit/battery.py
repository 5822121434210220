"""The battery: every hack at every strength on every clip, against what a re-encoding does
to the same clips."""

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

# (strength, seed) of the re-encodings of each clip: 44 to 54 dB
NULLS = ((0.25, 0), (0.25, 1), (0.5, 2), (0.5, 3))
# mean difference below which a hack changed nothing: to freeze what stands still is no hack
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
    """Audit a reward, or any callable fn(video, prompts, fps), on clips; see `Report` for
    what comes of it.

    Of images, which are clips of one frame, the hacks that need time and the check of frame
    rates are left out, and `Report.left` says so.

    Raises RuntimeError where the reward fails on all of the untouched clips, ValueError for
    an unknown hack, a strength that is not above 0, no clips, or images among clips.
    """
    images = _check(clips, strengths)
    start, scorer, chosen = (
        time.perf_counter(),
        Scorer(reward, device, batch),
        choose(list(hacks or [])),
    )
    chosen, timed = of_images(chosen) if images else (chosen, [])
    tried = [check for check in checking.ALL if not (images and check is checking.rate)]
    left = [
        *left,
        *(
            Left(f"hack {one}", "needs more than one frame, and the clips are images")
            for one in timed
        ),
    ]
    plan = [
        (hack, s)
        for hack in chosen
        for s in (sorted(strengths) if hack.graded else [max(strengths)])
    ]
    steps = _Steps(len(plan) + len(NULLS) + 1 + (len(tried) if checks else 0), progress)
    with Growth(scorer.device) as growth:
        clean, why = scorer(clips, strict=True)
    scorer.grown = growth.bytes
    steps("untouched")
    null = Null.of([change(scorer, clips, clean, NULL, *how, steps)[0] for how in NULLS], clean)
    rows = [_row(scorer, clips, clean, null, hack, s, seed, steps) for hack, s in plan]
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
        name or _called(scorer.reward),
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
    steps: Callable[[str], None] = lambda what: None,
) -> tuple[Values, list[str | None]]:
    """What a corruption adds to each clip's value, NaN where there is none to compare, and
    why not."""
    made = [
        replace(clip, video=corrupt(clip.video, name, strength, seed + 1000 * i))
        for i, clip in enumerate(clips)
    ]
    touched = [
        i
        for i, (a, b) in enumerate(zip(clips, made, strict=True))
        if np.isfinite(clean[i]) and float((a.video - b.video).abs().mean()) > UNTOUCHED
    ]
    found = np.full(len(clips), np.nan)
    why: list[str | None] = ["untouched" if np.isfinite(c) else "no value before" for c in clean]
    values, reasons = scorer([made[i] for i in touched])
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
    changes, why = change(scorer, clips, clean, hack.name, strength, seed, steps)
    return Row.of(hack, strength, changes, why, null, [clip.origin for clip in clips])


class _Steps:
    """Tells how far the audit is."""

    def __init__(self, total: int, tell: Progress | None) -> None:
        self.total, self.tell, self.count = total, tell, 0

    def __call__(self, what: str) -> None:
        self.count += 1
        if self.tell:
            self.tell(self.count, self.total, what)

    def done(self, what: str, result: Any) -> Any:
        self(what)
        return result


def _called(reward: Any) -> str:
    return getattr(reward, "name", "") or type(reward).__name__


def _check(clips: Sequence[Clip], strengths: Sequence[float]) -> bool:
    """Whether the clips are images."""
    if not clips:
        raise ValueError("expected at least one clip to audit on, got none")
    if not strengths or not all(s > 0 for s in strengths):
        raise ValueError(f"expected strengths above 0, got {list(strengths)}")
    stills = [clip.name for clip in clips if len(clip.video) == 1]
    if 0 < len(stills) < len(clips):
        raise ValueError(
            f"expected images or clips of several frames, got {len(stills)} images among {len(clips)}, "
            f"the first is {stills[0]!r}: audit them apart; synthetic images are made by --frames 1, none "
            "by --clips-count 0"
        )
    return bool(stills)
