"""What every command is declared with."""

from __future__ import annotations

import argparse
from typing import Any


def parser(make: Any, about: str, *names: str, **options: Any) -> argparse.ArgumentParser:
    """A parser whose description is printed as it is written."""
    return make(
        *names, description=about, formatter_class=argparse.RawDescriptionHelpFormatter, **options
    )


def command(commands: Any, name: str, about: str, brief: str, run: Any) -> argparse.ArgumentParser:
    """A command by name, what it is about, in brief, and the function that runs it."""
    made = parser(commands.add_parser, about, name, help=brief)
    made.set_defaults(run=run)
    return made
