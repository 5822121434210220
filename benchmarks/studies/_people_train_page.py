"""Write the page of the study people_train from its ledger."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from _people_train_labels import RATER, TASTE, Size
from _people_train_plot import picture
from _people_train_runs import ARMS, FEW, HELD_OUT, LONG

from vidrl.inference.flips import sign_flip_p
from vidrl.inference.means import Interval, interval

Rows = Sequence[dict[str, Any]]
GUARDS = ("verifier", "identity", "diversity")
COURSES = {"fitted": "fitted reward", "true": "true utility", "verifier": "verifier"}
TRAINED = ("fitted", "true", "default", "permuted", "dpo", "kto")
PAIRED = (
    ("fitted", "permuted"),
    ("fitted", "default"),
    ("true", "fitted"),
    ("fitted", "dpo"),
    ("fitted", "kto"),
)


def gain(row: dict[str, Any], measure: str = "true") -> float:
    """Return how much a measure rose from the first to the last evaluation of a run.

    >>> gain({"measures": {"true": [1.0, 1.5, 3.0]}})
    2.0
    """
    values = row["measures"][measure]
    return float(values[-1] - values[0])


def of(rows: Rows, arm: str) -> list[dict[str, Any]]:
    """Return the runs of an arm, in the order of their seeds."""
    return sorted((row for row in rows if row["arm"] == arm), key=lambda row: row["seed"])


def differences(rows: Rows, first: str, second: str) -> list[float]:
    """Return the gain of the first arm less that of the second, for each seed that both have.

    >>> runs = [("x", 0, 3.0), ("y", 0, 1.0), ("x", 1, 5.0)]
    >>> rows = [{"arm": a, "seed": s, "measures": {"true": [0.0, v]}} for a, s, v in runs]
    >>> differences(rows, "x", "y")
    [2.0]
    """
    gains = [{row["seed"]: gain(row) for row in of(rows, arm)} for arm in (first, second)]
    return [gains[0][seed] - gains[1][seed] for seed in sorted(gains[0].keys() & gains[1].keys())]


def peak(row: dict[str, Any]) -> tuple[int, float]:
    """Return the round of the highest true utility, and how far it fell from there to the end.

    >>> peak({"rounds": [0, 4, 8], "measures": {"true": [1.0, 2.0, 1.5]}})
    (4, 0.5)
    """
    values = row["measures"]["true"]
    best = max(range(len(values)), key=values.__getitem__)
    return row["rounds"][best], float(values[best] - values[-1])


def page(
    rows: Rows, fits: Rows, spreads: Sequence[tuple[float, float]], commit: str
) -> tuple[str, str]:
    """Return the page as Markdown, and its picture as SVG.

    `spreads` holds, for each seed, the standard deviation of the true utility among the base
    model's clips of one prompt, and how far the best of these clips is above their mean.
    """
    head = HEAD.format(
        taste=", ".join(f"{weight:g} {name}" for name, weight in TASTE.items() if weight),
        size=Size(),
        rater=RATER,
        commit=commit,
        rounds=of(rows, "fitted")[0]["rounds"][-1],
        prompts=HELD_OUT,
        fits=_fits(fits),
        gains=_gains(rows),
        paired=_paired(rows),
        room=_room(spreads),
    )
    over = {"few": FEW, "long": LONG, "over": _over(rows)}
    parts = [
        head,
        OVER.format(**over) if of(rows, "few") else "",
        DIRECT.format(direct=_direct(rows)) if of(rows, "dpo") else "",
        END.format(words=words(rows), missing=_missing(rows)),
    ]
    return "".join(parts), picture(rows)


HEAD = """\
# Train on a reward that was fitted to simulated raters

A simulated rater of known utility compares clips of the embedded model (assets/tiny-wan-32). A
reward is fitted to the answers as `vidrl fit` does it, and the model is trained on the reward by
DiffusionNFT (scripts/recipes/tiny_taste.toml, {rounds} rounds, no guard acts). The measure is the
true utility of one clip of each of {prompts} held-out prompts, with the same noise before and
after: neither the labels nor the training have these prompts.

`python benchmarks/studies/people_train.py run --out runs/people_train`, then
`python benchmarks/studies/people_train.py page --out runs/people_train`; commit: {commit}.

