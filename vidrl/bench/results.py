"""Assemble, load, merge and write results.json."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from vidrl.bench import compare, duplicates, least_relevant, schema
from vidrl.bench.cache import write_atomic
from vidrl.bench.fairness import have_same_format, unfair_differences
from vidrl.bench.notes import observations
from vidrl.bench.preregistration import Preregistration
from vidrl.bench.suite import Suite
from vidrl.bench.untrusted_clips import mark_closed

FORMAT = 1
MAX_BYTES = 2**31  # a larger file is refused before it is read into memory
FILE = "results.json"
Results = dict[str, Any]
SKIPPED_FIELDS = ("path", "why", "prompt", "seed")  # fields of a clip that could not be read
KEYS = ("suite", "protocol", "versions", "dims", "sets")


class BadResults(ValueError):
    """A file that is no valid results.json."""


def measured_set(
    name: str,
    source: str,
    rows: Sequence[Mapping[str, Any]],
    skipped: Iterable[Mapping[str, Any]] = (),
    model: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return a set of results.json from the rows of `measure.run`.

    Rows without a value are files that could not be read, and go to "skipped".
    """
    clips = [dict(row) for row in rows if "value" in row]
    unread = [
        {key: row.get(key) for key in SKIPPED_FIELDS}
        for row in [*skipped, *rows]
        if "value" not in row
    ]
    return {
        "name": name,
        "source": source,
        "model": dict(model) if model else None,
        "clips": clips,
        "skipped": unread,
    }


def assemble(
    sets: Sequence[dict[str, Any]],
    suite: Suite,
    command: str = "",
    notes: Sequence[str] = (),
    trained: Iterable[str] = (),
    claims: Preregistration | None = None,
) -> Results:
    """Return results.json of measured sets, with summaries, comparisons and totals.

    `trained` names the dims that a model was trained on; they are marked †. `claims` holds
    what was declared before measuring: the primary dim, and margins.
    """
    trained_names = set(trained)
    results: Results = {
        "format": FORMAT,
        "made": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "command": command,
        "suite": {
            "name": suite.name,
            "version": suite.version,
            "about": suite.about,
            "least": suite.least,
        },
        "protocol": suite.protocol.to_dict(),
        "versions": versions(),
        "dims": [dim.to_dict(trained=dim.name in trained_names) for dim in suite.dims],
        "sets": list(sets),
        "distances": [],
        "notes": list(dict.fromkeys([*notes, *observations(sets, suite.protocol)])),
    }
    return with_statistics(results, claims)


def with_statistics(results: Results, claims: Preregistration | None = None) -> Results:
    """Add everything that is computed from the clips to the results.

    "summary" has means and intervals of each set, "comparisons" the differences of sets,
    "totals" VBench's totals, "breakdown" means by kind of prompt. "fairness" lists what
    makes a comparison of the sets unfair, for example different frame rates; its sentences
    are also among the "notes". Each dim gets "relevant", its least relevant difference.
    """
    from vidrl.bench.breakdown import with_breakdown
    from vidrl.bench.totals import totals

    sets, least = results["sets"], results["suite"]["least"]
    same_format = have_same_format(sets)
    dims = [
        {**dim, "relevant": least_relevant.lookup(dim["hash"], same_format)}
        for dim in results["dims"]
    ]
    unfairness = unfair_differences(sets)
    summary = {one["name"]: _summaries(one, dims, least) for one in sets}
    preregistered = claims or Preregistration()
    pairs = compare.compare_all(sets, dims, least, preregistered.primary, preregistered.margins)
    totals_of = {one["name"]: totals(dims, one["clips"]) for one in sets}
    return with_breakdown(
        {
            **results,
            "dims": dims,
            "fairness": unfairness,
            "notes": list(dict.fromkeys([*unfairness, *results["notes"]])),
            "summary": summary,
            "comparisons": pairs,
            "totals": {name: row for name, row in totals_of.items() if row},
            **preregistered.to_results(),
        }
    )


def _summaries(
    one: Mapping[str, Any], dims: Sequence[Mapping[str, Any]], least: int
) -> dict[str, Any]:
    """Return the summary of a set on each dim, with duplicates counted once."""
    from vidrl.bench.statistics import summary

    clips = duplicates.without_duplicates(one["clips"])
    prompts = duplicates.group_names(clips)
    return {
        dim["name"]: summary(
            [clip["value"].get(dim["name"]) for clip in clips], prompts, least, tuple(dim["range"])
        )
        for dim in dims
    }


def versions() -> dict[str, str]:
    """Return the versions of the libraries that compute the numbers."""
    import cv2
    import numpy
    import torch

    from vidrl import __version__

    return {
        "vidrl": __version__,
        "torch": torch.__version__,
        "opencv": cv2.__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
    }


# --- earlier results ------------------------------------------------------------------


