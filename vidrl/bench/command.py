"""Run `vidrl bench`: read the arguments, measure or compare, write files, print a table."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from vidrl import plugin
from vidrl.bench import folders, measure, results, suite, untrusted_clips
from vidrl.bench import items as items_
from vidrl.bench.items import Found
from vidrl.bench.measure import Progress
from vidrl.bench.preregistration import Preregistration
from vidrl.bench.shards import ProcessGroup
from vidrl.bench.suite import Suite
from vidrl.bench.table import table
from vidrl.recipe import toml
from vidrl.training.model_source import ModelSource, resolve

FORMATS = {
    "json": "results.json",
    "csv": "results.csv",
    "md": "results.md",
    "latex": "results.tex",
    "html": "report.html",
    "leaderboard": "leaderboard.json",
}
DEFAULT_FORMATS = ["json", "csv", "html"]
_META = ("json", "md", "svg")
MAX_SKIPPED_SHOWN = 5  # skipped clips whose reasons are printed; results.json holds all
# A set's name, where its clips are from, and a function that finds them.
Source = tuple[str, str, Callable[[], Found]]


def main(args: argparse.Namespace, words: Sequence[str], progress: Progress | None = None) -> int:
    """Run the command and return its exit status.

    0: done; 1: nothing could be scored, or with --strict not everything. Raises for an
    error of use.
    """
    _print_any_file_name()
    command = shlex.join(["vidrl", *words])
    args.source = _model_source(args)
    if args.preferences:
        return _run_preferences(args, command)
    if args.meta:
        return _run_meta(args, command)
    saved = [path for path in args.paths if path.lower().endswith(".json")]
    if saved:
        return _compare_saved(args, command, progress)
    return _measure(args, command, progress)


def _print_any_file_name() -> None:
    """Let the terminal print file names that are not UTF-8, each such byte as an escape."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def suite_from(args: argparse.Namespace) -> Suite:
    """Return the suite of the arguments, with its protocol and dims changed as they say."""
    name = args.suite or (
        "vbench" if args.profile == "vbench" else "motion" if args.model else "temporal"
    )
    found = suite.load(name)
    if args.dims:
        found = found.only(_split_names(args.dims))
    if args.profile:
        kept = tuple(dim for dim in found.dims if dim.profile == args.profile)
        if not kept:
            raise suite.BadSuite(
                f"suite {found.name!r} has no dims of the profile {args.profile!r}: leave "
                "--suite or --profile out"
            )
        found = replace(found, dims=kept)
    found = found.changed(toml.options(args.option))
    given = {key: getattr(args, key) for key in ("fps", "side", "frames")}
    changes = {key: value for key, value in given.items() if value is not None}
    return replace(found, protocol=replace(found.protocol, **changes))


# --- measuring ------------------------------------------------------------------------


def _measure(args: argparse.Namespace, command: str, progress: Progress | None) -> int:
    """Measure the sets, compute distances, and write and print the results."""
    # Everything that may be wrong with the arguments is checked here, before any work.
    chosen, formats = suite_from(args), _formats(args)
    sources = _sources(args)
    claims = Preregistration.of(args.primary, args.margin, [dim.name for dim in chosen.dims])
    distances = _distance_names(args, len(sources))
    base = folders.usual([name for name, _, _ in sources])
    wanted = folders.planned(_sets(args, sources, [Found([])] * len(sources), []), chosen)
    out = Path(args.out) if args.out else folders.choose(base, wanted)
    # in the first folder where the second one only has other dims of the same clips
    cache = Path(args.cache or Path(args.out or base) / "cache")
    with ProcessGroup(out / "shards") as group:
        found = group.find_once(lambda: _found(sources, args, chosen, Path(args.out or base)))
        rows = group.measure(
            lambda part: measure.run(
                part,
                chosen,
                cache,
                args.jobs,
                args.timeout or None,
                group.device(args.device or "cpu"),
                progress,
            ),
            [item for found_of_set in found for item in found_of_set.items],
        )
        if rows is None:
            return 0
    sets, notes = _sets(args, sources, found, rows), _notes(sources, found)
    done = results.assemble(sets, chosen, command, notes, _trained_dims(args, chosen), claims)
    _add_distances(args, done, distances, cache, progress)
    return _write_and_print(args, done, out, formats)


