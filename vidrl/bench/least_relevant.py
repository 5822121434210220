"""The least relevant difference of a dimension: how much a visually lossless re-encoding
changes it.

Where one encoder wrote both sets, the change that all clips share cancels in the sets'
difference, and what counts is how far clips deviate from it.

benchmarks/suites/least_relevant.json holds them by the hash of the dimension, with the
command that measured them. A dimension that was never measured so, or with other options,
has none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

FILE = "least_relevant.json"


def lookup(digest: str, alike: bool) -> float | None:
    """The least relevant difference of the dimension with this hash, in its own units; None
    where there is none.

    `alike`: the sets were written alike (container, codec, pixel format and bits of a
    pixel).

    >>> lookup("no such dimension", alike=True) is None
    True
    """
    found = _measured().get(digest)
    return None if found is None else float(found["alike" if alike else "least"])


@cache
def _measured() -> Mapping[str, Any]:
    import vidrl.benchmarks

    path = Path(vidrl.benchmarks.__file__).parent / "suites" / FILE
    return json.loads(path.read_text(encoding="utf-8"))["dims"] if path.is_file() else {}
