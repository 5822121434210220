"""Find which clips may be compared: those of one prompt, or of one file name, across folders."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from vidrl.lookup.grammar import counted
from vidrl.rewards._files import manifests
from vidrl.rewards._files.finding import clips_in

# tables of a folder that say which prompt a clip was made from, in the order of preference
TABLES = ("prompts.csv", "prompts.jsonl", "metadata.jsonl", "metadata.csv", "metadata.parquet")


class NothingToCompare(ValueError):
    """Folders of which no two clips can be compared."""


@dataclass(frozen=True)
class Clip:
    """A clip of a set: its file or folder of pictures, and its prompt.

    `home` is the folder that was named, outside which nothing is read. `reference` names the
    picture that the clip was made from, "" without one.
    """

    path: Path
    prompt: str
    home: Path
    reference: str = ""

    @property
    def asked(self) -> tuple[str, ...]:
        """Return what the model was asked for, by which clips are compared; () without a prompt."""
        return (self.prompt, self.reference) if self.prompt else ()


@dataclass(frozen=True)
class ClipSet:
    """The clips that are judged, and which of them may be compared.

    `groups` holds the places of the clips that share a prompt or a name. `pairs` are the pairs
    within the groups, of two different folders where there are several folders.
    """

    clips: tuple[Clip, ...]
    groups: tuple[tuple[int, ...], ...]
    pairs: tuple[tuple[int, int], ...]
    notes: list[str] = field(default_factory=list)

    def prompt(self, clips: Sequence[int]) -> str:
        """Return the prompt of clips of one group, "" without one."""
        return next((self.clips[clip].prompt for clip in clips if self.clips[clip].prompt), "")


def read(folders: Sequence[str | os.PathLike[str]], mode: str = "pairs") -> ClipSet:
    """Read the clips of folders, and find which of them may be compared.

    Clips are grouped by the prompts and references of a table in their folder (`prompts.csv`, as
    `vidrl sample` writes, or `metadata.jsonl`); without prompts by their file names. One folder
    alone is compared within each prompt. Links are followed, and a clip whose file lies outside
    its folder is left out. `notes` says which clips are shown in no item of this mode. Raises
    NothingToCompare where no pair is found, or no clip for points.

    >>> import tempfile
    >>> home = Path(tempfile.mkdtemp())
    >>> for name in ("base", "ours"):
    ...     (home / name).mkdir()
    ...     _ = (home / name / "dog.mp4").write_bytes(b"")
    >>> found = read([home / "base", home / "ours"])
    >>> found.pairs, [clip.home.name for clip in found.clips]
    (((0, 1),), ['base', 'ours'])
    """
    _check_folders(folders)
    notes: list[str] = []
    clips = [clip for folder in folders for clip in _clips_of(Path(folder), notes)]
    by_prompt = _share_prompts(clips)
    keys = [clip.asked if by_prompt else _name(clip) for clip in clips]
    groups = _groups(keys)
    apart = len({clip.home for clip in clips}) > 1
    pairs = [
        pair
        for group in groups
        for pair in combinations(group, 2)
        if not apart or clips[pair[0]].home != clips[pair[1]].home
    ]
    found = ClipSet(tuple(clips), tuple(groups), tuple(pairs), notes)
    _check(found, folders, mode)
    notes += _never_shown(found, keys, mode)
    return found


def _never_shown(found: ClipSet, keys: Sequence[Hashable], mode: str) -> list[str]:
    """Say which clips are in no item: those without a prompt, and those without a partner."""
    shown = {place for group in items(found, mode) for item in group for place in item}
    left = [place for place in range(len(keys)) if place not in shown]
    unasked = [found.clips[place].path for place in left if not keys[place]]
    alone = [found.clips[place].path for place in left if keys[place]]
    cure = "write each prompt to the column prompt of prompts.csv in the clip's folder"
    why = {f"clips without a prompt are not shown, such as {{}}: {cure}": unasked}
    why |= {"clips that no other clip can be compared with are not shown, such as {}": alone}
    return [counted(len(paths), words).format(paths[0]) for words, paths in why.items() if paths]


def items(
    found: ClipSet, mode: str, rank: int = 4, seed: int = 0
) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Return what is shown at one time, by prompt: pairs, single clips, or clips to be ranked.

    A ranking has up to `rank` clips of one prompt; more clips are divided at random.

    >>> clips = tuple(Clip(Path(name), "a dog", Path(".")) for name in "abcde")
    >>> five = ClipSet(clips, ((0, 1, 2, 3, 4),), ((0, 1),))
    >>> items(five, "pairs"), [len(item) for item in items(five, "ranking", 3)[0]]
    ((((0, 1),),), [3, 2])
    """
    if mode == "points":
        return tuple(tuple((clip,) for clip in group) for group in found.groups)
    if mode == "ranking":
        return tuple(_rankings(group, rank, seed) for group in found.groups if len(group) > 1)
    inside = [{*group} for group in found.groups]
    grouped = (tuple(pair for pair in found.pairs if pair[0] in group) for group in inside)
    return tuple(filter(None, grouped))