def load(path: str | os.PathLike[str], folders: Iterable[str | os.PathLike[str]] = ()) -> Results:
    """Load a saved results.json, or the one in a folder, after checking every field.

    A clip outside the folder of the file and outside all `folders` is marked "closed": no
    page opens it, see `vidrl.bench.untrusted_clips`. Raises BadResults, which names the
    wrong field.
    """
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise ValueError(f"it has {size:,} bytes, more than {MAX_BYTES:,}")
        found = schema.parsed(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BadResults(f"expected results of vidrl bench at {path}, but {error}") from error
    missing = [key for key in KEYS if not (isinstance(found, dict) and key in found)]
    if missing or found.get("format") != FORMAT:
        raise BadResults(
            f"expected results of vidrl bench, format {FORMAT}, in {path}; it lacks "
            f"{', '.join(missing) or 'that format'}: measure the clips again"
        )
    try:
        schema.RESULTS(found, "")
    except schema.BadField as error:
        raise BadResults(
            f"expected results of vidrl bench in {path}, but {error}: measure the clips again"
        ) from error
    return mark_closed(found, path.parent, folders)


def merge(
    several: Sequence[Results],
    names: Sequence[str] = (),
    dims: Sequence[str] = (),
    command: str = "",
    primary: str | None = None,
    margins: Iterable[str] = (),
) -> Results:
    """Merge saved results into one and compare their sets, without measuring again.

    The dims are those that all results have, or those of `dims`; `names` are new names of
    the sets, in order. `primary` and `margins` are as of `Preregistration.of`. Raises
    ValueError if numbers cannot be compared, see `compare.shared_dims`, or if there are not
    as many names as sets.
    """
    several = [_with_dims(one, dims) for one in several]
    first, notes = several[0], [note for one in several for note in one.get("notes", [])]
    for other in several[1:]:
        common = compare.shared_dims(first, other)
        left_out = [
            dim["name"]
            for one in (first, other)
            for dim in one["dims"]
            if dim["name"] not in common
        ]
        notes += (
            [f"not in all results, and left out: {', '.join(dict.fromkeys(left_out))}"]
            if left_out
            else []
        )
        notes += _version_note(first, other)
        first, several = _with_dims(first, common), [_with_dims(one, common) for one in several]
    sets = _named([one for part in several for one in part["sets"]], names)
    made = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    trained = {dim["name"] for one in several for dim in one["dims"] if dim["trained"]}
    dim_rows = [{**dim, "trained": dim["name"] in trained} for dim in first["dims"]]
    # Summaries, comparisons and totals belong to the single files, and are computed again.
    common_fields = {key: first[key] for key in ("format", *KEYS)}
    return with_statistics(
        {
            **common_fields,
            "made": made,
            "command": command,
            "dims": dim_rows,
            "sets": sets,
            "distances": [],
            "notes": list(dict.fromkeys(notes)),
        },
        Preregistration.of(primary, margins, [dim["name"] for dim in dim_rows]),
    )


def _with_dims(results: Results, dims: Sequence[str]) -> Results:
    """Return the results with these dims alone. Raises ValueError for a dim that they lack."""
    if not dims:
        return results
    known = {dim["name"]: dim for dim in results["dims"]}
    absent = [name for name in dims if name not in known]
    if absent:
        raise ValueError(
            f"expected every dim of {', '.join(dims)}, but {absent[0]} is not among the results' "
            f"{', '.join(known)}"
        )
    return {**results, "dims": [known[name] for name in dims]}


def _version_note(first: Results, other: Results) -> list[str]:
    """Return a note if the two results were made by different versions of a library."""
    changed = [
        f"{name} {version} and {other['versions'].get(name)}"
        for name, version in first["versions"].items()
        if version != other["versions"].get(name)
    ]
    return [f"the results were made by other versions: {', '.join(changed)}"] if changed else []


def _named(sets: Sequence[dict[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    if names and len(names) != len(sets):
        raise ValueError(
            f"expected {len(sets)} names, one a set, got {len(names)}: {', '.join(names)}"
        )
    given = list(names) or distinct_names([one["name"] for one in sets])
    if len(set(given)) < len(given):
        raise ValueError(f"expected names that differ, got {', '.join(given)}")
    return [{**one, "name": name} for one, name in zip(sets, given, strict=True)]


def distinct_names(names: Sequence[str]) -> list[str]:
    """Make names distinct: repeated names get a number.

    >>> distinct_names(["videos", "videos", "base"])
    ['videos', 'videos-2', 'base']
    """
    found: list[str] = []
    for name in names:
        numbered = (f"{name}-{i}" if i > 1 else name for i in range(1, len(names) + 2))
        found.append(next(one for one in numbered if one not in found))
    return found


def write(results: Results, out: str | os.PathLike[str]) -> Path:
    """Write results.json into a folder: strict JSON, whole or not at all."""
    path = Path(out) / FILE
    write_atomic(path, json.dumps(results, ensure_ascii=False, allow_nan=False, indent=1) + "\n")
    return path


class ScoreCounts(NamedTuple):
    """Counts of what was and was not scored.

    `clips` have at least one number; `unscored` and `inapplicable` count missing numbers (a
    fault, or a dim without meaning for the clip); `skipped` counts clips that could not be
    read.
    """

    clips: int
    unscored: int
    inapplicable: int
    skipped: int


def count_scores(results: Results) -> ScoreCounts:
    """Count scored clips, missing numbers and skipped clips."""
    clips = [clip for one in results["sets"] for clip in one["clips"]]
    with_number = sum(any(_is_scored(value) for value in clip["value"].values()) for clip in clips)
    reasons = [
        str(clip["why"].get(name))
        for clip in clips
        for name, x in clip["value"].items()
        if not _is_scored(x)
    ]
    inapplicable = sum(reason.startswith("inapplicable") for reason in reasons)
    return ScoreCounts(
        with_number,
        len(reasons) - inapplicable,
        inapplicable,
        sum(len(one["skipped"]) for one in results["sets"]),
    )


def _is_scored(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
