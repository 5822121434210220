"""The least relevant difference of a dimension: what re-encoding clips, so that nobody sees a change, does to it.

benchmarks/suites/least_relevant.json holds them by the hash of the dimension, with the command that measured them. A
dimension that was never measured so, or with other options, has none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

FILE = "least_relevant.json"


def least(digest: str) -> float | None:
    """The least relevant difference of the dimension with this hash, in its own units; None where there is none.

    >>> least("no such dimension") is None
    True
    """
    found = _measured().get(digest)
    return None if found is None else float(found["least"])


@cache
def _measured() -> Mapping[str, Any]:
    import vidrl.benchmarks

    path = Path(vidrl.benchmarks.__file__).parent / "suites" / FILE
    return json.loads(path.read_text(encoding="utf-8"))["dims"] if path.is_file() else {}
