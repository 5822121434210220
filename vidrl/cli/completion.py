"""vidrl completion: the completion script of a shell."""

from __future__ import annotations

import argparse
from typing import Any

from ._declare import command

COMPLETION = """\
The completion script of a shell: commands, options and files.

  vidrl completion bash > ~/.local/share/bash-completion/completions/vidrl
  vidrl completion zsh > ~/.zfunc/_vidrl        # with fpath+=~/.zfunc before compinit in ~/.zshrc
  vidrl completion tcsh > ~/.vidrl.completion   # and `source ~/.vidrl.completion` in ~/.tcshrc
"""


def declare(commands: Any) -> None:
    """Declare the command `completion`."""
    about = "the completion script of a shell"
    created = command(commands, "completion", COMPLETION, about, _completion)
    created.add_argument("shell", choices=["bash", "zsh", "tcsh"], help="the shell")


def _completion(args: argparse.Namespace) -> int:
    import shtab

    print(shtab.complete(args.reader, shell=args.shell))
    return 0
