"""Clips of a saved results file that must not be opened: it may be of a stranger, and name
any film of the reader.

A page that is made of such a file holds what its clips show. So a clip is opened only if
its bytes are those that were measured, and if it lies in a folder that the reader named,
which the folder of the results file is, or if this machine has measured it for that results
file. The same holds for the picture or film that a clip was made from.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vidrl.bench.cache import Hashes, file_stamp

OUTSIDE = "not opened: it lies outside the folder of its results file; name its folder with --clips"
CHANGED = "not opened: its bytes are not those that were measured"
GONE = "not opened: the file is not there"
UNSTATED = "not opened: the results do not state its bytes; measure the clips again"


def mark_closed(
    results: Mapping[str, Any], home: Path, folders: Iterable[str | os.PathLike[str]] = ()
) -> dict[str, Any]:
    """The results, every clip that must not be opened with the reason as its "closed".

    The reason against opening what a clip was made from is its "reference_closed". `home`
    is the folder of the results file, `folders` are those that the reader named beside it.
    """
    known, inside = Hashes(home / "cache"), [home, *map(Path, folders)]
    return {
        **results,
        "sets": [
            {**one, "clips": [_marked(clip, inside, known) for clip in one["clips"]]}
            for one in results["sets"]
        ],
    }


def closed_note(results: Mapping[str, Any]) -> str | None:
    """A sentence on the clips that are not opened; None where there are none."""
    found = [clip for one in results["sets"] for clip in one["clips"] if clip.get("closed")]
    if not found:
        return None
    return (
        f"clips of the saved results that the page shows no pictures of: {len(found)}, the "
        f"first is {found[0]['path']}: {found[0]['closed']}"
    )


def _marked(clip: Mapping[str, Any], inside: Sequence[Path], known: Hashes) -> dict[str, Any]:
    plain = {key: value for key, value in clip.items() if key not in ("closed", "reference_closed")}
    files = {"closed": ("path", "id"), "reference_closed": ("reference", "reference_id")}
    reasons = {
        mark: _reason_to_stay_closed(plain[path], plain.get(digest), inside, known)
        for mark, (path, digest) in files.items()
        if plain.get(path)
    }
    return plain | {mark: why for mark, why in reasons.items() if why}


def _reason_to_stay_closed(
    path: str, digest: str | None, inside: Sequence[Path], known: Hashes
) -> str | None:
    """The reason against opening a file whose hash the results state; None where there is
    none."""
    if not digest:
        return UNSTATED
    if _measured_here(path, digest, known):
        return None
    if not any(is_inside(path, folder) for folder in inside):
        return OUTSIDE
    try:
        return None if known.of(Path(path)) == digest else CHANGED
    except OSError:
        return GONE


def is_inside(path: str | os.PathLike[str], folder: Path) -> bool:
    """Whether a file lies in a folder, at any depth, by its name and, where links lead on,
    by where they lead.

    The name is looked at first: to follow the links of a path like \\\\server\\share would
    ask that server.
    """
    name = Path(os.path.abspath(path))
    by_name = any(
        name.is_relative_to(place) for place in (os.path.abspath(folder), folder.resolve())
    )
    return by_name and name.resolve().is_relative_to(folder.resolve())


def _measured_here(path: str, digest: str, known: Hashes) -> bool:
    """Whether the index beside the results file has this file as it is now, with the hash
    that the results state.

    Nobody else could have written that: the index holds the inode of the file and the time
    of its last change.
    """
    try:
        return known.remembered(Path(path)) == [digest, *file_stamp(path)]
    except (OSError, ValueError):
        return False