Every seed has its own {size.prompts} prompts with {size.each} clips each, its own {size.labels}
random pairs, answers, fit and training; all arms of a seed share clips, pairs and answers. The
utility is {taste}, in the units of `vidrl.feedback.simulated_raters`: the rater likes fast motion
that is smooth. A gap of utility is divided by the rater's temperature, {rater.temperature:g}, to
get the logits of the choice. The rater likes the clip shown first by {rater.side:g} logits, and
answers {rater.lapse:.0%} of the pairs at random. Brackets hold 95 % intervals over seeds.

{room}

![gains, and the course of long runs](people_train.svg)

## The fits

Agreement is the cross-validated share of the decided choices on prompts that the fit has not seen;
"above chance" counts the fits whose whole 95 % interval over prompts is above 50 %.

{fits}

## Does training on the fitted reward move the model towards the taste?

{gains}

Paired differences of the gain in true utility:

{paired}
"""
OVER = """
## Over-optimisation

With {few} labels and {long} times the rounds, of four prompts each; `caution = 1` lowers the reward
of each clip by one standard deviation of what the labels leave open. The fitted reward is in its
own unit, and for `caution = 1` is what is left after the caution; the verifier is the share of
captions that are read right.

{over}
"""
DIRECT = """
## From the pairs at once, or by way of a reward

`dpo` and `kto` read the store itself (`data.pairs = "taste.db"`) and sample no clips; the reward is
fitted to the same answers. CPU seconds are those of the training without labels, fit and
evaluation.

{direct}
"""
END = """
## What the numbers say

{words}

## What was looked at before, and how many trials there were

The settings were chosen on the clips and the runs of seed 0, which is among the seeds above; the
tables show each seed, so that it can be left out.

- The taste: the spread of some twenty utilities within prompts, and how well the features predict
  them, on six clips of 64 prompts. Of the utilities that the features predict well, this one is
  among the two that correlate least with the default composite within prompts (0.59).
- The rater: with temperature 1 and 200 labels, the fit agreed with 59 % of the held-out choices,
  where one who knows the utility agrees with 68 %. So the temperature became 0.5, with 300 labels.
- The training: one run of `fitted` and four of `true`, with learning rates of 2e-3, 3e-3 and
  6e-3, 4 and 8 updates a round, and beta 0.1 and 0.05. `true` gained 0.33 to 0.42, `fitted` 0.18.
- DPO on the store (`data.pairs`): two runs of 20 rounds with learning rates of 3e-3 and 1e-3. The
  true utility changed by -0.12 and -0.07. KTO and the long runs had no trial.
{missing}"""


def _room(spreads: Sequence[tuple[float, float]]) -> str:
    """Return the head-room in the base model's clips, as a sentence."""
    spread, best = (sum(column) / len(spreads) for column in zip(*spreads, strict=True))
    return (
        f"The room: among the base model's clips of one prompt the true utility has a standard\n"
        f"deviation of {spread:.2f}, and the best of {Size().each} is {best:.2f} above their mean."
    )


def _missing(rows: Rows) -> str:
    """Return a line on the arms that have no run yet; empty where all have."""
    names = [f"`{arm}` ({ARMS[arm].about})" for arm in ARMS if not of(rows, arm)]
    return f"- Not run yet: {', '.join(names)}.\n" if names else ""


def words(rows: Rows) -> str:
    """Return what the tables say, computed from them."""
    lines = [_about(rows, arm) for arm in TRAINED if of(rows, arm)]
    for first, second in PAIRED:
        gaps = differences(rows, first, second)
        if len(gaps) > 1:
            more = sum(gap > 0 for gap in gaps)
            lines.append(
                f"`{first}` gains more than `{second}` in {more} of {len(gaps)} pairs: "
                f"{shown(interval(gaps))}."
            )
    for arm in ("few", "cautious"):
        runs = of(rows, arm)
        if runs:
            fell = sum(peak(row)[1] > 0 for row in runs)
            rises = sum(gain(row, "fitted") > 0 for row in runs)
            lines.append(
                f"`{arm}`: from the first to the last round the fitted reward rose in {rises} of "
                f"{len(runs)} runs, the true utility in {sum(gain(row) > 0 for row in runs)}; the "
                f"true utility was highest before the last round in {fell}."
            )
    return "\n".join(f"- {line}" for line in lines)


