"""Look up the least relevant difference of a dim, measured by lossless-looking re-encoding.

It is how much a re-encoding that nobody sees changes the dim's mean; a smaller difference
between two models is of no use to anybody. If one encoder wrote both sets, the change that
all clips share cancels in the difference of the sets, and only the deviation of the clips
from it counts.

benchmarks/suites/least_relevant.json holds the values by the hash of the dim, with the
command that measured them. A dim, or a dim with other options, that was never measured has
none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

FILE = "least_relevant.json"


def lookup(digest: str, alike: bool) -> float | None:
    """Return the least relevant difference of the dim with this hash, None if not measured.

    `alike`: both sets have one container, codec, pixel format and similar bits per pixel.
    The unit is the dim's.

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
