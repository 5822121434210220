"""Find the clips to measure, with their prompts, seeds and references."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vidrl.bench import manifest
from vidrl.bench.manifest import Row

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


@dataclass(frozen=True)
class Item:
    """One clip to be measured, with what it was made from.

    `prompt` is the text that was asked for, "" where it is not known. Clips of two sets are
    paired by `prompt` and `seed`. `reference` is the image or video that the clip was made
    from. `meta` holds the other columns of the manifest.
    """

    path: Path
    prompt: str = ""
    seed: int | None = None
    reference: Path | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """The clips found for one set, in order of path, with notes.

    `skipped` has a row {"path", "why", "prompt", "seed"} for each file that the manifest
    names and that does not exist. `notes` are sentences for the reader of the results.
    """

    items: list[Item]
    skipped: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class NoClips(ValueError):
    """A folder or file that holds no clips to measure."""


def find(
    sources: Sequence[str | os.PathLike[str]],
    table: str | os.PathLike[str] | None = None,
    references: str | os.PathLike[str] | None = None,
    stills: bool = False,
) -> Found:
    """Find the clips of folders and files, with their prompts, seeds and references.

    Prompts come from the first of these that exists: the manifest `table`; a prompts.csv
    (.jsonl, .tsv, .json, .parquet) in the folder; file names that follow VBench's
    `prompt-0.mp4`. A path in a manifest is relative to the manifest's folder, or to one of
    the sources. Without `sources`, all files of the manifest are measured. If `table` is a
    VBench_full_info.json, each clip gets the list of dims that VBench measures on its
    prompt.

    `references` is a folder of images or videos, matched to the clips by file stem.
    `stills`: numbered pictures are measured as single images, not as the frames of a clip.
    Raises NoClips and manifest.BadManifest.
    """
    folders = [Path(source) for source in sources]
    has_manifest = table is not None and not manifest.is_vbench_list(table)
    if has_manifest or table is None:
        found = (
            _from_table(folders, Path(str(table)), stills)
            if has_manifest
            else _from_folders(folders, stills)
        )
    else:
        found = _for_vbench(_from_folders(folders, stills), Path(str(table)))
    if references is not None:
        found = _with_references(found, Path(references))
    return replace(
        found, notes=[*found.notes, *near_equal_prompts_note(item.prompt for item in found.items)]
    )


def near_equal_prompts_note(prompts: Iterable[str]) -> list[str]:
    """Return a note on prompts that differ from another one by letter case or blanks alone.

    Clips are paired by the exact prompt, so such prompts are a likely mistake in a
    manifest.

    >>> near_equal_prompts_note(["a dog", "A  dog", "a cat"])
    ["prompts that differ by letter case or blanks alone count as different: 'A  dog', 'a dog'"]
    """
    spelled: dict[str, set[str]] = defaultdict(set)
    for prompt in prompts:
        spelled[" ".join(prompt.casefold().split())].add(prompt)
    groups = [sorted(spellings) for _, spellings in sorted(spelled.items()) if len(spellings) > 1]
    return [
        "prompts that differ by letter case or blanks alone count as different: "
        f"{', '.join(map(repr, spellings))}"
        for spellings in groups
    ]


def clip_files(source: Path, stills: bool = False) -> tuple[list[Path], list[str]]:
    """Return the clips of a folder at any depth, or its images if it has no clips, and notes.

    The clips are those that `vidrl score` finds. A folder of numbered pictures is one clip,
    or, if `stills`, single images. Raises NoClips.
    """
    from vidrl.rewards._files.finding import clips_in, describe_skipped, skipped_media

    if source.is_file():
        return [source], []
    if not source.is_dir():
        raise NoClips(f"expected a folder of videos or a video file at {source}, found nothing")
    clips = [clip for clip in clips_in(source) if not (stills and clip.is_dir())]
    if clips:
        note = describe_skipped(skipped_media(source), source)
        return clips, [note] if note else []
    files = sorted(
        path
        for path in source.rglob("*")
        if path.is_file() and not _hidden(path.relative_to(source))
    )
    images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        raise NoClips(
            f"expected videos (.mp4, .webm, .mkv, .gif ...) or images in the folder {source}, "
            f"found none{_what_instead(files)}"
        )
    return images, []


def _hidden(path: Path) -> bool:
    """Return whether the file, or a folder on the way to it, has a name that begins with a dot."""
    return any(part.startswith(".") for part in path.parts)


def _what_instead(inside: list[Path]) -> str:
    """Describe the files of a folder without clips, for the error message."""
    endings = sorted({path.suffix.lower() or path.name for path in inside})
    return f" among {len(inside)} files ({', '.join(endings[:6])})" if inside else ""


# --- without a manifest ----------------------------------------------------------------


def _from_folders(folders: Sequence[Path], stills: bool) -> Found:
    """Return the clips of each folder with prompts from its table or from file names, if any."""
    parts = [_folder(folder, stills) for folder in folders]
    return Found(
        [item for part in parts for item in part.items],
        [row for part in parts for row in part.skipped],
        [note for part in parts for note in part.notes],
    )


def _folder(folder: Path, stills: bool) -> Found:
    """Return the clips of one folder, or the one clip of a file."""
    tables = [
        folder / name
        for name in manifest.TABLE_NAMES
        if folder.is_dir() and (folder / name).is_file()
    ]
    if tables:
        found = _from_table([folder], tables[0], stills)
        not_read = [f"{path.name} in the same folder is not read" for path in tables[1:]]
        return replace(found, notes=[f"prompts are from {tables[0]}", *not_read, *found.notes])
    paths, notes = clip_files(folder, stills)
    named = manifest.prompts_from_names([path.stem for path in paths])
    if not named:
        return Found([Item(path) for path in paths], notes=notes)
    items = [Item(path, *named.get(path.stem, ("", None))) for path in paths]
    return Found(items, notes=[*notes, *_about_names(folder, paths, named)])


def _about_names(
    folder: Path, paths: Sequence[Path], named: Mapping[str, tuple[str, int]]
) -> list[str]:
    """Return notes that say which clips have their prompts from file names."""
    notes = [f"{folder}: prompts and seeds are from names like VBench's, prompt-0.mp4"]
    others = [path for path in paths if path.stem not in named]
    if others:
        notes.append(
            f"{len(others)} of {len(paths)} names in {folder} do not follow this pattern and have "
            f"no prompt, the first is {others[0].name}"
        )
    return notes


def _for_vbench(found: Found, table: Path) -> Found:
    """Add to each clip's `meta` the dims that VBench measures on its prompt."""
    listed = manifest.vbench_list(table)
    items = [
        replace(item, meta={**item.meta, "vbench": listed[item.prompt]})
        if item.prompt in listed
        else item
        for item in found.items
    ]
    unlisted = [item for item in items if "vbench" not in item.meta]
    notes = (
        [
            f"{len(unlisted)} of {len(items)} clips have a prompt that {table.name} does not "
            f"list, the first is {unlisted[0].path}: all dims are measured on them"
        ]
        if unlisted
        else []
    )
    return replace(found, items=items, notes=[*found.notes, *notes])


