"""Choose the folder of the results of a call without --out: no other results are replaced."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from vidrl.bench.results import FILE
from vidrl.bench.suite import Suite
from vidrl.lookup.passwords import hidden

# of what results are: the sets, the suite, and the dims with the digest of what defines them
About = dict[str, Any]


def about(results: Mapping[str, Any]) -> About:
    """Return of what results are, in the form in which two results are compared."""
    return {
        "sets": [[one["name"], one["source"], one["model"]] for one in results["sets"]],
        "suite": results["suite"]["name"],
        "dims": [[dim["name"], dim["hash"]] for dim in results["dims"]],
    }


def planned(sets: Sequence[Mapping[str, Any]], suite: Suite) -> About:
    """Return of what the results of these sets on a suite will be.

    Each set has "name", "source" and "model", as in results.json.
    """
    dims = [dim.to_dict(trained=False) for dim in suite.dims]
    return about({"sets": sets, "suite": {"name": suite.name}, "dims": dims})


def usual(names: Sequence[str]) -> Path:
    """Return the folder of a call without --out, by the names of its sets.

    Only characters that every file system allows are in its name.

    Example:
        >>> usual(["base", "my clips"]).as_posix()
        'runs/bench-base-vs-my-clips'
    """
    name = re.sub(r"[^\w.-]+", "-", "-vs-".join(names)).strip("-.")[:80]
    return Path(f"runs/bench-{name or 'clips'}")


def of_preferences(file: str) -> Path:
    """Return the folder of a call without --out that reads preferences from a file or a store.

    Example:
        >>> of_preferences("postgresql://ann:secret@host").as_posix()
        'runs/bench-ann-host'
    """
    return usual([Path(hidden(file)).stem])


def choose(base: Path, wanted: About) -> Path:
    """Return a folder beside `base`, or `base` itself, without results of anything else.

    A repeated call gets the folder of the earlier one. Where `base` holds other results, it is
    `base` with a number, and a line on standard error says so.

    Example:
        >>> choose(Path("no/folder"), {"sets": [], "suite": "temporal", "dims": []}).name
        'folder'
    """
    return _first_free(base, FILE, lambda found: about(found) == wanted, "clips or other dims")


def of_command(base: Path, file: str, command: str) -> Path:
    """Return a folder beside `base`, or `base` itself, whose `file` no other command wrote.

    `file` is the name of a JSON file that holds its command. A repeated command gets the folder
    of the earlier one.

    Example:
        >>> of_command(Path("no/folder"), "bench_meta.json", "vidrl bench --meta").name
        'folder'
    """
    return _first_free(base, file, lambda found: found["command"] == command, "commands")


def _first_free(base: Path, file: str, same: Callable[[Any], bool], others: str) -> Path:
    """Return the first folder, `base` or `base` with a number, without other results."""
    named = (base if n == 1 else base.with_name(f"{base.name}-{n}") for n in count(1))
    found = next(folder for folder in named if _free(folder / file, same))
    if found != base:
        print(
            f"vidrl: {base} holds the results of other {others}, so that these are "
            f"written into {found}; --out names a folder of your own",
            file=sys.stderr,
        )
    return found


def _free(file: Path, same: Callable[[Any], bool]) -> bool:
    """Return whether there is no such file of results, or one of the same work."""
    if not file.exists():
        return True
    try:
        return same(json.loads(file.read_bytes()))
    except (OSError, ValueError, LookupError, TypeError):
        return False  # damaged, or of another version: it stays as it is
