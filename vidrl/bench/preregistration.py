"""Hold what a user declares before measuring: the primary dim and the margins.

Such a declaration is worth something only if it is made before the numbers are known.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vidrl import plugin


@dataclass(frozen=True)
class Preregistration:
    """A primary dim, which is tested first, and margins by dim.

    Sets whose difference is within the margin of a dim are equivalent on it.
    """

    primary: str | None = None
    margins: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls, primary: str | None, margins: Iterable[str], dims: Sequence[str]
    ) -> Preregistration:
        """Return the declaration of a command line; margins are texts "DIM=VALUE".

        Raises ValueError for an unknown dim or a margin that is no number above 0.

        >>> Preregistration.of("flicker", ["drift=0.1"], ["flicker", "drift"])
        Preregistration(primary='flicker', margins={'drift': 0.1})
        >>> Preregistration.of(None, ["0.1"], ["drift"])
        Traceback (most recent call last):
        ValueError: expected --margin DIM=VALUE, as drift=0.01, got '0.1': each dim has its own unit
        """
        if primary is not None:
            _known(primary, dims, "--primary")
        return cls(
            primary,
            dict(
                _margin(word, dims)
                for text_of_margins in margins
                for word in text_of_margins.split(",")
                if word.strip()
            ),
        )

    def to_results(self) -> dict[str, Any]:
        """Return the entry "claims" of results.json, empty if nothing was declared."""
        return (
            {"claims": {"primary": self.primary, "margins": dict(self.margins)}}
            if self != Preregistration()
            else {}
        )


def _margin(word: str, dims: Sequence[str]) -> tuple[str, float]:
    """Return the dim and the value of one text DIM=VALUE."""
    name, sign, text = (part.strip() for part in word.partition("="))
    if not sign:
        raise ValueError(
            f"expected --margin DIM=VALUE, as {dims[0]}=0.01, got {word!r}: each dim has its "
            "own unit"
        )
    _known(name, dims, "--margin")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise ValueError(
            f"expected a number above 0 for --margin {name}, the largest difference that does "
            f"not matter, got {text!r}"
        )
    return name, value


def _known(name: str, dims: Sequence[str], option: str) -> None:
    """Raise ValueError if the name is none of the measured dims."""
    if name not in dims:
        raise ValueError(
            f"expected a measured dim for {option}, got {name!r}: {plugin.nearest(name, dims)}"
        )