def _sources(args: argparse.Namespace) -> list[Source]:
    """Return the sets: each folder is one, all single files together are one, a model is one."""
    folders = [path for path in args.paths if not Path(path).is_file()]
    files = [path for path in args.paths if Path(path).is_file()]
    groups = [[folder] for folder in folders] + [files] * bool(files)
    if not groups and args.manifest:
        groups = [[]]
    if not (groups or args.model):
        raise ValueError(
            "expected folders or files to measure, a --manifest of them, or a --model; got "
            "none of these"
        )
    stills = suite_from(args).protocol.frames == 1
    sources: list[Source] = [
        (
            _set_name(group, args.manifest),
            " ".join(group) or str(args.manifest),
            partial(items_.find, group, args.manifest, args.reference, stills),
        )
        for group in groups
    ]
    if args.model:
        sources.append((args.source.name, args.model, lambda: Found([])))
    names = (
        _split_names(args.names)
        if args.names
        else results.distinct_names([name for name, _, _ in sources])
    )
    if len(names) != len(sources) or len(set(names)) < len(names):
        raise ValueError(
            f"expected {len(sources)} different names, one a set, got --names {','.join(names)}: "
            f"the sets are {', '.join(source for _, source, _ in sources)}"
        )
    return [(name, source, make) for name, (_, source, make) in zip(names, sources, strict=True)]


def _found(
    sources: Sequence[Source], args: argparse.Namespace, chosen: Suite, out: Path
) -> list[Found]:
    """Return the clips of the sets; the clips of a model, which is the last set, are sampled."""
    if not args.model:
        return [make() for _, _, make in sources]
    from vidrl.bench.sampling import sample

    options = {
        "backbone": args.source.backbone,
        "options": {key: args.source.options[key] for key in args.source.options if key != "model"},
        "limit": args.limit,
        "per_prompt": args.per_prompt,
        "steps": args.steps,
        "seed": args.seed,
        "device": args.device,
        "partial": args.source.partial,
    }
    return [make() for _, _, make in sources[:-1]] + [
        sample(args.model, args.lora, chosen, out, **options)
    ]


def _set_name(group: Sequence[str], table: str | None) -> str:
    """Return the name of a set: the folder's or file's stem, "files", or the table's stem."""
    if len(group) == 1:
        return Path(os.path.abspath(group[0])).stem
    return "files" if group else Path(str(table)).stem


def _model_source(args: argparse.Namespace) -> ModelSource | None:
    """Return the model to sample, and put its folder and adapter into the arguments.

    None if no model was named.
    """
    if not (
        args.model
        or args.recipe
        or args.run_folder
        or args.backbone
        or args.lora
        or args.lora_partial
    ):
        return None
    found = resolve(
        args.model,
        args.recipe,
        args.run_folder,
        args.lora,
        args.backbone,
        partial=args.lora_partial,
    )
    args.model, args.lora = found.model, found.lora
    return found


def _sets(
    args: argparse.Namespace, sources: Sequence[Source], found: Sequence[Found], rows: Sequence[Any]
) -> list[dict[str, Any]]:
    """Return the sets of results.json; `rows` holds the rows of all sets in one list."""
    sets, start = [], 0
    for i, ((name, source, _), found_of_set) in enumerate(zip(sources, found, strict=True)):
        model = (
            {"model": args.model, "lora": args.lora}
            if args.model and i == len(sources) - 1
            else None
        )
        sets.append(
            results.measured_set(
                name,
                source,
                rows[start : start + len(found_of_set.items)],
                found_of_set.skipped,
                model,
            )
        )
        start += len(found_of_set.items)
    return sets


