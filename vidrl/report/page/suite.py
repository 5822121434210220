"""The suite that was measured between rounds: one curve a dim, marked if it is a reward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..charts import Line, chart, number
from ..run_folder import Row, Run


def suite_section(run: Run) -> dict[str, Any] | None:
    """Return the data of the section; None where no suite was measured."""
    rows = [row for row in run.bench if row.get("dims")]
    if not rows:
        return None
    failed = [f"round {row['round']}: {row['why']}" for row in run.bench if row.get("why")]
    cards = [_card(name, rows) for name in rows[-1]["dims"]]
    return {
        "name": rows[-1].get("suite", ""),
        "count": rows[-1].get("n", 0),
        "trained": any(row.get("trained") for row in rows),
        "cards": [card for card in cards if card],
        "failed": "; ".join(failed),
    }


def _card(name: str, rows: Sequence[Row]) -> dict[str, Any] | None:
    """Return the curve of one dim; None where no measurement has a value."""

    def column(key: str) -> list[Any]:
        return [row["dims"].get(name, {}).get(key) for row in rows]

    mean = column("mean")
    if all(value is None for value in mean):
        return None
    title = name + (" †" if name in rows[-1].get("trained", []) else "")
    rounds = [row["round"] for row in rows]
    line = Line(name, rounds, mean, low=column("low"), high=column("high"), dots=True)
    drawn = chart([line], axis="round", title=title)
    return {"title": title, "value": number(mean[-1]), "chart": drawn}
