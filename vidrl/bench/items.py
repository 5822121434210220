"""What is to be measured: clips, what was asked for, and what they were made from."""

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
    """One clip to be measured. `seed` pairs clips of two models beside the prompt;
    `reference` is the image or video that it was made from; `meta` the other columns of the
    manifest."""

    path: Path
    prompt: str = ""
    seed: int | None = None
    reference: Path | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """The clips of one set, in order of path; what of its manifest is not there, with the
    reason; what to know."""

    items: list[Item]
    skipped: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class NoClips(ValueError):
    """A folder or file that holds nothing to measure."""


def find(
    sources: Sequence[str | os.PathLike[str]],
    table: str | os.PathLike[str] | None = None,
    references: str | os.PathLike[str] | None = None,
    stills: bool = False,
) -> Found:
    """The clips of folders and files, with their prompts, seeds and references.

    Prompts come from the manifest `table`, or from prompts.csv (.jsonl, .tsv, .json,
    .parquet) in the folder, or from names that follow VBench's `prompt-0.mp4`. Paths of a
    manifest are taken from its folder, or from the sources. Without sources all of the
    manifest is measured. A VBench_full_info.json says which dims are measured on which
    prompt. `references` is a folder of images or videos with the stems of the clips. Raises
    NoClips and manifest.BadManifest.
    """
    folders = [Path(source) for source in sources]
    listed = table is not None and not manifest.is_vbench_list(table)
    if listed or table is None:
        found = (
            _from_table(folders, Path(str(table)), stills)
            if listed
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
    """A note for the prompts that differ from another one by letter case or blanks alone.

    >>> near_equal_prompts_note(["a dog", "A  dog", "a cat"])
    ["prompts that differ by letter case or blanks alone count as different: 'A  dog', 'a dog'"]
    """
    spelled: dict[str, set[str]] = defaultdict(set)
    for prompt in prompts:
        spelled[" ".join(prompt.casefold().split())].add(prompt)
    alike = [sorted(ways) for _, ways in sorted(spelled.items()) if len(ways) > 1]
    return [
        f"prompts that differ by letter case or blanks alone count as different: {', '.join(map(repr, ways))}"
        for ways in alike
    ]


def clip_files(source: Path, stills: bool = False) -> tuple[list[Path], list[str]]:
    """The clips of a folder at any depth, as `vidrl score` finds them, or its images where
    it has none; and notes.

    Numbered pictures are one film, or, if `stills`, pictures. Raises NoClips.
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
    there = sorted(
        path
        for path in source.rglob("*")
        if path.is_file() and not _hidden(path.relative_to(source))
    )
    images = [path for path in there if path.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        raise NoClips(
            f"expected videos (.mp4, .webm, .mkv, .gif ...) or images in the folder {source}, found none"
            f"{_what_instead(there)}"
        )
    return images, []


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _what_instead(inside: list[Path]) -> str:
    endings = sorted({path.suffix.lower() or path.name for path in inside})
    return f" among {len(inside)} files ({', '.join(endings[:6])})" if inside else ""


# --- without a manifest
# ----------------------------------------------------------------------------------------------


def _from_folders(folders: Sequence[Path], stills: bool) -> Found:
    """The clips of each folder, with prompts from the table in it, else from VBench's file
    names, else none."""
    made = [_folder(folder, stills) for folder in folders]
    return Found(
        [item for part in made for item in part.items],
        [row for part in made for row in part.skipped],
        [note for part in made for note in part.notes],
    )


def _folder(folder: Path, stills: bool) -> Found:
    beside = [
        folder / name
        for name in manifest.TABLE_NAMES
        if folder.is_dir() and (folder / name).is_file()
    ]
    if beside:
        found = _from_table([folder], beside[0], stills)
        unread = [f"{path.name} beside it is not read" for path in beside[1:]]
        return replace(found, notes=[f"prompts are from {beside[0]}", *unread, *found.notes])
    paths, notes = clip_files(folder, stills)
    named = manifest.prompts_from_names([path.stem for path in paths])
    if not named:
        return Found([Item(path) for path in paths], notes=notes)
    items = [Item(path, *named.get(path.stem, ("", None))) for path in paths]
    return Found(items, notes=[*notes, *_about_names(folder, paths, named)])


def _about_names(
    folder: Path, paths: Sequence[Path], named: Mapping[str, tuple[str, int]]
) -> list[str]:
    notes = [f"{folder}: prompts and seeds are from names like VBench's, prompt-0.mp4"]
    others = [path for path in paths if path.stem not in named]
    if others:
        notes.append(
            f"{len(others)} of {len(paths)} names in {folder} are not, and have no prompt, the first is "
            f"{others[0].name}"
        )
    return notes


def _for_vbench(found: Found, table: Path) -> Found:
    """With the dims that VBench measures on each clip's prompt, in `meta`."""
    listed = manifest.vbench_list(table)
    items = [
        replace(item, meta={**item.meta, "vbench": listed[item.prompt]})
        if item.prompt in listed
        else item
        for item in found.items
    ]
    strange = [item for item in items if "vbench" not in item.meta]
    notes = (
        [
            f"{len(strange)} of {len(items)} clips have a prompt that {table.name} does not list, the first is "
            f"{strange[0].path}: all dims are measured on them"
        ]
        if strange
        else []
    )
    return replace(found, items=items, notes=[*found.notes, *notes])


# --- by a manifest
# ---------------------------------------------------------------------------------------------------


def _from_table(folders: Sequence[Path], table: Path, stills: bool) -> Found:
    """The files of the folders, each with its row; without folders, the files of the
    table."""
    notes: list[str] = []
    rows = manifest.read(table, lambda said: None if said in notes else notes.append(said))
    if not folders:
        return replace(
            _listed([(table.parent / row.path, row) for row in rows], table), notes=notes
        )
    there = [path for folder in folders for path in clip_files(folder, stills)[0]]
    places = [table.parent, *(folder for folder in folders if folder.is_dir())]
    row_of = {os.path.abspath(place / row.path): row for place in reversed(places) for row in rows}
    found = _listed(
        [
            (path, row_of[os.path.abspath(path)])
            for path in there
            if os.path.abspath(path) in row_of
        ],
        table,
    )
    lost = [(_missing_file(row, places), row) for row in rows]
    bare = [Item(path) for path in there if os.path.abspath(path) not in row_of]
    other = (
        ""
        if found.items
        else f"; its rows are of other files, the first of {table.parent / rows[0].path}"
    )
    notes += (
        [
            f"{len(bare)} of {len(there)} files have no row in {table.name}, and are measured without a prompt, the "
            f"first is {bare[0].path}{other}"
        ]
        if bare
        else []
    )
    items = sorted([*found.items, *bare], key=lambda item: there.index(item.path))
    return Found(items, _listed([(path, row) for path, row in lost if path], table).skipped, notes)


def _missing_file(row: Row, places: Sequence[Path]) -> Path | None:
    """Where the file of a row should be, if it is nowhere; one of a folder that is there
    but not given is another's."""
    if any((place / row.path).exists() for place in places):
        return None
    home = Path(os.path.abspath(places[0] / row.path)).parent
    table, *mine = [Path(os.path.abspath(place)) for place in places]
    if any(home == place or place in home.parents for place in mine) or not home.is_dir():
        return places[0] / row.path
    return places[-1] / row.path if home == table else None


def _listed(pairs: Iterable[tuple[Path, Row]], table: Path) -> Found:
    """Items of files and their rows; those that are not there are skipped."""
    found = Found([])
    for path, row in sorted(pairs, key=lambda pair: str(pair[0])):
        if path.exists():
            reference = table.parent / row.reference if row.reference else None
            found.items.append(Item(path, row.prompt, row.seed, reference, row.meta))
        else:
            why = f"missing: {table.name}, {row.where} names it, and it is not there{_other_spelling(path)}"
            found.skipped.append(
                {"path": str(path), "why": why, "prompt": row.prompt, "seed": row.seed}
            )
    return found


def _other_spelling(path: Path) -> str:
    """The name of a file that differs from this one by letter case alone, where there is
    one."""
    there = path.parent.iterdir() if path.parent.is_dir() else ()
    alike = [other.name for other in there if other.name.casefold() == path.name.casefold()]
    return f"; {alike[0]} is, and differs by letter case" if alike else ""


# --- references
# ------------------------------------------------------------------------------------------------------


def _with_references(found: Found, folder: Path) -> Found:
    """Each clip with the image or video in the folder of its stem, or named after its
    prompt as VBench-I2V does."""
    from vidrl.rewards.video import SUFFIXES

    if not folder.is_dir():
        raise NoClips(f"expected a folder of reference images or videos at {folder}, found none")
    by_stem = {
        path.stem: path
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
    bare = [item for item in items if item.reference is None]
    notes = [*found.notes]
    if bare:
        notes.append(
            f"{len(bare)} of {len(items)} clips have no reference in {folder}, the first is {bare[0].path}"
        )
    return replace(found, items=items, notes=notes)
