"""What is to be measured: clips, what was asked for, and what they were made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Item:
    """One clip to be measured. `seed` pairs clips of two models beside the prompt; `reference` is the image or video
    that it was made from; `meta` the other columns of the manifest."""

    path: Path
    prompt: str = ""
    seed: int | None = None
    reference: Path | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
