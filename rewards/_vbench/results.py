"""Read the result files that VBench's own tools write as scores of dimensions."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

LARGEST = 2**28  # bytes of one unpacked file; results of VBench's 4,700 clips need about a megabyte


def read_results(path: str | os.PathLike[str]) -> dict[str, float]:
    """Return {dimension: raw score} from the results of VBench, VBench-I2V or VBench-2.0.

    `path` is a file NAME_eval_results.json, `{dimension: [score, clips]}`; or a folder of
    such files; or the .zip file of such a folder that VBench's leaderboard takes. In a
    folder and in a .zip, the .json files at the top and one folder below count, as in
    VBench's scripts. Files and folders whose names begin with a point or with `__` are
    ignored, and so are lists such as NAME_full_info.json. Names are returned in small
    letters with underscores, as `totals`, `i2v_totals` and `vbench2_totals` take them. The
    leaderboard.json of `vidrl bench` has the same layout.

    Raises FileNotFoundError if there is no such path, and ValueError for a file of another
    layout, for a dimension that two files hold, and if there are no results at all.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp(), "ours_eval_results.json")
    >>> clips = [{"video_path": "a-0.mp4", "video_results": 0.75}]
    >>> _ = file.write_text(json.dumps({"Human_Anatomy": [0.75, clips]}))
    >>> read_results(file)
    {'human_anatomy': 0.75}
    """
    found: dict[str, float] = {}
    source: dict[str, str] = {}
    for name, text in _texts(Path(path)):
        for dimension, score in _scores(name, text).items():
            if dimension in found:
                raise ValueError(
                    f"expected each dimension in one file, but {source[dimension]} and {name} both "
                    "hold "
                    f"{dimension!r}: keep the results of one model in {path}"
                )
            found[dimension], source[dimension] = score, name
    if not found:
        raise ValueError(
            f"expected results of VBench in {path}, .json files of {{dimension: [score, clips]}}, "
            "found "
            "none"
        )
    return found


def _texts(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each .json file."""
    if path.is_dir():
        files = sorted(
            file for file in (*path.glob("*.json"), *path.glob("*/*.json")) if file.is_file()
        )
        yield from (
            (str(file), file.read_bytes())
            for file in files
            if _counts(file.relative_to(path).parts)
        )
    elif not path.exists():
        raise FileNotFoundError(f"expected VBench's results at {path}, found no file and no folder")
    elif zipfile.is_zipfile(path):
        yield from _packed(path)
    else:
        yield str(path), path.read_bytes()


def _packed(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the .json files of a .zip, read in memory; nothing is unpacked to the disk."""
    with zipfile.ZipFile(path) as archive:
        for one in sorted(archive.infolist(), key=lambda entry: entry.filename):
            if one.filename.endswith(".json") and _counts(PurePosixPath(one.filename).parts):
                if one.file_size > LARGEST:
                    raise ValueError(
                        f"expected a file of results below {LARGEST} bytes, got {one.file_size} "
                        "bytes of "
                        f"{one.filename} in {path}"
                    )
                yield f"{one.filename} in {path}", archive.read(one)


def _counts(parts: tuple[str, ...]) -> bool:
    """Return whether a file is at most one folder deep and not hidden."""
    return len(parts) <= 2 and not any(part.startswith((".", "__")) for part in parts)


def _scores(name: str, text: bytes) -> dict[str, float]:
    """Return the scores of one file; a list, such as NAME_full_info.json, has none."""
    try:
        data = json.loads(text)
    except ValueError as error:  # UnicodeDecodeError is a ValueError too
        raise ValueError(f"expected JSON in {name}: {error}") from error
    if isinstance(data, list):
        return {}
    if not isinstance(data, dict):
        raise ValueError(
            f"expected {{dimension: [score, clips]}} in {name}, got {type(data).__name__}"
        )
    scores: dict[str, float] = {}
    for key, entry in data.items():
        dimension = key.strip().lower().replace(" ", "_")
        if dimension in scores:
            raise ValueError(f"expected each dimension once, but {name} holds {dimension!r} twice")
        scores[dimension] = _score(name, key, entry)
    return scores


def _score(name: str, key: str, entry: Any) -> float:
    """Return the score of an entry [score, clips]; raise ValueError for another entry."""
    score = entry[0] if isinstance(entry, list) and entry else entry
    if not isinstance(entry, list) or not isinstance(score, (int, float)):
        raise ValueError(
            f"expected [score, clips] of {key!r} in {name}, got {str(entry)[:60]!r}: only files "
            "that "
            "VBench's tools wrote, NAME_eval_results.json, have results"
        )
    return float(score)