def _notes(sources: Sequence[Source], found: Sequence[Found]) -> list[str]:
    """Return the notes of the sets, each with its set's name."""
    return [
        f"{name}: {note}"
        for (name, _, _), found_of_set in zip(sources, found, strict=True)
        for note in found_of_set.notes
    ]


def _trained_dims(args: argparse.Namespace, chosen: Suite) -> list[str]:
    """Return the dims that the LoRA was trained on; only known for a LoRA in its run folder."""
    from vidrl.bench.dims import trained_dims
    from vidrl.report.run_folder import NoRun, read

    if not args.lora:
        return []
    try:
        return trained_dims(chosen.dims, read(Path(args.lora).parent).config.get("reward", {}))
    except NoRun:
        return []


def _distance_names(args: argparse.Namespace, sets: int) -> list[str]:
    """Return the distances to compute: those of --distance, or both with --against.

    The names and the encoder are checked before any clip is measured. Raises
    plugin.UnknownName, ImportError if the encoder's weights are missing, and ValueError for
    a single set.
    """
    names = _split_names(args.distance) or ["frechet", "kernel"] * bool(args.against)
    for name in names:
        plugin.find("benchmarks", name)
    if names and sets < 2 and not args.against:
        raise ValueError(
            "expected two sets for a distance, or a folder to compare with, --against; got "
            "one set alone"
        )
    if names:
        from vidrl.bench.encoding import Encoder
        from vidrl.bench.features import DEFAULT_ENCODER

        Encoder(args.encoder or DEFAULT_ENCODER, args.device or "cpu").try_out()
    return names


def _add_distances(
    args: argparse.Namespace,
    done: results.Results,
    names: Sequence[str],
    cache: Path,
    progress: Progress | None,
) -> None:
    """Compute the distances between sets and add them to the results."""
    from vidrl.bench import features

    if names:
        done["distances"] = features.distances(
            done,
            names,
            args.encoder or features.DEFAULT_ENCODER,
            args.against,
            cache,
            args.jobs,
            args.timeout or None,
            args.device or "cpu",
            progress,
        )


# --- other commands -----------------------------------------------------------------------


def _compare_saved(args: argparse.Namespace, command: str, progress: Progress | None) -> int:
    """Compare saved results without measuring again."""
    not_results = [path for path in args.paths if not path.lower().endswith(".json")]
    if not_results or args.model:
        raise ValueError(
            f"expected saved results alone, or clips alone, got both: {args.paths[0]} and "
            f"{(not_results or [args.model])[0]}; measure the clips first, then compare the two "
            "results.json"
        )
    saved = [results.load(path, args.clips) for path in args.paths]
    done = results.merge(
        saved, _split_names(args.names), _split_names(args.dims), command, args.primary, args.margin
    )
    if note := untrusted_clips.closed_note(done):
        print(f"vidrl: {note}", file=sys.stderr)
    names = [set_["name"] for set_ in done["sets"]]
    base, formats = folders.usual(names), _formats(args)
    out = Path(args.out) if args.out else folders.choose(base, folders.about(done))
    _add_distances(
        args, done, _distance_names(args, len(names)), Path(args.cache or out / "cache"), progress
    )
    return _write_and_print(args, done, out, formats)


def _run_preferences(args: argparse.Namespace, command: str) -> int:
    """Compute the agreement of dims with people; the path may be the folder of the videos."""
    from vidrl.bench import preference_page, preferences

    base = folders.of_preferences(args.preferences)
    out = Path(args.out or folders.of_command(base, "preferences.json", command))
    chosen = suite_from(args) if args.suite or args.dims or args.profile else None
    found = preferences.run(
        args.preferences,
        chosen,
        out,
        videos=args.paths[0] if args.paths else None,
        raters=args.raters,
        jobs=args.jobs,
        timeout=args.timeout or None,
        device=args.device or "cpu",
        cache=args.cache,
        command=command,
    )
    print(
        f"{preference_page.text(found)}\n\nfiles: {out / 'preferences.json'}, "
        f"{out / 'preferences.md'}"
    )
    return 0


