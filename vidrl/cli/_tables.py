"""Print rows as a rich table on a terminal, and as plain text everywhere else."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from ._terminal import console, printable


@dataclass
class Table:
    """A table that has a title, a header and rows of text."""

    # The head of each column; empty for a table without a header.
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    # The columns that hold numbers, which are aligned on the right.
    numbers: Collection[int] = ()
    # Lines of text below the table.
    notes: Sequence[str] = ()


def print_tables(tables: Sequence[Table], text: str) -> None:
    """Print the tables if standard output is a terminal, else the text.

    Without tables the text is printed on a terminal too.
    Pipes and files get the plain text, so that programs that read it do not depend on the
    width of a terminal.
    """
    if not (tables and sys.stdout.isatty()):
        print(text)
        return
    output = console(sys.stdout)
    for table in tables:
        if table.title:
            # as a line of text, because rich wraps a title to the width of its table
            output.print(_text(table.title, output.encoding), style="bold")
        output.print(_drawn(table, output.encoding))
        for note in table.notes:
            output.print(_text(note, output.encoding))


def _drawn(table: Table, encoding: str) -> Any:
    """Return the table as rich draws it."""
    from rich import box
    from rich.table import Table as RichTable

    drawn = RichTable(
        show_header=bool(table.header),
        box=box.SIMPLE_HEAD,
    )
    for i in range(max(map(len, [table.header, *table.rows]))):
        head = table.header[i] if table.header else ""
        # names in the first column stay on one line, the other columns share the rest
        drawn.add_column(head, justify="right" if i in table.numbers else "left", no_wrap=i == 0)
    for row in table.rows:
        drawn.add_row(*(_text(cell, encoding) for cell in row))
    return drawn


def _text(text: str, encoding: str) -> Any:
    """Return text in which rich does not look for markup."""
    from rich.text import Text

    return Text(printable(text, encoding))
