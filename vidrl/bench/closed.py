"""Clips of a saved results file that must not be opened: it may be of a stranger, and name any film of the reader.

A page that is made of such a file holds what its clips show. So a clip is opened only if its bytes are those that were
measured, and if it lies in a folder that the reader named, which the folder of the results file is, or if this machine
has measured it for that results file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vidrl.bench.cache import Hashes, stamp

OUTSIDE = "not opened: it lies outside the folder of its results file; name its folder with --clips"
CHANGED = "not opened: its bytes are not those that were measured"
GONE = "not opened: the file is not there"


def closed(results: Mapping[str, Any], home: Path, folders: Iterable[str | os.PathLike[str]] = ()) -> dict[str, Any]:
    """The results, every clip that must not be opened with the reason as its "closed".

    `home` is the folder of the results file, `folders` are those that the reader named beside it.
    """
    known, inside = Hashes(home / "cache"), [home, *map(Path, folders)]
    return {**results, "sets": [{**one, "clips": [_marked(clip, inside, known) for clip in one["clips"]]}
                                for one in results["sets"]]}


def about(results: Mapping[str, Any]) -> str | None:
    """A sentence on the clips that are not opened; None where there are none."""
    found = [clip for one in results["sets"] for clip in one["clips"] if clip.get("closed")]
    if not found:
        return None
    return (f"clips of the saved results that the page shows no pictures of: {len(found)}, the first is "
            f"{found[0]['path']}: {found[0]['closed']}")


def _marked(clip: Mapping[str, Any], inside: Sequence[Path], known: Hashes) -> dict[str, Any]:
    plain = {key: value for key, value in clip.items() if key != "closed"}
    why = None if _measured_here(plain, known) else _why(plain, inside, known)
    return {**plain, "closed": why} if why else plain


def _why(clip: Mapping[str, Any], inside: Sequence[Path], known: Hashes) -> str | None:
    """The reason against opening a clip; None where there is none."""
    if not any(lies_in(clip["path"], folder) for folder in inside):
        return OUTSIDE
    try:
        return None if known.of(Path(clip["path"])) == clip["id"] else CHANGED
    except OSError:
        return GONE


def lies_in(path: str | os.PathLike[str], folder: Path) -> bool:
    """Whether a file lies in a folder, at any depth, by its name and, where links lead on, by where they lead.

    The name is looked at first: to follow the links of a path like \\\\server\\share would ask that server.
    """
    name = Path(os.path.abspath(path))
    by_name = any(name.is_relative_to(place) for place in (os.path.abspath(folder), folder.resolve()))
    return by_name and name.resolve().is_relative_to(folder.resolve())


def _measured_here(clip: Mapping[str, Any], known: Hashes) -> bool:
    """Whether the index beside the results file has this file as it is now, with the hash that the results state.

    Nobody else could have written that: the index holds the inode of the file and the time of its last change.
    """
    try:
        return known.remembered(Path(clip["path"])) == [clip["id"], *stamp(clip["path"])]
    except (OSError, ValueError):
        return False
