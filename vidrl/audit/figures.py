"""Texts that the table, the page and the picture of an audit write for its numbers."""

from __future__ import annotations

from vidrl.audit.hacks import NEVER, Hack
from vidrl.report.charts import number


def change_text(change: float) -> str:
    """Return a change, in units of the noise, as a short text.

    Changes below ten have one decimal; NaN is a dash.

    >>> [change_text(change) for change in (-0.04, 2.34, -45.2, float("nan"))]
    ['0.0', '+2.3', '−45', '–']
    """
    if change != change:
        return "–"
    text = f"{change:+.0f}" if abs(change) >= 9.95 else f"{change:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def counts_from(hack: Hack) -> str:
    """Return from which strength on a hack counts: "always", a number or "never"."""
    if hack.counts_from == NEVER:
        return "never"
    return number(hack.counts_from) if hack.counts_from > 0 else "always"
