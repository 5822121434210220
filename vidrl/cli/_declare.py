"""Helpers that declare a command, its options and the ranges of their numbers."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any


def parser(create: Any, about: str, *names: str, **options: Any) -> argparse.ArgumentParser:
    """Return a parser whose description is printed with its own line breaks.

    `create` is `argparse.ArgumentParser` or the `add_parser` of a group of commands.
    """
    keep_lines = argparse.RawDescriptionHelpFormatter
    return create(*names, description=about, formatter_class=keep_lines, **options)


def command(commands: Any, name: str, about: str, brief: str, run: Any) -> argparse.ArgumentParser:
    """Add a command and return its parser.

    `about` is the text of `vidrl NAME --help`, `brief` its line in `vidrl --help`, and `run`
    the function that takes the parsed arguments and returns the exit status.
    """
    command_parser = parser(commands.add_parser, about, name, help=brief)
    command_parser.set_defaults(run=run)
    return command_parser


def add_recipe(command_parser: argparse.ArgumentParser, example: str = "train.rounds=5") -> None:
    """Add the recipe and the changes of its values to a command."""
    command_parser.add_argument(
        "recipe", metavar="RECIPE", help="a recipe: a TOML file, such as those in scripts/recipes"
    )
    command_parser.add_argument(
        "overrides",
        metavar="KEY=VALUE",
        nargs="*",
        help=f"replace a value of the recipe, for example {example}",
    )


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return a function that reads a whole number from `least` to `most` for argparse.

    Example:
        >>> whole_number(1)("20")
        20
        >>> whole_number(1)("-1")
        Traceback (most recent call last):
        argparse.ArgumentTypeError: expected a whole number of at least 1, got '-1'
    """
    bounds = f"of at least {least}" if most is None else f"from {least} to {most}"

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1  # refused below with the same message
        if value < least or (most is not None and value > most):
            raise argparse.ArgumentTypeError(f"expected a whole number {bounds}, got {text!r}")
        return value

    return read


def number(least: float, exclusive: bool = False) -> Callable[[str], float]:
    """Return a function that reads a finite number of at least `least` for argparse.

    With `exclusive` the number must be greater than `least`.

    Example:
        >>> number(0)("2.5")
        2.5
        >>> number(0, exclusive=True)("0")
        Traceback (most recent call last):
        argparse.ArgumentTypeError: expected a number greater than 0, got '0'
    """
    bounds = f"{'greater than' if exclusive else 'of at least'} {least:g}"

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        # a NaN fails every comparison, so that it is refused too
        if not (least < value or (value == least and not exclusive)) or value == float("inf"):
            raise argparse.ArgumentTypeError(f"expected a number {bounds}, got {text!r}")
        return value

    return read


def new_folder(text: str) -> str:
    """Check for argparse that a folder can be written at a path, and return the path."""
    if Path(text).exists() and not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"expected a folder, got the file {text}: name a folder")
    return text


def new_file(text: str) -> str:
    """Check for argparse that a file can be written at a path, and return the path."""
    if Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"expected a file, got the folder {text}: name a file")
    if not Path(text).parent.is_dir():
        raise argparse.ArgumentTypeError(
            f"expected a folder for the file {text}, found none at {Path(text).parent}: create it"
        )
    return text


def device(text: str) -> str:
    """Check for argparse that a text names a device as torch does, and return the text."""
    if text in ("", "cpu"):  # the defaults need no import of torch
        return text
    import torch

    try:
        torch.device(text)
    except RuntimeError:
        raise argparse.ArgumentTypeError(
            f"expected a device such as cpu, cuda or cuda:1, got {text!r}"
        ) from None
    return text


def check_device(name: str) -> None:
    """Raise ValueError if a CUDA device is named and torch finds no GPU on this machine."""
    if not name.startswith("cuda"):
        return
    import torch

    if not torch.cuda.is_available():
        raise ValueError(
            f"expected a --device of this machine, got {name}, but torch finds no GPU: use cpu"
        )