def _rankings(group: tuple[int, ...], rank: int, seed: int) -> tuple[tuple[int, ...], ...]:
    """Divide the clips of a group into rankings of equal size, at least two clips each."""
    mixed = random.Random(seed).sample(group, len(group))
    count = max(1, min(math.ceil(len(group) / rank), len(group) // 2))
    return tuple(tuple(sorted(mixed[start::count])) for start in range(count))


def _check_folders(folders: Sequence[str | os.PathLike[str]]) -> None:
    """Raise an error for a path that is no folder, or a folder that is named twice."""
    if not folders:
        raise NothingToCompare("expected at least one folder of clips, got none")
    for folder in map(Path, folders):
        if not folder.is_dir():
            what = "a file" if folder.exists() else "nothing"
            raise FileNotFoundError(f"expected a folder of clips, found {what} at {folder}")
    real = [Path(folder).resolve() for folder in folders]
    if len(set(real)) < len(real):
        raise NothingToCompare("expected different folders of clips, got one of them twice")


def _clips_of(folder: Path, notes: list[str]) -> list[Clip]:
    """Return the clips of a folder with the prompts of its table."""
    home = folder.resolve()
    table = next((home / name for name in TABLES if (home / name).is_file()), None)
    prompts = manifests.read_prompts(table, notes.append) if table else {}
    by_path = prompts if isinstance(prompts, dict) else {}
    sources = _references(table) if by_path and table else {}
    found = []
    for path in clips_in(home):
        if path.resolve().is_relative_to(home):
            found.append(Clip(path, by_path.get(path, ""), home, sources.get(path, "")))
        else:
            notes.append(f"left out: {path} is a link that leads out of {folder}")
    if not found:
        raise NothingToCompare(f"expected clips in {folder}, found none")
    return found


def _references(table: Path) -> dict[Path, str]:
    """Return what each clip of a table was made from, by the clip's path."""
    rows = manifests.read_rows(table)
    return {Path(os.path.abspath(table.parent / row.path)): row.reference for row in rows}


def _share_prompts(clips: Sequence[Clip]) -> bool:
    """Return whether two clips have the same prompt and reference."""
    asked = [clip.asked for clip in clips if clip.asked]
    return len(set(asked)) < len(asked)


def _name(clip: Clip) -> str:
    """Return a clip's path below its folder, without the suffix."""
    return clip.path.relative_to(clip.home).with_suffix("").as_posix()


def _groups(keys: Sequence[Hashable]) -> list[tuple[int, ...]]:
    """Return the places of equal keys, in the order in which the keys appear."""
    found: dict[Hashable, list[int]] = {}
    for place, key in enumerate(keys):
        if key:
            found.setdefault(key, []).append(place)
    return [tuple(places) for places in found.values()]


def _check(found: ClipSet, folders: Sequence[str | os.PathLike[str]], mode: str) -> None:
    """Raise NothingToCompare for a set without a pair, which points do not need."""
    if mode == "points" or found.pairs:
        return
    names = ", ".join(map(str, folders))
    if len(found.clips) == 1:
        raise NothingToCompare(
            f"expected at least two clips, got one, {found.clips[0].path}: name a second folder"
        )
    if len(folders) == 1:
        raise NothingToCompare(
            f"expected clips that share a prompt in {names}, found none among "
            f"{len(found.clips)} clips: name a second folder, or write the table prompts.csv with "
            "the columns path and prompt"
        )
    raise NothingToCompare(
        f"expected clips of {names} that share a prompt or a file name, found none among "
        f"{len(found.clips)} clips: give files of one prompt the same name in each folder, or "
        "write the table prompts.csv with the columns path and prompt into each folder"
    )