# --- by a manifest --------------------------------------------------------------------


def _from_table(folders: Sequence[Path], table: Path, stills: bool) -> Found:
    """Return the files of the folders, each with its row of the table.

    Without folders, the files of the table are returned.
    """
    notes: list[str] = []
    rows = manifest.read(table, lambda note: None if note in notes else notes.append(note))
    if not folders:
        return replace(
            _listed([(table.parent / row.path, row) for row in rows], table), notes=notes
        )
    files = [path for folder in folders for path in clip_files(folder, stills)[0]]
    roots = [table.parent, *(folder for folder in folders if folder.is_dir())]
    # Paths in a table may be relative to the table's folder or to one of the sources. The
    # table's folder comes last in `reversed`, so it wins where both would match.
    row_of = {os.path.abspath(place / row.path): row for place in reversed(roots) for row in rows}
    found = _listed(
        [
            (path, row_of[os.path.abspath(path)])
            for path in files
            if os.path.abspath(path) in row_of
        ],
        table,
    )
    missing = [(_missing_file(row, roots), row) for row in rows]
    without_row = [Item(path) for path in files if os.path.abspath(path) not in row_of]
    other = (
        ""
        if found.items
        else f"; its rows are of other files, the first of {table.parent / rows[0].path}"
    )
    notes += (
        [
            f"{len(without_row)} of {len(files)} files have no row in {table.name}, and are "
            f"measured without a prompt, the first is {without_row[0].path}{other}"
        ]
        if without_row
        else []
    )
    # The order of the files, whether or not they have a row, so that results are
    # reproducible.
    items = sorted([*found.items, *without_row], key=lambda item: files.index(item.path))
    return Found(
        items, _listed([(path, row) for path, row in missing if path], table).skipped, notes
    )


