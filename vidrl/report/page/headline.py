"""What a reader must know before the numbers: restored weights, a short run, worse measures."""

from __future__ import annotations

import re

from ..charts import decimals, places
from ..run_folder import Row, Run

# as the guard of the training loop writes it into events.jsonl
PUT_BACK = re.compile(r"weights of round (\d+) put back")


def warnings(run: Run) -> list[str]:
    """Return sentences for the head of the page and for the terminal, or an empty list.

    Example:
        >>> from vidrl.report.run_folder import Run
        >>> events = [{"round": 2, "kind": "rollback", "message": "weights of round 0 put back"}]
        >>> run = Run(events=events, evals=[{"round": 0}, {"round": 2}], metrics=[{"round": 2}])
        >>> print(*warnings(run), sep="\\n")
        At 1 of 1 evaluations a guard was broken and earlier weights were put back.
        The run keeps the weights of round 0, the model that it started from: nothing that it
        learned is kept.
    """
    return [*_put_back(run), *_cut_short(run), *_worse(run)]


def _put_back(run: Run) -> list[str]:
    """Say how often a guard restored earlier weights, and which weights the run ends with."""
    found = [
        (row.get("round", 0), PUT_BACK.search(str(row.get("message", "")))) for row in run.events
    ]
    restored = {round: int(match[1]) for round, match in found if match}
    if not restored:
        return []
    # an evaluation that restored weights may be missing in evals.jsonl
    evaluations = len({row["round"] for row in run.evals if row["round"] > 0} | set(restored))
    said = (
        f"At {len(restored)} of {evaluations} evaluations a guard was broken and earlier weights "
        "were put back."
    )
    if max(restored) < max((row["round"] for row in run.metrics), default=0):
        return [said]  # the run was trained further since
    kept = restored[max(restored)]
    origin = (
        ", the model that it started from: nothing that it learned is kept" if kept == 0 else ""
    )
    return [said, f"The run keeps the weights of round {kept}{origin}."]


def _cut_short(run: Run) -> list[str]:
    """Say that a run ended before the last round of its recipe."""
    wanted = run.config.get("train", {}).get("rounds", 0)
    done, status = run.summary.get("rounds", 0), run.summary.get("status", "")
    if not status or status == "running" or done >= wanted:
        return []
    return [f"The run ended after {done} of {wanted} rounds: {status}."]


def _worse(run: Run) -> list[str]:
    """Name the measures that got worse beyond doubt: their interval does not contain zero."""
    return [
        _worsened(name, row)
        for name, row in run.held_out.items()
        # the sentence under the title reports the composite
        if run.change(name) == "worse" and name != "composite"
    ]


def _worsened(name: str, row: Row) -> str:
    digits = places(row["high"] - row["low"])
    change, low, high = (
        decimals(row[key], sign=True, places=digits) for key in ("difference", "low", "high")
    )
    percent = ""
    if row["before"]:
        percent = f" ({row['difference'] / abs(row['before']):+.0%})".replace("-", "−")
    return f"{name} got worse beyond doubt: {change}{percent}, 95 % interval {low} to {high}."
