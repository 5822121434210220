"""vidrl score: rewards over video files."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ._declare import command

SCORE = """\
Score video files, or the videos in folders: one JSON line a clip with path, value, parts, curve (one number a frame),
fps, size, frames and, where a clip could not be scored, why.

  vidrl score clips/                                        the default composite
  vidrl score a.mp4 b.webm --reward flicker --reward drift
  vidrl score images/*.png --reward frame_quality           images
  vidrl score clips/ --reward my_package.rewards:Sharpness  a class, or a function, of yours
  vidrl score clips/ --reward aesthetic --option head=weights/linear.pth
  vidrl score clips/ --reward default --reward judge --option judge.model=NAME
  vidrl score clips/ --prompts clips/prompts.csv            columns path, prompt; .tsv, .json, .jsonl, .parquet
  vidrl score clips/ --jobs 8 --timeout 60                  eight processes of one thread each
  vidrl score clips/ --json scores.jsonl --strict           exit status 1 if any clip could not be scored

A file that crashes its decoder, takes longer than the timeout or needs more than --memory is a line with its reason;
the rest goes on. A folder that holds nothing but numbered pictures is one clip. `note` says what to know of a file:
that it was cut off, or that its frame rate varies, and how it was measured. An image (.png, .jpg, .webp, .bmp) is a
clip of one frame: rewards that need time do not score it, and a composite leaves them out of its value and says so.
"""


def declare(commands: Any) -> None:
    made = command(commands, "score", SCORE, "score videos", _score)
    made.add_argument(
        "paths",
        metavar="PATH",
        nargs="*",
        help="video files, or folders of them; those of the table of --prompts if not given",
    )
    made.add_argument(
        "--reward",
        action="append",
        metavar="NAME",
        default=[],
        help="may be repeated; `vidrl list rewards` names them, package.module:Class or :function is "
        "one of yours; `default`, the composite, if not given",
    )
    made.add_argument(
        "--option",
        action="append",
        metavar="KEY=VALUE",
        default=[],
        help="an option of the reward (`vidrl show rewards NAME` lists them); NAME.KEY=VALUE where "
        "there are several",
    )
    made.add_argument(
        "--prompts",
        metavar="FILE",
        help="what was asked for: .csv, .tsv, .json, .jsonl or .parquet with path and prompt, or "
        ".txt, one prompt a line in order of the files",
    )
    made.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="processes that score, of one thread each (one a core, up to 4); 0: this process, which "
        "a broken file can take down",
    )
    made.add_argument(
        "--timeout",
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="longest time for one clip (600); 0: as long as it takes",
    )
    made.add_argument(
        "--memory",
        type=float,
        default=4.0,
        metavar="GIB",
        help="most memory that one process may take for a clip (4); 0: no limit; Linux only, and not "
        "for rewards of trained networks",
    )
    made.add_argument(
        "--fps",
        type=float,
        metavar="N",
        help="frames a second of folders of numbered pictures (8); video files state their own",
    )
    made.add_argument(
        "--json", metavar="FILE", help="write the lines there instead of printing them"
    )
    made.add_argument(
        "--strict",
        action="store_true",
        help="exit status 1 if any clip could not be scored, not only where none could",
    )


def _score(args: argparse.Namespace) -> int:
    from vidrl import rewards

    if not (args.paths or args.prompts):
        raise ValueError(
            "expected files or folders to score, or a table of them with --prompts; got neither"
        )
    chosen = _chosen(args.reward or ["default"], args.option)
    files, prompts = _clips(args)
    jobs = min(_cores(), 4) if args.jobs is None else args.jobs
    memory = round(args.memory * 2**30) or None
    rows = rewards.score_files(files, chosen, prompts, jobs, args.timeout or None, memory, args.fps)
    with open(args.json, "w", encoding="utf-8") if args.json else _Standard() as file:
        told = [
            (_line(row, file), row["frames"], row["note"]) for row in _progress(rows, len(files))
        ]
    lost = [unscored for unscored, _, _ in told]
    if mixed := _mixed([(frames, note) for unscored, frames, note in told if not unscored]):
        print(f"vidrl: {mixed}", file=sys.stderr)
    if any(lost):
        print(f"vidrl: {sum(lost)} not scored; `why` tells the reason of each", file=sys.stderr)
    return 1 if any(lost) and (args.strict or all(lost)) else 0


def _mixed(rows: list[tuple[int, str | None]]) -> str:
    """What to know where images, out of whose values parts are left, stand among clips;
    each row's frames and note.

    >>> _mixed([(1, "default: jerk need more frames than an image has, and are left out"), (17, None)])
    '1 of 2 files are images, whose composites lack the parts that need time: do not compare them with those of clips'
    """
    images = [note for frames, note in rows if frames == 1 and note and "than an image has" in note]
    if not images or not any(frames > 1 for frames, _ in rows):
        return ""
    return (
        f"{len(images)} of {len(rows)} files are images, whose composites lack the parts that need time: do not "
        "compare them with those of clips"
    )


def _chosen(names: list[str], words: list[str]) -> dict[str, Any]:
    """The rewards by name, each with its own of the options."""
    from vidrl.recipe import toml
    from vidrl.rewards import load

    options: dict[str, dict[str, Any]] = {name: {} for name in names}
    for key, value in toml.options(words).items():
        owner, _, key = key.rpartition(".")
        owner = owner or (names[0] if len(options) == 1 else "")
        if owner not in options:
            raise ValueError(
                f"expected --option {key}=... with the reward it is of, as NAME.{key}=..., one of "
                f"{', '.join(options)}; got {owner or 'none'}"
            )
        options[owner][key] = value
    return {name: load(name, **given) for name, given in options.items()}


def _clips(args: argparse.Namespace) -> tuple[list[Path], dict[str, str]]:
    """The files to score, and their prompts."""
    from vidrl.rewards import video
    from vidrl.rewards._files import finding, manifests

    for folder in filter(os.path.isdir, args.paths):
        if note := finding.describe_skipped(finding.skipped_media(Path(folder)), folder):
            print(f"vidrl: {note}", file=sys.stderr)
    if args.prompts is None:
        return list(video.find(args.paths)), {}
    table = manifests.read_prompts(
        args.prompts, lambda said: print(f"vidrl: {said}", file=sys.stderr)
    )
    files, prompts = manifests.match_prompts(args.paths, table)
    if bare := [
        file
        for file in files
        if isinstance(table, dict) and Path(os.path.abspath(file)) not in table
    ]:
        print(
            f"vidrl: {len(bare)} of {len(files)} files have no row in {args.prompts} and are scored without a "
            f"prompt, the first is {bare[0]}",
            file=sys.stderr,
        )
    if spare := manifests.unmatched_paths(files, table):
        print(
            f"vidrl: {len(spare)} of {len(table)} rows of {args.prompts} are of files that were not given or are not "
            f"there, the first is {spare[0]}",
            file=sys.stderr,
        )
    return files, prompts


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _progress(rows: Iterable[Any], total: int) -> Iterable[Any]:
    """The rows, with a bar on standard error where a person sees it and tqdm is there."""
    if sys.stderr.isatty():
        try:
            from tqdm import tqdm
        except ImportError:
            return rows
        return tqdm(rows, total=total, unit="clip", file=sys.stderr)
    return rows


class _Standard:
    """Standard output as a context that stays open."""

    def __enter__(self) -> Any:
        return sys.stdout

    def __exit__(self, *error: object) -> None:
        sys.stdout.flush()


def _line(row: dict[str, Any], file: Any) -> bool:
    print(_json(row, file.encoding or "utf-8"), file=file, flush=True)
    return bool(row.get("why"))


def _json(row: dict[str, Any], encoding: str) -> str:
    """A row as JSON, with escapes where its text, as a file name that is not UTF-8, cannot
    be written as it is."""
    text = json.dumps(row, ensure_ascii=False)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return json.dumps(row)
    return text
