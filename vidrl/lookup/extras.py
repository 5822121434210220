"""Give the command that installs the packages of an optional part of vidrl."""

from __future__ import annotations

import shlex
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # the checkout, or site-packages for a wheel


def install(extra: str, root: Path = ROOT) -> str:
    """Return the command that installs an extra of pyproject.toml on this machine.

    A checkout is installed by its path, an installed wheel by the names of the extra's
    packages, because vidrl is on no package index. Raises ValueError for an extra that the
    installed vidrl does not have.

    Example:
        >>> install("train", Path("nowhere"))[:30]
        "pip install 'diffusers>=0.38' "
    """
    if (root / "pyproject.toml").is_file():
        return f"pip install {shlex.quote(f'{root}[{extra}]')}"
    return f"pip install {' '.join(map(shlex.quote, packages(extra)))}"


def packages(extra: str, distribution: str = "vidrl") -> list[str]:
    """Return the requirements of an extra of an installed distribution, as pip reads them.

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
    """Return the extra in a marker: 'x' for `python_version > "3" and extra == "x"`."""
    return marker.partition("extra ==")[2].strip().strip("'\"")
