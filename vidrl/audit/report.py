"""The report of an audit: its results, with a table for the terminal."""

from __future__ import annotations

from dataclasses import dataclass

from vidrl.audit.results import Check, Null, Pair, Results, Row, Values, finite
from vidrl.audit.table import table

__all__ = ["Check", "Null", "Pair", "Report", "Row", "Values", "finite"]


@dataclass
class Report(Results):
    """The audit of one reward: read `outcome`, `wins`, `rows`, `checks` or print `table()`."""

    def table(self) -> str:
        """Return the audit as text, one line a hack."""
        return table(self)
