"""Runs the command `vidrl audit`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vidrl.audit.battery import run
from vidrl.audit.clips import Clip, Left, file_clips, world_clips
from vidrl.audit.hacks import QUICK, STRENGTHS
from vidrl.audit.report import Report
from vidrl.audit.verdict import STATUS
from vidrl.recipe import toml
from vidrl.rewards import load

WRITERS = ("json", "html", "svg")


def main(args: argparse.Namespace) -> int:
    """Audit as the arguments say, and return the exit status.

    0: shown to pass. 1: shown to fail, or --strict and a check is flagged. 3: neither is
    shown.
    """
    if not 0 <= args.max_wins <= 1:
        raise ValueError(
            f"expected --max-wins to be a share from 0 to 1, got {args.max_wins:g}; 0.02 is 2 %"
        )
    if args.optimise and args.frames == 1:
        raise ValueError(
            "expected --optimise without --frames 1: it searches among clips of several frames"
        )
    reward = load(args.reward, **toml.options(args.option))
    clips, left = _clips(args)
    report = run(
        reward,
        clips,
        _hacks(args),
        _strengths(args),
        name=args.reward,
        seed=args.seed,
        max_wins=args.max_wins,
        left=left,
        progress=_bar,
        device=args.device,
    )
    if args.optimise:
        from vidrl.audit.search import search

        smaller = {"prompts": 4, "candidates": 64, "steps": 16} if args.quick else {}
        report.search = search(
            reward, **smaller, size=args.size, seed=args.seed, progress=_bar, device=args.device
        )
    _write(args, report)
    print(report.table())
    return 1 if args.strict and report.flags else STATUS[report.outcome]


def _clips(args: argparse.Namespace) -> tuple[list[Clip], list[Left]]:
    count = args.clips_count if args.clips_count is not None else 12 if args.quick else 30
    synthetic = world_clips(count, args.size, args.frames, seed=args.seed) if count else []
    real, left = file_clips(args.clips, side=args.side) if args.clips else ([], [])
    if args.clips and not real and not left:
        raise ValueError(f"expected videos or images in {args.clips}, found none")
    return synthetic + real, left


def _hacks(args: argparse.Namespace) -> list[str] | None:
    return args.hacks.split(",") if args.hacks else list(QUICK) if args.quick else None


def _strengths(args: argparse.Namespace) -> list[float]:
    if not args.strengths:
        return [0.5, 1.0] if args.quick else list(STRENGTHS)
    try:
        return [float(word) for word in args.strengths.split(",")]
    except ValueError:
        raise ValueError(
            f"expected --strengths as numbers like 0.25,0.5,1, got {args.strengths!r}"
        ) from None


def _write(args: argparse.Namespace, report: Report) -> None:
    for kind in WRITERS:
        if path := getattr(args, kind):
            Path(path).write_text(_text(kind, report), encoding="utf-8")


def _text(kind: str, report: Report) -> str:
    if kind == "json":
        return report.json() + "\n"
    from vidrl.audit.page import page
    from vidrl.audit.picture import picture

    return page(report) if kind == "html" else picture(report)


def _bar(step: int, total: int, what: str) -> None:
    """Print progress to stderr: a bar that fills on a terminal, a line a tenth in a log."""
    if not sys.stderr.isatty():
        if 10 * step // total > 10 * (step - 1) // total:
            print(f"audit: {step}/{total} {what}", file=sys.stderr, flush=True)
        return
    full = 30 * step // total
    print(
        f"\r[{'█' * full}{'·' * (30 - full)}] {step}/{total} {what:24}",
        end="\n" if step == total else "",
        file=sys.stderr,
        flush=True,
    )