def _run_meta(args: argparse.Namespace, command: str) -> int:
    """Find which corruptions lower a dim and which raise it; the path may be a video folder."""
    from vidrl.bench import meta, meta_page

    base = folders.usual(["meta"])
    out = Path(args.out or folders.of_command(base, "bench_meta.json", command))
    progress = (
        (lambda n, total, what: print(f"\r{n}/{total} {what:40.40}", end="", file=sys.stderr))
        if sys.stderr.isatty()
        else None
    )
    found = meta.run(
        out,
        args.paths[0] if args.paths else None,
        dims=_split_names(args.dims),
        seed=args.seed,
        progress=progress,
        command=command,
        **({"count": args.limit} if args.limit else {}),
    )
    print(
        f"{meta_page.summary(found)}\n\nfiles: "
        f"{', '.join(str(out / f'bench_meta.{kind}') for kind in _META)}"
    )
    return 0


# --- writing and printing -------------------------------------------------------------


def _write_and_print(
    args: argparse.Namespace, done: results.Results, out: Path, formats: Sequence[str]
) -> int:
    """Write the files, print the table, and print what is missing; return the exit status."""
    written = [results.write(done, out)]
    written += [
        path for kind in formats if kind != "json" for path in _write(args, kind, done, out)
    ]
    print(table(done))
    counted = results.count_scores(done)
    counts = {
        "clips that could not be read": counted.skipped,
        "numbers that are not there": counted.unscored,
        "that have no meaning for their clip": counted.inapplicable,
    }
    if any(counts.values()):
        missing = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        print(f"vidrl: {missing}; {written[0]} gives the reason for each", file=sys.stderr)
    skipped = [row for set_ in done["sets"] for row in set_["skipped"]]
    for row in skipped[:MAX_SKIPPED_SHOWN]:
        print(f"vidrl: {row['path']}: {row['why']}", file=sys.stderr)
    print(f"\nfiles: {', '.join(map(str, written))}")
    # see `main` for the meaning of the statuses
    return 1 if not counted.clips or (args.strict and (counted.skipped or counted.unscored)) else 0


def _write(args: argparse.Namespace, kind: str, done: results.Results, out: Path) -> list[Path]:
    """Write one format into the folder and return the paths of its files."""
    from vidrl.bench import export
    from vidrl.bench.cache import write_atomic

    if kind == "html":
        from vidrl.bench import page

        return [page.write(done, out, Path(args.cache or out / "cache") / "media", jobs=args.jobs)]
    if kind == "leaderboard":
        texts = export.leaderboards(done)
    else:
        texts = {
            FORMATS[kind]: {"csv": export.csv, "md": export.markdown, "latex": export.latex}[kind](
                done
            )
        }
    for name, text in texts.items():
        write_atomic(out / name, text)
    return [out / name for name in texts]


def _formats(args: argparse.Namespace) -> list[str]:
    """Return the formats to write, after checking their names.

    The leaderboard file, the last of FORMATS, has a meaning for VBench's dims alone.
    """
    names_asked = _split_names(args.format)
    if "all" in names_asked:
        return [*FORMATS] if args.profile == "vbench" or args.suite == "vbench" else [*FORMATS][:-1]
    for name in names_asked:
        if name not in FORMATS:
            raise ValueError(f"no format {name!r}: {plugin.nearest(name, [*FORMATS, 'all'])}")
    return names_asked or DEFAULT_FORMATS + ["leaderboard"] * (
        args.profile == "vbench" or args.suite == "vbench"
    )


def _split_names(text: str | None) -> list[str]:
    """Split a text at commas, without blanks."""
    return [word.strip() for word in (text or "").split(",") if word.strip()]
