"""A progress bar on standard error for commands that take long."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from ._terminal import console


def clip_progress(rows: Iterable[Any], total: int) -> Iterable[Any]:
    """Yield the rows, one for each clip, while a bar shows how many of `total` are done.

    The bar is drawn only if standard error is a terminal.
    """
    if not sys.stderr.isatty():
        yield from rows
        return
    from rich import progress

    columns = (
        progress.TextColumn("clips"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
    )
    # auto_refresh would start a thread, which is unsafe when the workers fork;
    # redirect_stdout would send standard output to standard error
    bar = progress.Progress(
        *columns,
        console=console(sys.stderr),
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    with bar:
        yield from bar.track(rows, total=total)