def _missing_file(row: Row, places: Sequence[Path]) -> Path | None:
    """Return where the file of a row was expected, or None if the row needs no note.

    None if the file exists, or if it would lie in an existing folder that is not among the
    sources: one manifest may serve several folders, and only some of them are measured now.
    """
    if any((place / row.path).exists() for place in places):
        return None
    home = Path(os.path.abspath(places[0] / row.path)).parent
    table, *sources = [Path(os.path.abspath(place)) for place in places]
    if any(home == place or place in home.parents for place in sources) or not home.is_dir():
        return places[0] / row.path
    # A table that lies in a folder without clips: its paths are relative to a source.
    return places[-1] / row.path if home == table else None


def _listed(pairs: Iterable[tuple[Path, Row]], table: Path) -> Found:
    """Return items of files and their rows; a file that does not exist is skipped with a note."""
    found = Found([])
    for path, row in sorted(pairs, key=lambda pair: str(pair[0])):
        if path.exists():
            reference = table.parent / row.reference if row.reference else None
            found.items.append(Item(path, row.prompt, row.seed, reference, row.meta))
        else:
            why = (
                f"missing: {table.name}, {row.where} names it, but the file does not "
                f"exist{_other_spelling(path)}"
            )
            found.skipped.append(
                {"path": str(path), "why": why, "prompt": row.prompt, "seed": row.seed}
            )
    return found


def _other_spelling(path: Path) -> str:
    """Return a hint if a file exists whose name differs only by letter case; else ""."""
    files = path.parent.iterdir() if path.parent.is_dir() else ()
    alike = [other.name for other in files if other.name.casefold() == path.name.casefold()]
    return f"; {alike[0]} exists, and differs by letter case" if alike else ""


# --- references -----------------------------------------------------------------------


def _with_references(found: Found, folder: Path) -> Found:
    """Give each clip the reference whose file stem is the clip's stem or the clip's prompt.

    VBench-I2V names its images after the prompt.
    """
    from vidrl.rewards.video import SUFFIXES

    if not folder.is_dir():
        raise NoClips(f"expected a folder of reference images or videos at {folder}, found none")
    by_stem = {
        path.stem: path
        # Reversed, so that of several files with one stem the first by name is kept.
        for path in sorted(folder.rglob("*"), reverse=True)
        if path.suffix.lower() in (*IMAGE_SUFFIXES, *SUFFIXES)
        and not _hidden(path.relative_to(folder))
    }
    items = [
        replace(
            item,
            reference=item.reference or by_stem.get(item.path.stem) or by_stem.get(item.prompt),
        )
        for item in found.items
    ]
    without = [item for item in items if item.reference is None]
    notes = [*found.notes]
    if without:
        notes.append(
            f"{len(without)} of {len(items)} clips have no reference in {folder}, the first "
            f"is {without[0].path}"
        )
    return replace(found, items=items, notes=notes)
