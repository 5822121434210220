"""Defines the command `vidrl completion`, which prints a completion script for a shell."""

from __future__ import annotations

import argparse
from typing import Any

from ._declare import command

COMPLETION = """\
Print a script that lets your shell complete vidrl's commands, options and file names.

  vidrl completion bash > ~/.local/share/bash-completion/completions/vidrl
  vidrl completion zsh > ~/.zfunc/_vidrl        # with fpath+=~/.zfunc before compinit in ~/.zshrc
  vidrl completion tcsh > ~/.vidrl.completion   # and `source ~/.vidrl.completion` in ~/.tcshrc
"""


def declare(commands: Any) -> None:
    """Declare the command `completion`."""
    brief = "print a completion script for your shell"
    completion = command(commands, "completion", COMPLETION, brief, _completion)
    completion.add_argument("shell", choices=["bash", "zsh", "tcsh"], help="the shell that you use")


def _completion(args: argparse.Namespace) -> int:
    import shtab

    print(shtab.complete(args.reader, shell=args.shell))
    return 0
