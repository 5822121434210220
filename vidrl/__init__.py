"""Align video generators by reinforcement learning with rewards that see time."""

from pathlib import Path as _Path

__version__ = "0.1.0"

# Git on Windows writes symbolic links as plain files; then imports would fail with an error
# that does not name the cause.
for _name in ("rewards", "benchmarks"):
    if not (_Path(__file__).parent / _name / "__init__.py").is_file():
        raise ImportError(
            f"vidrl/{_name} is not a folder: it is a symbolic link to ../{_name}, which this "
            "checkout holds as a plain file (as on Windows). Cure: `git config core.symlinks "
            "true && git checkout -- vidrl`, or install the wheel: `pip install WHEEL_FILE`"
        )
