"""Mark clips of a saved results file that must not be opened.

A results file may come from a stranger, and may name any file of the reader's machine. The
page that is made of the results would then show a private film. So a clip is opened only if
its bytes are those that were measured and it lies in a folder that the reader named, or in
the folder of the results file; or if this machine measured it for this results file. The
same holds for the picture or film that a clip was made from.
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
    """Return the results; a clip that must not be opened has the reason as its "closed".

    The reason against opening what a clip was made from is its "reference_closed". `home`
    is the folder of the results file; `folders` are further ones that the reader named.
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
    """Return a sentence on the clips that are not opened, None if there are none."""
    closed_clips = [clip for one in results["sets"] for clip in one["clips"] if clip.get("closed")]
    if not closed_clips:
        return None
    return (
        f"clips of the saved results that the page shows no pictures of: {len(closed_clips)}, the "
        f"first is {closed_clips[0]['path']}: {closed_clips[0]['closed']}"
    )


def _marked(clip: Mapping[str, Any], inside: Sequence[Path], known: Hashes) -> dict[str, Any]:
    """Return a clip with its reasons; marks that the file itself contains are removed."""
    unmarked = {
        key: value for key, value in clip.items() if key not in ("closed", "reference_closed")
    }
    files = {"closed": ("path", "id"), "reference_closed": ("reference", "reference_id")}
    reasons = {
        mark: _reason_to_stay_closed(unmarked[path], unmarked.get(digest), inside, known)
        for mark, (path, digest) in files.items()
        if unmarked.get(path)
    }
    return unmarked | {mark: why for mark, why in reasons.items() if why}


def _reason_to_stay_closed(
    path: str, digest: str | None, inside: Sequence[Path], known: Hashes
) -> str | None:
    """Return the reason against opening a file whose hash the results state, or None."""
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
    """Return whether a file lies in a folder at any depth, by its name and after links.

    The name is checked first: resolving the links of a path like \\\\server\\share would
    contact that server.
    """
    name = Path(os.path.abspath(path))
    by_name = any(
        name.is_relative_to(place) for place in (os.path.abspath(folder), folder.resolve())
    )
    return by_name and name.resolve().is_relative_to(folder.resolve())


def _measured_here(path: str, digest: str, known: Hashes) -> bool:
    """Return whether the index beside the results file knows this very file with this hash.

    A stranger could not have written the entry: the index holds the file's inode and the
    time of its last change on this machine.
    """
    try:
        return known.remembered(Path(path)) == [digest, *file_stamp(path)]
    except (OSError, ValueError):
        return False