def _about(rows: Rows, arm: str) -> str:
    """Return in how many seeds an arm gained, and its mean gain."""
    gains = [gain(row) for row in of(rows, arm)]
    rose = sum(value > 0 for value in gains)
    found = shown(interval(gains))
    return f"`{arm}`, {ARMS[arm].about}: {found}; it rose in {rose} of {len(gains)} seeds."


def _fits(fits: Rows) -> str:
    lines = ["| fit | seeds | agreement | each seed | above chance |", "|---|---|---|---|---|"]
    for name in dict.fromkeys(row["fit"] for row in fits):
        found = [row for row in fits if row["fit"] == name]
        values = [row["agreement"] for row in found]
        each = ", ".join(f"{100 * value:.0f}" for value in values)
        mean, above = 100 * sum(values) / len(values), sum(row["low"] > 0.5 for row in found)
        lines.append(f"| {name} | {len(values)} | {mean:.1f} % | {each} | {above} |")
    return "\n".join(lines)


def _gains(rows: Rows) -> str:
    lines = [
        "| arm | trained on | seeds | true utility | gain of each seed | "
        + " | ".join(f"{name}, change" for name in GUARDS)
        + " |",
        "|---|---|---|---|---|" + "---|" * len(GUARDS),
    ]
    for arm in TRAINED:
        runs = of(rows, arm)
        if not runs:
            continue
        start = sum(row["measures"]["true"][0] for row in runs) / len(runs)
        each = ", ".join(f"{gain(row):+.2f}" for row in runs)
        guards = [shown(interval([gain(row, name) for row in runs]), 3) for name in GUARDS]
        change = shown(interval([gain(row) for row in runs]))
        lines.append(
            f"| {arm} | {ARMS[arm].about} | {len(runs)} | from {start:.2f} by {change} | {each} | "
            f"{' | '.join(guards)} |"
        )
    return "\n".join(lines)


def _paired(rows: Rows) -> str:
    lines = ["| difference | pairs | mean | p of a sign-flip test |", "|---|---|---|---|"]
    for first, second in PAIRED:
        found = differences(rows, first, second)
        if len(found) > 1:
            p = sign_flip_p(found)
            lines.append(
                f"| {first} less {second} | {len(found)} | {shown(interval(found))} | {p:.3f} |"
            )
    return "\n".join(lines)


def _over(rows: Rows) -> str:
    """Return the course of each long run: three rows for each of them."""
    runs = [row for arm in ("few", "cautious") for row in of(rows, arm)]
    numbers = runs[0]["rounds"] if runs else []
    rounds = " | ".join(f"round {number}" for number in numbers)
    lines = [f"| arm | seed | measure | {rounds} |", "|---|---|---|" + "---|" * len(numbers)]
    for row in runs:
        for name, about in COURSES.items():
            cells = " | ".join(f"{value:.2f}" for value in row["measures"][name])
            lines.append(f"| {row['arm']} | {row['seed']} | {about} | {cells} |")
    return "\n".join(lines)


def _direct(rows: Rows) -> str:
    lines = [
        "| way | seeds | gain in true utility | gain of each seed | CPU seconds |",
        "|---|---|---|---|---|",
    ]
    for arm in ("fitted", "dpo", "kto"):
        runs = of(rows, arm)
        if runs:
            seconds = sum(row["train_cpu"] for row in runs) / len(runs)
            change = shown(interval([gain(row) for row in runs]))
            each = ", ".join(f"{gain(row):+.2f}" for row in runs)
            lines.append(f"| {ARMS[arm].about} | {len(runs)} | {change} | {each} | {seconds:.0f} |")
    return "\n".join(lines)


def shown(found: Interval, digits: int = 2) -> str:
    """Return a mean with its interval as text; without an interval for few values.

    >>> shown(interval([1.0, 2.0]))
    '+1.50'
    """
    ends = "" if math.isnan(found.low) else f" [{found.low:+.{digits}f}, {found.high:+.{digits}f}]"
    return f"{found.mean:+.{digits}f}{ends}"
