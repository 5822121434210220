"""How to install what an optional part of vidrl needs, as one command that works on this
machine."""

from __future__ import annotations

import shlex
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # of a checkout; of an installed wheel, site-packages


def install(extra: str, root: Path = ROOT) -> str:
    """The command that installs an extra of pyproject.toml: from the checkout, or by the
    names of its packages.

    vidrl is on no package index, so pip finds nothing by that name. Raises ValueError for
    an extra that an installed vidrl does not have.

    Example:
        >>> install("train", Path("nowhere"))[:30]
        "pip install 'diffusers>=0.38' "
    """
    if (root / "pyproject.toml").is_file():
        return f"pip install {shlex.quote(f'{root}[{extra}]')}"
    return f"pip install {' '.join(map(shlex.quote, packages(extra)))}"


def packages(extra: str, distribution: str = "vidrl") -> list[str]:
    """What an extra of an installed distribution requires, as pip reads it.

    Raises ValueError for an extra that the distribution does not have.

    Example:
        >>> packages("vmaf")
        ['imageio-ffmpeg>=0.6']
    """
    needs = [line.partition(";") for line in metadata.requires(distribution) or []]
    found = [name.strip() for name, _, marker in needs if _extra(marker) == extra]
    if not found:
        raise ValueError(f"expected an extra of {distribution}, got {extra!r}")
    return found


def _extra(marker: str) -> str:
    """The extra that a requirement's marker asks for: 'x' of `python_version > "3" and
    extra == "x"`."""
    return marker.partition("extra ==")[2].strip().strip("'\"")
