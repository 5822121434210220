"""The suite that was run on the policy between rounds: a curve a dim, marked where the dim
was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ..charts import Line, chart, number
from ..run_folder import Row, Run


def benched(run: Run) -> str:
    """The section; empty where no suite was run."""
    rows = [row for row in run.bench if row.get("dims")]
    if not rows:
        return ""
    cards = "".join(_card(name, rows) for name in rows[-1]["dims"])
    trained = any(row.get("trained") for row in rows)
    marked = " †: also a training reward, so that its rise says little." if trained else ""
    count = escape(str(rows[-1].get("n", 0)))
    return (
        f'<section><h2>The suite {escape(str(rows[-1].get("suite", "")))} on the way</h2><p class="note">'
        f"{count} held-out clips a look, the same noise each time. Shaded: 95 % intervals. "
        f'bench/ holds every clip and number.{marked}</p><div class="grid">{cards}</div>{_failed(run)}</section>'
    )


def _card(name: str, rows: Sequence[Row]) -> str:
    mean, low, high = (
        [row["dims"].get(name, {}).get(key) for row in rows] for key in ("mean", "low", "high")
    )
    if all(value is None for value in mean):
        return ""
    title = name + (" †" if name in rows[-1].get("trained", []) else "")
    line = Line(name, [row["round"] for row in rows], mean, low=low, high=high, dots=True)
    head = f'<div class="head2"><h3>{escape(title)}</h3><span>{number(mean[-1])}</span></div>'
    return f'<div class="card">{head}{chart([line], axis="round", title=title)}</div>'


def _failed(run: Run) -> str:
    told = [f"round {row['round']}: {row['why']}" for row in run.bench if row.get("why")]
    return f'<p class="note">Not measured: {escape("; ".join(told))}</p>' if told else ""
