"""Read and write manifests: which prompt, seed and reference belong to which file.

A manifest is a table of the user's own, or VBench's list of prompts.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vidrl.bench.cache import write_atomic
from vidrl.rewards._files.manifests import Row, read_rows
from vidrl.rewards._files.spreadsheet_cells import escape_formula
from vidrl.rewards._files.tables import BadTable, read_text

__all__ = [
    "TABLE_NAMES",
    "BadManifest",
    "Row",
    "is_vbench_list",
    "prompts_from_names",
    "read",
    "vbench_list",
    "write",
]

BadManifest = BadTable  # a table of clips that cannot be used; the message names its place
read = read_rows

# Tables that are read if they lie in a folder of clips.
TABLE_NAMES = ("prompts.csv", "prompts.jsonl", "prompts.tsv", "prompts.json", "prompts.parquet")
NUMBERED = re.compile(r"(?P<prompt>.*\S)-(?P<seed>\d+)")  # VBench's `a dog runs-3.mp4`
NAMED_SHARE = 0.9  # of the files must follow VBench's names, else the pattern is coincidence
VBENCH = {"prompt_en", "dimension"}  # columns of VBench's list of prompts, which names no files


def is_vbench_list(path: str | os.PathLike[str]) -> bool:
    """Return whether a .json file is VBench's list of prompts, by its name or columns.

    Otherwise it is a table of clips. Raises BadManifest for a file that is not text.
    """
    path = Path(path)
    try:
        found = json.loads(read_text(path)) if path.suffix.lower() == ".json" else None
    except json.JSONDecodeError:
        return False
    first = found[0] if isinstance(found, list) and found else None
    return isinstance(first, dict) and ("vbench" in path.stem.lower() or VBENCH.issubset(first))


def vbench_list(path: str | os.PathLike[str]) -> dict[str, tuple[str, ...]]:
    """Read VBench_full_info.json: each prompt with the dims that VBench measures on it.

    Raises BadManifest for another file.
    """
    try:
        listed = json.loads(read_text(Path(path)))
        return {str(row["prompt_en"]): tuple(map(str, row["dimension"])) for row in listed}
    except (ValueError, KeyError, TypeError) as error:
        raise BadManifest(
            f"expected VBench's list in {path}, objects with prompt_en and dimension, but "
            f"{type(error).__name__}: {error}"
        ) from error


def prompts_from_names(stems: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Return prompt and number of each name that follows VBench's `prompt-0`.

    Empty unless nearly all names do so and their prompts have several words: `clip-0` is no
    prompt.

    >>> prompts_from_names(["a dog runs-0", "a dog runs-3"])["a dog runs-3"]
    ('a dog runs', 3)
    >>> prompts_from_names(["clip-0", "clip-1"])
    {}
    """
    matched = {stem: NUMBERED.fullmatch(stem) for stem in stems}
    found = {
        stem: (m["prompt"], int(m["seed"]))
        for stem, m in matched.items()
        if m and " " in m["prompt"].strip()
    }
    return found if stems and len(found) >= NAMED_SHARE * len(stems) else {}


def write(path: Path, listed: Sequence[Mapping[str, Any]]) -> None:
    """Write a CSV that `read` can read back, with the columns of all rows.

    Cells that a spreadsheet would run as a formula are escaped, see
    `vidrl.rewards._files.safe_cells`.
    """
    file, columns = io.StringIO(), dict.fromkeys(name for row in listed for name in row)
    table = csv.writer(file)
    table.writerow([escape_formula(name) for name in columns])
    table.writerows([escape_formula(row.get(name, "")) for name in columns] for row in listed)
    write_atomic(path, file.getvalue())
