"""Write what a loop did as loop.md: answers, reward, training and guards of each round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vidrl.feedback.loop_measures import of_people
from vidrl.feedback.loop_plan import Plan, answered, asks_again
from vidrl.lookup.grammar import counted
from vidrl.report import run_report
from vidrl.rewards._files.atomic_file import write_bytes
from vidrl.training import checkpoint

Row = Mapping[str, Any]
HEAD = """\
# People's choices, round by round

Each round asks people about pairs of clips, fits a reward to all answers so far, and trains the
policy of the round before on this reward. An interval in brackets holds 95 %.
"""


def write(plan: Plan, rounds: Mapping[int, Row]) -> str:
    """Write loop.md from what was measured after each round, and return its text."""
    parts = [HEAD, *(_round(plan, number, row) for number, row in sorted(rounds.items()))]
    text = "\n".join(parts)
    write_bytes(plan.out / "loop.md", text.encode())
    return text


def verdict(plan: Plan, number: int, row: Row) -> str:
    """Return the sentence that says whether further labels are asked for, and why."""
    before, after = (100 * row[f"unfamiliar_{when}"] for when in ("before", "after"))
    limit = f"{100 * plan.unfamiliar:.0f} points"
    shares = (
        f"{after:.0f} % of the clips after the training are unlike the labelled clips, "
        f"{before:.0f} % of those before it"
    )
    if not asks_again(plan, row):
        return (
            f"{shares}, a rise of at most {limit}: the policy has not left the labelled clips, and "
            "no further labels are needed."
        )
    if plan.unfamiliar < 0:
        return f"{shares}. With --unfamiliar {plan.unfamiliar:g}, labels are asked for in any case."
    more = "the next round asks" if number < plan.rounds else "a round more (--rounds) would ask"
    return (
        f"{shares}, a rise of more than {limit}: more values of the reward are guesses, and {more} "
        "about these clips."
    )


def _round(plan: Plan, number: int, row: Row) -> str:
    """Return the section of a round."""
    people = of_people(plan, number)
    lines = [
        f"## Round {number}\n",
        f"- {counted(answered(plan, number), 'answers')} of this round; reward: "
        f"[rewards/{number}](rewards/{number}/README.md); run: "
        f"[runs/{number}](runs/{number}/report.html)",
        f"- The raters' model expects that the clip after the training wins "
        f"{share(row['wins'])} of the pairs of one noise.",
        f"- {verdict(plan, number, row)}",
    ]
    if checkpoint.summary(plan.run(number)).get("status") == "guard":
        lines.append(
            "- A guard ended the training of this round early; the page of the run says why."
        )
    if people and people["agreement"]["n"]:
        lines += [
            f"- People preferred the clip after the training in {share(people['wins'])} of the "
            "pairs that were drawn at random.",
            f"- The reward of this round, which saw none of these choices, agrees with "
            f"{share(people['agreement'])} of them.",
        ]
    return "\n".join([*lines, "", *_guards(plan, number), ""])


def share(row: Row) -> str:
    """Return a share in percent with its interval.

    >>> share({"mean": 0.5, "low": 0.25, "high": 0.75, "n": 8})
    '50 % [25, 75]'
    >>> share({"mean": None, "low": None, "high": None, "n": 0, "why": "no pairs"})
    'an unknown share (no pairs)'
    """
    if row["mean"] is None:
        return f"an unknown share ({row['why']})"
    known = row["low"] is not None and row["high"] is not None
    ends = f" [{100 * row['low']:.0f}, {100 * row['high']:.0f}]" if known else ""
    return f"{100 * row['mean']:.0f} %{ends}"


def _guards(plan: Plan, number: int) -> list[str]:
    """Return the run's table of held-out measures before and after as Markdown."""
    rows, notes = run_report.before_after(plan.run(number))
    if not rows:
        return ["The run has no table of held-out measures."]
    head = ["| " + " | ".join(run_report.HEADER) + " |", "|---|---:|---:|---:|---|---|"]
    return [
        *head,
        *("| " + " | ".join(row) + " |" for row in rows),
        *(["", *notes] if notes else []),
    ]
