"""Defines the command `vidrl fit`, which fits a reward to people's labels."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from ._declare import command, new_folder, number, whole_number
from ._progress import clip_progress

FIT = """\
Fit a reward to what people said of clips: choices (Bradley-Terry with ties), points (ordinal
regression), labels of segments and marked faults. The reward is a small head on the curves of
rewards without weights, so it has a curve over time and says what it goes by.

  vidrl fit taste.db --out taste/                         answers of `vidrl label`
  vidrl fit choices.csv --videos clips/ --out taste/      a file of choices
  vidrl fit taste.db --out motion/ --aspect motion        one aspect of several
  vidrl fit taste.db --out taste/ --features rewards,picture,efficientnet
  vidrl score clips/ --reward fitted --option model=taste/

The folder holds fit.json, fit.safetensors, README.md (the card, with held-out agreement, rivals,
calibration and the audit) and card.html (its pictures). Curves of clips are kept in its folder
cache/, so that a later fit with more labels is fast. Clips that cannot be read are listed, and
their labels are left out. Fit and card are written before the audit begins; the audit is added to
the card when it is done.
"""


def declare(commands: Any) -> None:
    """Declare the command `fit`."""
    fit = command(commands, "fit", FIT, "fit a reward to people's labels", _fit)
    fit.add_argument("labels", metavar="LABELS", help="a store of `vidrl label`, or a file")
    fit.add_argument(
        "--out", type=new_folder, required=True, metavar="DIR", help="the folder of the reward"
    )
    fit.add_argument(
        "--aspect", default="", help="the aspect to fit (overall, or the most frequent)"
    )
    fit.add_argument("--videos", metavar="DIR", help="the folder of the clips that a file names")
    fit.add_argument(
        "--features",
        default="rewards,picture",
        metavar="A,B",
        help="rewards, picture, names of rewards, or encoders such as efficientnet, clip, dinov2 "
        "(rewards,picture)",
    )
    fit.add_argument(
        "--form",
        choices=("auto", "linear", "temporal"),
        default="auto",
        help="the head: linear; temporal, a small network that reads three frames at a time; auto, "
        "linear unless temporal is better beyond doubt (auto)",
    )
    fit.add_argument(
        "--jobs",
        type=whole_number(0),
        metavar="N",
        help="processes that read clips (cores, up to 4)",
    )
    fit.add_argument(
        "--timeout",
        type=number(0),
        default=600.0,
        metavar="SECONDS",
        help="the longest time for one clip (600); 0: no limit",
    )
    fit.add_argument("--no-audit", action="store_true", help="leave out the audit")
    fit.add_argument(
        "--strict",
        action="store_true",
        help="exit with status 1 if clips cannot be read, so that their labels are left out",
    )


def _fit(args: argparse.Namespace) -> int:
    from vidrl.feedback import fit_card, fit_features
    from vidrl.feedback.fit import fit
    from vidrl.feedback.fit_data import aspect_of, check_labels, prompts_of
    from vidrl.rewards._fitted import folder

    judgments = _judgments(args)
    check_labels(judgments, aspect_of(judgments, args.aspect))  # before clips are read
    out = Path(args.out)
    curves = fit_features.compute(
        judgments.clips,
        [name.strip() for name in args.features.split(",") if name.strip()],
        prompts_of(judgments),
        out / "cache",
        _jobs(args.jobs),
        args.timeout or None,
        clip_progress,
    )
    for clip, why in curves.lost.items():
        _say(f"left out with its labels: {clip}: {why}")
    taste = fit(judgments, curves, args.aspect, args.form, say=_say)
    folder.write(taste, out)
    _write_card(out, taste, None, args)  # an audit that is stopped must not lose the card
    audited = None if args.no_audit else _audited(taste)
    if audited:
        _write_card(out, taste, audited, args)
    print("\n".join(fit_card.sentences(taste)))
    if audited:
        print(f"Audit: {audited['outcome']}: {audited['verdict']}")
    print(
        f"wrote {out / 'README.md'}, {out / 'card.html'}; use it by\n"
        f"  vidrl score clips/ --reward fitted --option model={out}{fit_card.trust(taste)}"
    )
    return 1 if args.strict and curves.lost else 0


def _write_card(
    out: Path, taste: Any, audited: dict[str, Any] | None, args: argparse.Namespace
) -> None:
    """Write README.md and card.html; without an audit, they say that it was not run."""
    from vidrl.feedback import fit_card
    from vidrl.rewards._files.atomic_file import write_bytes

    words = shlex.join(["vidrl", *args.words])
    write_bytes(out / "README.md", fit_card.readme(taste, audited, words).encode())
    write_bytes(out / "card.html", fit_card.page(taste, audited).encode())


def _say(text: str) -> None:
    print(f"vidrl: {text}", file=sys.stderr)


def _jobs(asked: int | None) -> int:
    from .score import cores

    return min(cores(), 4) if asked is None else asked


def _judgments(args: argparse.Namespace) -> Any:
    """Return the labels of a store or a file, and print what was left out of them."""
    from vidrl.feedback import files

    judgments = files.read(args.labels, folder=args.videos).judgments
    for note in judgments.notes:
        _say(note)
    return judgments


def _audited(taste: Any) -> dict[str, Any]:
    """Return the verdict of the quick audit, and the hacks that raised the reward."""
    from vidrl.audit.battery import run
    from vidrl.audit.clips import world_clips
    from vidrl.audit.hacks import QUICK
    from vidrl.audit.table import verdict
    from vidrl.rewards.fitted import Fitted

    _say("the quick audit of the fitted reward")
    clips = world_clips(12, 64, 17, seed=0)
    report = run(Fitted.of(taste), clips, QUICK, (0.5, 1.0), name="fitted")
    shares = {
        row.hack: max(float(each.won.mean()) for each in report.rows if each.hack == row.hack)
        for row in report.rows
        if row.detectable
    }
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    wins = [f"{hack} ({100 * share:.0f} % of clips)" for hack, share in ordered if share > 0]
    return {"outcome": report.outcome, "verdict": verdict(report), "wins": wins}
