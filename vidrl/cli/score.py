"""Defines the command `vidrl score`, which scores video files with rewards."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from ._declare import command, new_file, number, whole_number
from ._progress import clip_progress

SCORE = """\
Score video files, or the videos in folders. Each clip is one JSON line with path, value, parts,
curve (one number for each frame), fps, size, frames, note, and why if the clip was not scored.

  vidrl score clips/                                        the default composite
  vidrl score a.mp4 b.webm --reward flicker --reward drift
  vidrl score images/*.png --reward frame_quality           images
  vidrl score clips/ --reward my_package.rewards:Sharpness  a class, or a function, of yours
  vidrl score clips/ --reward aesthetic --option head=weights/linear.pth
  vidrl score clips/ --reward default --reward judge --option judge.model=NAME
  vidrl score clips/ --prompts clips/prompts.csv            a table with the columns path and prompt
  vidrl score clips/ --jobs 8 --timeout 60                  eight processes of one thread each
  vidrl score clips/ --json scores.jsonl --strict           exit status 1 if a clip is not scored

A file that crashes its decoder, takes longer than --timeout or needs more than --memory gets a
line with the reason, and the other files are scored. A folder that holds only numbered pictures
is one clip. `note` warns about a file, for example that it is cut off or that its frame rate
varies, and says how it was measured. An image (.png, .jpg, .webp, .bmp) is a clip of one frame:
rewards that need time do not score it, and a composite leaves them out and says so in `note`.
"""


def declare(commands: Any) -> None:
    """Declare the command `score`."""
    score = command(commands, "score", SCORE, "score videos with rewards", _score)
    score.add_argument(
        "paths",
        metavar="PATH",
        nargs="*",
        help="video files, or folders of videos (the files in the table of --prompts)",
    )
    score.add_argument(
        "--reward",
        action="append",
        metavar="NAME",
        default=[],
        help="score with this reward: a name that `vidrl list rewards` prints, or your class or "
        "function as package.module:NAME (`default`, the default composite); may be repeated",
    )
    score.add_argument(
        "--option",
        action="append",
        metavar="KEY=VALUE",
        default=[],
        help="set an option of the reward (`vidrl show rewards NAME` lists them); with several "
        "rewards write NAME.KEY=VALUE; may be repeated",
    )
    score.add_argument(
        "--prompts",
        metavar="FILE",
        help="the prompts of the clips: .csv, .tsv, .json, .jsonl or .parquet with the columns "
        "path and prompt, or .txt with one prompt a line in the order of the files",
    )
    _declare_limits(score)
    score.add_argument(
        "--fps",
        type=number(0, exclusive=True),
        metavar="N",
        help="frames a second of folders of numbered pictures (8); video files hold their own rate",
    )
    score.add_argument(
        "--json",
        type=new_file,
        metavar="FILE",
        help="write the JSON lines to this file instead of printing them",
    )
    score.add_argument(
        "--strict",
        action="store_true",
        help="exit with status 1 if any clip was not scored (default: only if no clip was scored)",
    )


def _declare_limits(score: argparse.ArgumentParser) -> None:
    """Declare the number of processes, and the time and memory that they may use."""
    score.add_argument(
        "--jobs",
        type=whole_number(0),
        metavar="N",
        help="the number of processes that score, of one thread each (one for each core, at most "
        "4); 0 scores in this process, which a broken file can crash",
    )
    score.add_argument(
        "--timeout",
        type=number(0),
        default=600.0,
        metavar="SECONDS",
        help="the longest time for one clip (600); 0: no limit",
    )
    score.add_argument(
        "--memory",
        type=number(0),
        default=4.0,
        metavar="GIB",
        help="the most memory that one process may use for a clip (4); 0: no limit; Linux only, "
        "and not for rewards with trained networks",
    )


def _score(args: argparse.Namespace) -> int:
    from vidrl import rewards

    if not (args.paths or args.prompts):
        raise ValueError(
            "expected files or folders to score, or a table of them with --prompts; got neither"
        )
    chosen = _load_rewards(args.reward or ["default"], args.option)
    files, prompts = _clips(args)
    jobs = min(cores(), 4) if args.jobs is None else args.jobs
    memory = round(args.memory * 2**30) or None
    rows = rewards.score_files(files, chosen, prompts, jobs, args.timeout or None, memory, args.fps)
    with open(args.json, "w", encoding="utf-8") if args.json else _StandardOutput() as file:
        # lines that are printed on the terminal show the progress themselves
        shown = rows if file.isatty() else clip_progress(rows, len(files))
        written = [(_write_line(row, file), row["frames"], row["note"]) for row in shown]
    unscored = [failed for failed, _, _ in written]
    if warning := _mixed([(frames, note) for failed, frames, note in written if not failed]):
        print(f"vidrl: {warning}", file=sys.stderr)
    if any(unscored):
        print(f"vidrl: {sum(unscored)} not scored; `why` gives the reason of each", file=sys.stderr)
    return 1 if any(unscored) and (args.strict or all(unscored)) else 0


def _mixed(rows: list[tuple[int, str | None]]) -> str:
    """Return a warning if images, whose composites lack parts, were scored together with clips.

    `rows` holds the number of frames and the note of each scored file.

    Example:
        >>> note = "default: jerk need more frames than an image has, and are left out"
        >>> _mixed([(1, note), (17, None)])[:22]
        '1 of 2 files are image'
        >>> _mixed([(17, None)])
        ''
    """
    images = [note for frames, note in rows if frames == 1 and note and "than an image has" in note]
    if not images or not any(frames > 1 for frames, _ in rows):
        return ""
    return (
        f"{len(images)} of {len(rows)} files are images, whose composites lack the parts that need "
        "time: do not compare them with those of clips"
    )


def _load_rewards(names: list[str], words: list[str]) -> dict[str, Any]:
    """Return the rewards by name, each built with its own options."""
    from vidrl.recipe import toml
    from vidrl.rewards import load

    options: dict[str, dict[str, Any]] = {name: {} for name in names}
    for key, value in toml.options(words).items():
        # the name of a reward may hold dots, as package.module:Class does
        owner, _, key = key.rpartition(".")
        owner = owner or (names[0] if len(options) == 1 else "")
        if owner not in options:
            raise ValueError(
                f"expected --option {key}=... with the name of its reward, as NAME.{key}=..., one "
                f"of {', '.join(options)}; got {owner or 'none'}"
            )
        options[owner][key] = value
    return {name: load(name, **given) for name, given in options.items()}


def _clips(args: argparse.Namespace) -> tuple[list[Path], dict[str, str]]:
    """Return the files to score, and the prompt of each path that has one."""
    from vidrl.rewards import video
    from vidrl.rewards._files import finding, manifests

    for folder in filter(os.path.isdir, args.paths):
        if note := finding.describe_skipped(finding.skipped_media(Path(folder)), folder):
            print(f"vidrl: {note}", file=sys.stderr)
    if args.prompts is None:
        return list(video.find(args.paths)), {}
    table = manifests.read_prompts(
        args.prompts, lambda note: print(f"vidrl: {note}", file=sys.stderr)
    )
    files, prompts = manifests.match_prompts(args.paths, table)
    unused = manifests.unmatched_paths(files, table)
    _print_unmatched(args.prompts, files, table, unused)
    return files, prompts


def _print_unmatched(file: str, files: list[Path], table: Any, unused: Any) -> None:
    """Print which clips have no row in a table of prompts, and which rows have no clip."""
    # a table without paths is a list of prompts in the order of the files
    by_path = isinstance(table, dict)
    if bare := [path for path in files if by_path and Path(os.path.abspath(path)) not in table]:
        print(
            f"vidrl: {len(bare)} of {len(files)} files have no row in {file} and are scored "
            f"without a prompt, the first is {bare[0]}",
            file=sys.stderr,
        )
    if unused:
        print(
            f"vidrl: {len(unused)} of {len(table)} rows of {file} are of files that were not given "
            f"or are not there, the first is {unused[0]}",
            file=sys.stderr,
        )


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _StandardOutput:
    """A context that gives standard output and does not close it at the end."""

    def __enter__(self) -> Any:
        return sys.stdout

    def __exit__(self, *error: object) -> None:
        sys.stdout.flush()


def _write_line(row: dict[str, Any], file: Any) -> bool:
    """Write a row as a JSON line, and return whether its clip was not scored."""
    print(_json(row, file.encoding or "utf-8"), file=file, flush=True)
    return bool(row.get("why"))


def _json(row: dict[str, Any], encoding: str) -> str:
    """Return a row as JSON, escaped if the encoding cannot write a character of the row.

    The name of a file that is not UTF-8 is such a text.
    """
    text = json.dumps(row, ensure_ascii=False)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return json.dumps(row)
    return text
