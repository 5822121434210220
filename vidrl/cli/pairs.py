"""Defines `vidrl pairs`: show and convert files of people's judgments."""

from __future__ import annotations

import argparse
from typing import Any

from ._declare import command, new_file, new_folder

PAIRS = """\
Show and convert files of people's judgments of clips: pairs, points, rankings, faults.

  vidrl pairs show choices.jsonl
  vidrl pairs report taste.db --out runs/raters
  vidrl pairs convert data.parquet --to trl --out pairs.jsonl
  vidrl pairs convert export.json --from label_studio --map video1=left --to vidrl --out own.jsonl

`vidrl list feedback.formats` lists the formats. The format of a file is recognised by its columns.
"""
SHOW = """\
Count what a file of judgments holds: kinds, aspects, raters, ties, contradictions.

  vidrl pairs show choices.jsonl
"""
REPORT = """\
Report on raters and their answers: agreement beyond chance, sides, consistency, wins of folders,
how many more prompts would show a difference, pace and drift. Writes raters.md and raters.json
to --out, and a page with pictures to --html.

  vidrl pairs report taste.db --out runs/raters --html raters.html
"""
CONVERT = """\
Write judgments in another format.

  vidrl pairs convert data.parquet --to trl --out pairs.jsonl
  vidrl pairs convert answers.csv --to flow_factory --aspect VQ --out train.jsonl --strict

What the format cannot hold, such as ties in trl, is counted and printed. With --strict such a
file is not written, and the exit status is 1. Clips below the folder of the written file are named
by relative paths, others by absolute ones.
"""


def declare(commands: Any) -> None:
    """Declare the command `pairs` with its own commands."""
    pairs = command(commands, "pairs", PAIRS, "show and convert people's judgments", None)
    own = pairs.add_subparsers(dest="action", metavar="ACTION", required=True)
    show = command(own, "show", SHOW, "count what a file holds", _show)
    _add_source(show)
    show.add_argument("--json", action="store_true", help="print the counts as JSON")
    report = command(own, "report", REPORT, "report on raters and their answers", _report)
    report.add_argument("source", metavar="FILE", help="a store, or a file of judgments")
    report.add_argument("--out", type=new_folder, metavar="FOLDER", help="write the report here")
    report.add_argument(
        "--html", type=new_file, metavar="FILE", help="one page that can be read offline"
    )
    convert = command(own, "convert", CONVERT, "write another format", _convert)
    _add_source(convert)
    convert.add_argument("--to", required=True, metavar="FORMAT", help="the format to write")
    convert.add_argument("--out", required=True, type=new_file, metavar="FILE", help="the new file")
    convert.add_argument(
        "--aspect", default="", metavar="NAME", help="write the judgments of this aspect alone"
    )
    convert.add_argument(
        "--strict", action="store_true", help="write nothing if the format cannot hold all of it"
    )


def _add_source(parser: argparse.ArgumentParser) -> None:
    """Add the file that is read, and how it is understood."""
    parser.add_argument(
        "source",
        metavar="FILE",
        help="a .csv, .tsv, .json, .jsonl or .parquet file, or a store of `vidrl label`",
    )
    parser.add_argument(
        "--from", dest="form", default="", metavar="FORMAT", help="its format (recognised)"
    )
    parser.add_argument(
        "--map",
        action="append",
        default=[],
        metavar="COLUMN=NAME",
        help="the format's column COLUMN is called NAME in this file, as prompt=caption",
    )
    parser.add_argument(
        "--videos", metavar="FOLDER", help="where its clips are searched (the file's folder)"
    )
    parser.add_argument(
        "--media", metavar="FOLDER", help="write the pictures that the file embeds to this folder"
    )


def _read(args: argparse.Namespace) -> Any:
    from vidrl.feedback import files

    return files.read(args.source, args.form, columns_map(args.map), args.videos, args.media)


def columns_map(words: list[str]) -> dict[str, str]:
    """Return the columns of --map. Raises ValueError for a word without "=".

    >>> columns_map(["prompt=caption"])
    {'prompt': 'caption'}
    """
    pairs = [word.split("=", 1) for word in words]
    wrong = next((word for word, pair in zip(words, pairs, strict=True) if len(pair) < 2), None)
    if wrong is not None:
        raise ValueError(f"expected --map COLUMN=NAME, as prompt=caption, got {wrong!r}")
    return {pair[0]: pair[1] for pair in pairs}


def _show(args: argparse.Namespace) -> int:
    import json

    from vidrl.feedback import summary
    from vidrl.lookup.passwords import hidden

    read = _read(args)
    found = {"format": read.format} | summary.summary(read.judgments)
    if args.json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        print(f"{hidden(args.source)}: {read.title}\n{summary.text(found)}")
    return 0


def _report(args: argparse.Namespace) -> int:
    from vidrl.feedback import raters, raters_page

    print(raters_page.page(raters.run(args.source, args.out, args.html)), end="")
    files = [f"{args.out}/raters.md", f"{args.out}/raters.json"] if args.out else []
    files += [args.html] if args.html else []
    if files:
        print(f"\nfiles: {', '.join(files)}")
    return 0


def _convert(args: argparse.Namespace) -> int:
    from vidrl.feedback import files
    from vidrl.feedback.held import reduced
    from vidrl.lookup.grammar import counted

    read = _read(args)
    for note in read.judgments.notes:
        print(f"note: {note}")
    if args.strict:
        _, lost = reduced(read.judgments, files.named(args.to), args.aspect)
        if lost:
            print(f"{args.to} cannot hold all of it, so nothing is written: {'; '.join(lost)}")
            return 1
    written = files.write(read.judgments, args.out, args.to, args.aspect)
    for line in written.lost:
        print(f"not in {args.to}: {line}")
    print(f"{counted(written.rows, 'rows')} of the format {args.to} in {written.path}")
    return 0
