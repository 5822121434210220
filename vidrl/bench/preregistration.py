"""What a person says before clips are measured: the dim that counts first, and differences
too small to matter."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vidrl import plugin


@dataclass(frozen=True)
class Preregistration:
    """`primary` is the dim that is tested first; `margins` are differences, by dim, up to
    which sets are equivalent."""

    primary: str | None = None
    margins: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls, primary: str | None, margins: Iterable[str], dims: Sequence[str]
    ) -> Preregistration:
        """From the words of a command line, "DIM=VALUE" of each margin. Raises ValueError
        where they are not sound.

        >>> Preregistration.of("flicker", ["drift=0.1"], ["flicker", "drift"])
        Preregistration(primary='flicker', margins={'drift': 0.1})
        >>> Preregistration.of(None, ["0.1"], ["drift"])
        Traceback (most recent call last):
        ValueError: expected --margin DIM=VALUE, as drift=0.01, got '0.1': each dim has a unit of its own
        """
        if primary is not None:
            _known(primary, dims, "--primary")
        return cls(
            primary,
            dict(
                _margin(word, dims) for said in margins for word in said.split(",") if word.strip()
            ),
        )

    def to_results(self) -> dict[str, Any]:
        """As results.json has them; empty where nothing was said."""
        return (
            {"claims": {"primary": self.primary, "margins": dict(self.margins)}}
            if self != Preregistration()
            else {}
        )


def _margin(word: str, dims: Sequence[str]) -> tuple[str, float]:
    name, sign, text = (part.strip() for part in word.partition("="))
    if not sign:
        raise ValueError(
            f"expected --margin DIM=VALUE, as {dims[0]}=0.01, got {word!r}: each dim has a "
            "unit of its own"
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
    if name not in dims:
        raise ValueError(
            f"expected a measured dim for {option}, got {name!r}: {plugin.nearest(name, dims)}"
        )
