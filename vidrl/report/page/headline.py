"""What a reader must know before the numbers: weights that were put back, a run cut short,
measures that got worse."""

from __future__ import annotations

import re

from ..charts import decimals, places
from ..run_folder import Run

PUT_BACK = re.compile(r"weights of round (\d+) put back")


def warnings(run: Run) -> list[str]:
    """Plain sentences for the head of the page and for the terminal; empty if there is
    nothing to warn of.

    Example:
        >>> from vidrl.report.run_folder import Run
        >>> events = [{"round": 2, "kind": "rollback", "message": "weights of round 0 put back"}]
        >>> run = Run(events=events, evals=[{"round": 0}, {"round": 2}], metrics=[{"round": 2}])
        >>> print(*warnings(run), sep="\\n")
        At 1 of 1 evaluations a guard was broken and earlier weights were put back.
        The run keeps the weights of round 0, the model that it started from: nothing that it learned is kept.
    """
    return [*_put_back(run), *_cut_short(run), *_worse(run)]


def _put_back(run: Run) -> list[str]:
    found = [
        (row.get("round", 0), PUT_BACK.search(str(row.get("message", "")))) for row in run.events
    ]
    back = {round: int(match[1]) for round, match in found if match}
    if not back:
        return []
    looks = len({row["round"] for row in run.evals if row["round"] > 0} | set(back))
    told = [
        f"At {len(back)} of {looks} evaluations a guard was broken and earlier weights were put back."
    ]
    if max(back) < max((row["round"] for row in run.metrics), default=0):
        return told  # the run has trained on since
    kept = back[max(back)]
    origin = (
        ", the model that it started from: nothing that it learned is kept" if kept == 0 else ""
    )
    return [*told, f"The run keeps the weights of round {kept}{origin}."]


def _cut_short(run: Run) -> list[str]:
    wanted = run.config.get("train", {}).get("rounds", 0)
    done, status = run.summary.get("rounds", 0), run.summary.get("status", "")
    if not status or status == "running" or done >= wanted:
        return []
    return [f"The run ended after {done} of {wanted} rounds: {status}."]


def _worse(run: Run) -> list[str]:
    """The measures that got worse beyond doubt: their interval leaves out zero on the bad
    side."""
    made = []
    for name, row in run.held_out.items():
        # the headline reports the composite
        if run.change(name) == "worse" and name != "composite":
            digits = places(row["high"] - row["low"])
            change, low, high = (
                decimals(row[key], sign=True, places=digits)
                for key in ("difference", "low", "high")
            )
            share = (
                f" ({row['difference'] / abs(row['before']):+.0%})".replace("-", "−")
                if row["before"]
                else ""
            )
            made.append(
                f"{name} got worse beyond doubt: {change}{share}, 95 % interval {low} to {high}."
            )
    return made
